"""What several runs of one command came to, in one file: all.json beside their run directories.

A summary only: every number is in the runs' own result.json, and nothing here is computed that is not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import IntegrityError
from ..files import read_json, write_json
from .schema import Result, Verdict
from .story import Answer, tell

SCHEMA = "sixgig.all/1"
FILE_NAME = "all.json"

Status = Literal["complete", "refused", "failed", "interrupted", "begun", "waiting"]
STATUS_WORDS: dict[Status, str] = {
    "complete": "complete",
    "refused": "refused before anything was loaded",
    "failed": "failed",
    "interrupted": "interrupted",
    "begun": "begun and not finished",
    "waiting": "not begun",
}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Criterion(_Record):
    """A verdict that counts and was not met, or could not be decided."""

    criterion: str
    arm: str
    threshold: str
    value: float | None


class Part(_Record):
    """One experiment. `folder` is its run directory's name; `reason` says why it is not complete.

    The counts are of the verdicts that decide its answer; `num_undecided` includes what was not measured.
    """

    experiment: str
    status: Status
    folder: str | None = None
    reason: str = ""
    exit_status: int | None = None
    answer: Answer | None = None
    headline: str = ""
    num_met: int = Field(default=0, ge=0)
    num_failed: int = Field(default=0, ge=0)
    num_undecided: int = Field(default=0, ge=0)
    failed: list[Criterion] = []
    undecided: list[Criterion] = []
    seconds: float | None = None
    measured_peak_bytes: int | None = None
    warnings: list[str] = []


def part_of_result(result: Result, folder: str) -> Part:
    """A finished experiment's part."""
    story = tell(result)
    counted = [verdict for verdict in result.verdicts if verdict.counts]
    failed = [_criterion(verdict) for verdict in counted if verdict.passed is False]
    undecided = [_criterion(verdict) for verdict in counted if verdict.passed is None]
    return Part(
        experiment=result.experiment,
        status="complete",
        folder=folder,
        exit_status=1 if result.passed is False else 0,
        answer=story.answer,
        headline=story.headline,
        num_met=len(counted) - len(failed) - len(undecided),
        num_failed=len(failed),
        num_undecided=len(undecided),
        failed=failed,
        undecided=undecided,
        seconds=result.timings.get("whole_run"),
        measured_peak_bytes=result.memory.measured_peak_bytes,
        warnings=result.warnings,
    )


def _criterion(verdict: Verdict) -> Criterion:
    return Criterion(
        criterion=verdict.criterion, arm=verdict.arm, threshold=verdict.threshold, value=verdict.value
    )


class RunSet(_Record):
    """All parts, in the order in which they run, and the earlier implementations' blocks of those complete.

    `blocks_file` is the name of the file that holds the blocks alone, as those implementations wrote them.
    """

    schema_name: Literal["sixgig.all/1"] = Field(
        default=SCHEMA, validation_alias="schema", serialization_alias="schema"
    )
    started: str  # UTC, YYYYmmdd-HHMMSS
    device: str
    preset: str | None
    parts: list[Part]
    blocks_file: str | None = None
    blocks: dict[str, dict[str, Any]] = {}

    @property
    def exit_status(self) -> int:
        """0 when all are complete and none failed a criterion, 1 when some are not or some did.

        Where none is complete, the status of the worst reason.
        """
        complete = [part for part in self.parts if part.status == "complete"]
        if not complete:
            return max((part.exit_status or 0 for part in self.parts), default=0)
        is_whole = len(complete) == len(self.parts)
        return 0 if is_whole and not any(part.num_failed for part in complete) else 1

    @property
    def failures_first(self) -> list[Part]:
        """Failed criteria first, then what is not complete, then what could not be decided, then the rest."""
        return sorted(
            self.parts,
            key=lambda part: (not part.num_failed, part.status == "complete", not part.num_undecided),
        )

    def to_json_value(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)

    def write(self, folder: Path) -> None:
        write_json(folder / FILE_NAME, self.to_json_value())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """all.json of `folder`; IntegrityError names what is wrong with it."""
        path = folder / FILE_NAME
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(map(str, fault["loc"])) or "the file"
            raise IntegrityError(
                "not a summary that this version reads", where=str(path), received=f"{place}: {fault['msg']}"
            ) from error


def joined_blocks(results: Mapping[str, Result]) -> dict[str, dict[str, Any]]:
    """The earlier implementations' blocks of all results, in their own order."""
    found = {name: block for result in results.values() for name, block in result.blocks().items()}
    return dict(sorted(found.items()))
