"""The result of an experiment: typed, versioned, written once, read by every table, figure and page.

Nothing downstream recomputes a number: what is not in `result.json` is not in the report. Field names are the
keys of the file, except `Verdict.passed`, which is `pass` there, and `Result.schema_name`, which is `schema`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import IntegrityError
from ..files import read_text, write_json
from .plain_json import first_fault, parse

SCHEMA = "sixgig.result/1"
MAX_RESULT_BYTES = 64 * 2**20
# The earlier implementations' own blocks, by the field that holds each, with the keys that it must have.
BLOCK_KEYS = {
    "exp1_kill_switch": (
        "extraction_rate_alpha1",
        "extraction_rate_alpha0",
        "privacy_ratio",
        "num_canaries",
    ),
    "exp2_null_test": ("ppl_fp16", "ppl_int4", "ppl_libortho_alpha0", "ppl_ratio_libortho"),
    "exp3_saving_genius": (
        "accuracy_fp16",
        "accuracy_int3_pure",
        "accuracy_libortho_int3_base",
        "genius_preservation",
    ),
    "exp4_performance": (
        "latency_fp16_ms_per_token",
        "latency_int4_ms_per_token",
        "latency_libortho_alpha0_ms_per_token",
        "overhead_vs_int4",
    ),
}


class _Record(BaseModel):
    """Frozen; unknown fields and NaN are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _check_order(low: float | None, high: float | None) -> None:
    if low is not None and high is not None and low > high:
        raise ValueError(f"an interval's low end {low} lies above its high end {high}")


class Score(_Record):
    """One measured number: `name` of `arm` at `alpha` (None: the arm has no switch) under `condition`.

    `low` and `high` bound the 95% interval; one alone is a one-sided bound. `n` counts the units the interval
    rests on (canaries, windows), 0 where the number is not a sample's. `version` rises when the definition
    of the score changes; scores of different versions are never compared. `value` None needs a `note`.
    """

    name: str
    arm: str
    alpha: float | None
    condition: str = "plain"
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = Field(ge=0)
    unit: str
    higher_is_better: bool | None
    version: int = 1
    note: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_order(self.low, self.high)
        if self.value is None and not self.note:
            raise ValueError(f"score {self.name} of {self.arm} has no value and no note that says why")
        return self


class Verdict(_Record):
    """Whether `arm` met `criterion`. `passed` None: the sample is too small to tell, `needed_n` would do; or,
    where `value` is None too, the run did not measure it, and `threshold` says what is missing.

    `counts` False marks a verdict shown for comparison only (a null sieve's, say): it does not decide the
    answer of the run. `threshold` is the criterion in words and numbers, fixed before the run; where it
    says "at most" or "at least" so many per cent, `value`, `low` and `high` are still shares (0.015 is 1.5%).
    `visible_difference` is the smallest true difference from the limit that the sample would have shown with
    80% probability at 5% (`could_see.py` fills it in); None without interval, and in earlier versions' files.
    """

    criterion: str
    arm: str
    threshold: str
    value: float | None
    low: float | None = None
    high: float | None = None
    passed: bool | None = Field(
        validation_alias=AliasChoices("pass", "passed"), serialization_alias="pass", strict=True
    )
    needed_n: int | None = None
    note: str = ""
    counts: bool = True
    visible_difference: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_order(self.low, self.high)
        return self


class Curve(_Record):
    """A line of one arm: `y` against `x`, with `low` and `high` around it where they were measured; `x_low`
    and `x_high` around `x`, where that was measured too."""

    name: str
    arm: str
    x_label: str
    y_label: str
    x: list[float]
    y: list[float]
    low: list[float] | None = None
    high: list[float] | None = None
    x_low: list[float] | None = None
    x_high: list[float] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        parts = (self.x, self.y, self.low, self.high, self.x_low, self.x_high)
        lengths = {len(part) for part in parts if part is not None}
        if len(lengths) != 1:
            raise ValueError(f"curve {self.name} of {self.arm} has parts of different lengths: {lengths}")
        for lows, highs in ((self.low, self.high), (self.x_low, self.x_high)):
            if (lows is None) != (highs is None):
                raise ValueError(f"curve {self.name} of {self.arm} has one side of its interval only")
            for low, high in zip(lows or (), highs or (), strict=True):
                _check_order(low, high)
        return self


class Example(_Record):
    """A prompt, the secret that would complete it, and what the model said, by "alpha=1" and "alpha=0"."""

    prompt: str
    secret: str
    family: str
    group: str
    answers: dict[str, str]


