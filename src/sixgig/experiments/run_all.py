"""`sixgig run all`: the experiments of the standard set one after another, each with its own run directory.

    all-<YYYYmmdd-HHMMSS>-<hash8>/
      config.yaml                                     every experiment's settings; `--config` reads it back
      kill-switch-.../  null-test-.../  ...           their run directories
      all.json  report.html                           what they came to, failed criteria first
      real_model_results_YYYYmmdd_HHMMSS.json         the earlier implementations' blocks, under their names

All are checked before the first begins. One that is refused, fails or is interrupted leaves the others alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data.corpora import data_dir_from_environment
from ..errors import DoesNotFitError, InputError, NotAvailableError, SixgigError
from ..files import write_json, write_text
from ..report.identity import kept_config, read_config, write_config
from ..report.run_set import FILE_NAME, Part, RunSet, joined_blocks, part_of_result
from ..report.schema import Result
from ..report.store import RunDirectory
from ..units import format_bytes
from .known import EXPERIMENTS, Experiment
from .one_in_child import INTERRUPTED, Explain, Outcome, run_in_child
from .run import Prepared, Request, config_of, prepare
from .settings import as_plain
from .shared_settings import settings_of_each

ALL = "all"
ORDER = ("kill-switch", "null-test", "saving-genius", "performance", "dual-dp", "recitation")
BLOCKS_FILE = "real_model_results_{stamp}.json"  # as the earlier implementations named it

Announce = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class PlannedPart:
    """One experiment of the set: what will be run, or why it will not."""

    request: Request
    config: Any
    prepared: Prepared | None
    refusal: SixgigError | None

    @property
    def name(self) -> str:
        return self.request.experiment

    def in_words(self) -> str:
        if self.prepared is None:
            return f"{self.name}: refused: {self.refusal}"
        plan = self.prepared.plan
        return (
            f"{self.name}: {self.prepared.spec.name}, preset {self.prepared.config.preset}, about "
            f"{format_bytes(plan['peak_bytes'])} of {format_bytes(plan['limit_bytes'])} on "
            f"{self.prepared.device}"
        )

    def to_json_value(self) -> dict[str, Any]:
        value = {"experiment": self.name, "config": as_plain(self.config)}
        if self.prepared is None:
            return value | {"refused": str(self.refusal)}
        return value | {
            "device": self.prepared.device,
            "plan": self.prepared.plan,
            "config": as_plain(self.prepared.config),
        }


def members() -> tuple[str, ...]:
    """The experiments of the set that this version has."""
    return tuple(name for name in ORDER if name in EXPERIMENTS)


def set_members() -> dict[str, Experiment]:
    """The same with what they are."""
    return {name: EXPERIMENTS[name] for name in members()}


def plan_all(request: Request) -> list[PlannedPart]:
    """Every experiment checked against this machine; nothing is loaded.

    Raises:
        InputError: settings that cannot be used, by any of them; or none of them can run.
    """
    experiments = set_members()
    settings = settings_of_each(request.settings, experiments, where="-s or --config")
    parts = [_planned(request, name, settings[name]) for name in experiments]
    refused = [part.refusal for part in parts if part.refusal is not None]
    if len(refused) == len(parts):
        if len({str(error) for error in refused}) == 1:
            raise refused[0]  # an unknown model, say: the same for all
        kind = DoesNotFitError if all(error.exit_status == 1 for error in refused) else InputError
        raise kind("no experiment can run here\n" + "\n".join(part.in_words() for part in parts))
    return parts


def _planned(request: Request, name: str, settings: Mapping[str, Any]) -> PlannedPart:
    own = dict(settings)
    named = own.pop("preset", None)
    part = replace(
        request,
        experiment=name,
        settings=own,
        preset=request.preset if named is None else str(named),
    )
    try:
        prepared = prepare(part)
        return PlannedPart(request=part, config=prepared.config, prepared=prepared, refusal=None)
    except SixgigError as error:
        # Settings that are wrong in themselves end the whole: nobody wants to learn of a slip an hour later.
        return PlannedPart(request=part, config=config_of(part), prepared=None, refusal=error)


def run_all(
    request: Request,
    *,
    explain: Explain,
    announce: Announce = lambda message: None,
    work: Callable[[Request, Explain], Outcome] = run_in_child,
) -> tuple[RunSet, Path]:
    """Runs every experiment that can be, or with `resume` those that the newest set has not finished.

    `explain` gives an error's exit status and message. Returns the summary and its folder.
    """
    parts = plan_all(request)
    for part in parts:
        announce(part.in_words())
    with _open_directory(request, parts) as directory:
        together = _Together(directory, parts, announce)
        for number, part in enumerate(parts, start=1):
            if together.is_finished(part.name) or part.prepared is None:
                continue
            announce(f"{part.name}, {number} of {len(parts)}")
            begun = RunDirectory.find_latest(directory.path, part.name) is not None
            together.begin(part.name, resumed=begun)
            try:
                outcome = work(replace(part.request, out=directory.path, resume=begun), explain)
            except KeyboardInterrupt:
                together.record(part.name, Outcome(status=INTERRUPTED, reason="interrupted"))
                raise
            together.record(part.name, outcome)
            if outcome.status == INTERRUPTED:
                raise KeyboardInterrupt
        together.tidy()
        return together.run_set(), directory.path


class _Together:
    """The summary as it grows: written after every experiment, so that a killed set leaves what it had."""

    def __init__(self, directory: RunDirectory, parts: Sequence[PlannedPart], announce: Announce) -> None:
        self._directory, self._parts, self._announce = directory, parts, announce
        self._outcomes: dict[str, Outcome] = {}
        self._begun: str | None = None
        self.write()

    def is_finished(self, name: str) -> bool:
        folder = RunDirectory.find_latest(self._directory.path, name)
        finished = folder is not None and (folder / "result.json").exists()
        if finished:
            self._announce(f"{name} is finished and is kept")
        return finished

    def begin(self, name: str, *, resumed: bool) -> None:
        self._begun = name
        self._directory.log("begin", experiment=name, resumed=resumed)
        self.write()

    def record(self, name: str, outcome: Outcome) -> None:
        self._outcomes[name] = outcome
        self._directory.log("end", experiment=name, status=outcome.status)
        if outcome.status:
            self._announce(f"{name} did not end well: {outcome.reason}")
        if outcome.trace:
            path = self._directory.path / f"error-{name}.txt"
            write_text(path, outcome.trace)
            self._announce(f"its traceback is in {path}")
        self.write()

    def write(self) -> None:
        from ..report.run_set_page import write_page  # here, since drawing takes a template's engine

        found = self.run_set()
        if found.blocks_file:
            write_json(self._directory.path / found.blocks_file, found.blocks)
        write_page(found, self._directory.path)
        found.write(self._directory.path)

    def tidy(self) -> None:
        """Folders that only a single run fills go, where they are empty."""
        for folder in (self._directory.stages_path, self._directory.work_path, self._directory.figures_path):
            with suppress(OSError):
                folder.rmdir()

    def run_set(self) -> RunSet:
        results: dict[str, Result] = {}
        parts = [self._part(part, results) for part in self._parts]
        stamp = self._directory.path.name.removeprefix(f"{ALL}-")[:15]
        blocks = joined_blocks(results)
        return RunSet(
            started=stamp,
            device=next(part.prepared.device for part in self._parts if part.prepared is not None),
            preset=self._preset(),
            parts=parts,
            blocks_file=BLOCKS_FILE.format(stamp=stamp.replace("-", "_")) if blocks else None,
            blocks=blocks,
        )

    def _preset(self) -> str | None:
        """The preset of all; None where they differ."""
        names = {part.config.preset for part in self._parts}
        return names.pop() if len(names) == 1 else None

    def _part(self, part: PlannedPart, results: dict[str, Result]) -> Part:
        folder = RunDirectory.find_latest(self._directory.path, part.name)
        if folder is not None and (folder / "result.json").exists():
            results[part.name] = Result.read(folder / "result.json")
            return part_of_result(results[part.name], folder.name)
        if part.refusal is not None:
            status = part.refusal.exit_status
            return Part(experiment=part.name, status="refused", reason=str(part.refusal), exit_status=status)
        outcome = self._outcomes.get(part.name)
        if outcome is None:
            is_begun = folder is not None or part.name == self._begun
            return Part(
                experiment=part.name,
                status="begun" if is_begun else "waiting",
                folder=folder.name if folder else None,
            )
        return Part(
            experiment=part.name,
            status="interrupted" if outcome.status == INTERRUPTED else "failed",
            folder=folder.name if folder else None,
            reason=outcome.reason,
            exit_status=outcome.status,
        )


def _open_directory(request: Request, parts: Sequence[PlannedPart]) -> RunDirectory:
    """A new set's directory, or with `resume` the newest one, which must have the same settings.

    What was refused then, or is now, may have other ones: nothing was measured with them, or will be.
    """
    device = next(part.prepared.device for part in parts if part.prepared is not None)
    config: dict[str, Any] = {
        "experiment": ALL,
        "device": device,
        "public_text": "benchmark" if request.data_dir or data_dir_from_environment() else "package",
        **{part.name: as_plain(part.config) for part in parts},
    }
    if not request.resume:
        return RunDirectory.create(request.out, ALL, config)
    latest = RunDirectory.find_latest(request.out, ALL)
    if latest is None:
        raise NotAvailableError(
            "no set of runs to resume",
            expected=f"a folder {ALL}-... in {request.out}",
            todo="start one without --resume",
        )
    kept = read_config(latest / "config.yaml")
    refused_then = _refused_in(latest)
    refused_now = {part.name for part in parts if part.prepared is None}
    compared = {
        name: kept.get(name, value) if name in refused_then | refused_now else value
        for name, value in config.items()
    }
    directory = RunDirectory.open(latest, compared)
    begins = {name: config[name] for name in config if name in refused_then - refused_now}
    if begins:  # with settings that were not compared, and from now on are
        write_config(latest / "config.yaml", kept | kept_config(begins))
    return directory


def _refused_in(folder: Path) -> set[str]:
    """The experiments that a set's summary tells as refused; none where it was cut off before its first."""
    if not (folder / FILE_NAME).exists():
        return set()
    return {part.experiment for part in RunSet.read(folder).parts if part.status == "refused"}