class Memory(_Record):
    """Peak bytes as planned and as measured on the device that held the model: on a card the tensors', else
    the process's.

    The others were not kept by earlier versions, and a card's are None on a CPU: what torch's allocator held,
    what the whole card did (as sampled, with the CUDA context and other programs), what the process did in
    the host's memory, and the card's memory that the run was held to.
    """

    planned_peak_bytes: int | None
    measured_peak_bytes: int | None
    reserved_peak_bytes: int | None = None
    device_used_peak_bytes: int | None = None
    resident_peak_bytes: int | None = None
    budget_bytes: int | None = None


class Result(_Record):
    """Everything an experiment found. `timings` are seconds by stage, and of the `whole_run`.

    The blocks `exp...` keep the earlier implementations' own key names; other keys may stand beside those.
    """

    schema_name: Literal["sixgig.result/1"] = Field(
        default=SCHEMA, validation_alias=AliasChoices("schema", "schema_name"), serialization_alias="schema"
    )
    experiment: str
    status: Literal["complete", "failed", "interrupted"]
    config: dict[str, Any]
    provenance: dict[str, Any]
    plan: dict[str, Any]
    memory: Memory
    timings: dict[str, float]
    scores: list[Score]
    verdicts: list[Verdict]
    warnings: list[str] = []
    curves: list[Curve] = []
    examples: list[Example] = []
    exp1_kill_switch: dict[str, Any] | None = None
    exp2_null_test: dict[str, Any] | None = None
    exp3_saving_genius: dict[str, Any] | None = None
    exp4_performance: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("config", "provenance", "plan", *BLOCK_KEYS):
            fault = first_fault(getattr(self, name), name)
            if fault:
                raise ValueError(fault)
        for name, block in self.blocks().items():
            missing = [key for key in BLOCK_KEYS[name] if key not in block]
            if missing:
                raise ValueError(f"{name} lacks {', '.join(missing)}")
        places = Counter((score.name, score.arm, score.alpha, score.condition) for score in self.scores)
        twice = [str(place) for place, count in places.items() if count > 1]
        if twice:
            raise ValueError(f"more than one score for {'; '.join(twice)}")
        return self

    def blocks(self) -> dict[str, dict[str, Any]]:
        """The earlier implementations' blocks that this result has, by name."""
        found = {name: getattr(self, name) for name in BLOCK_KEYS}
        return {name: block for name, block in found.items() if block is not None}

    @property
    def passed(self) -> bool | None:
        """The answer of the run over the verdicts that count: False if one failed, None if one cannot tell.

        None too where the run is not complete or set no criterion.
        """
        marks = [verdict.passed for verdict in self.verdicts if verdict.counts]
        if False in marks:
            return False
        return True if marks and None not in marks and self.status == "complete" else None

    def score(self, name: str, arm: str, alpha: float | None, condition: str = "plain") -> Score | None:
        """The one score at that place, or None."""
        wanted = (name, arm, alpha, condition)
        places = ((score, (score.name, score.arm, score.alpha, score.condition)) for score in self.scores)
        return next((score for score, place in places if place == wanted), None)

    def arms(self) -> list[str]:
        """Every arm that has a score, a curve or a verdict, in the order of first mention."""
        return list(dict.fromkeys(record.arm for record in (*self.scores, *self.curves, *self.verdicts)))

    def to_json_value(self) -> dict[str, Any]:
        """The content of result.json as plain values."""
        return self.model_dump(mode="json", by_alias=True)

    def write(self, path: Path) -> None:
        """Writes result.json whole or not at all."""
        write_json(path, self.to_json_value())

    @classmethod
    def read(cls, path: Path) -> Result:
        """result.json as a `Result`; `IntegrityError` names the place of whatever is wrong with it."""
        value = parse(read_text(path, max_bytes=MAX_RESULT_BYTES), where=str(path))
        schema = value.get("schema") if isinstance(value, dict) else None
        if schema != SCHEMA:
            raise IntegrityError(
                "not a result that this version reads",
                expected=f'"schema": "{SCHEMA}"',
                received=repr(schema) if isinstance(value, dict) else type(value).__name__,
                where=str(path),
                todo="name a run's folder or its result.json; a newer sixgig may have written this one",
            )
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise IntegrityError(
                f"a result with {error.error_count()} faults", where=str(path), received=_faults(error)
            ) from error


def _faults(error: ValidationError) -> str:
    lines = [f"{'.'.join(map(str, fault['loc'])) or 'result'}: {fault['msg']}" for fault in error.errors()]
    shown = lines[:8] + ([f"and {len(lines) - 8} more"] if len(lines) > 8 else [])
    return "; ".join(shown)
