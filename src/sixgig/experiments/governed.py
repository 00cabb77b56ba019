"""What every run has around its work: a directory, new or an earlier one's; the governor; the end.

torch is imported inside, since settings are checked and refused without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import NotAvailableError
from ..provenance import DataSource, provenance
from ..report.could_see import with_visible_differences
from ..report.schema import Result
from ..report.store import RunDirectory
from .run_memory import recorded_peak, with_memory

if TYPE_CHECKING:
    import torch

MAX_CPU_THREADS_BESIDE_GPU = 8

# (device, says memory in words) -> the result, and one row an example
Work = Callable[["torch.device", Callable[[], str]], tuple[Result, Iterable[dict[str, Any]]]]


def begin(out: Path, experiment: str, identity: dict[str, Any], *, resume: bool) -> RunDirectory:
    """A new run directory, or with `resume` the newest one, which must have the same `identity`."""
    if not resume:
        return RunDirectory.create(out, experiment, identity)
    latest = RunDirectory.find_latest(out, experiment)
    if latest is None:
        raise NotAvailableError(
            "no run to resume",
            expected=f"a folder {experiment}-... in {out}",
            todo="start one without --resume",
        )
    return RunDirectory.open(latest, identity)


def governed(
    run: RunDirectory,
    device: str,
    work: Work,
    *,
    resumed: bool,
    sources: Sequence[DataSource] = (),
    budget_bytes: int | None = None,
    shown: Mapping[str, Any] | None = None,
) -> Result:
    """Does the work under the governor and finishes the run; returns its result with peaks, and with what
    each verdict could have seen.

    `shown`: the settings that the result tells, where they are not the experiment's own. `sources`: known
    before the work, if at all; they stand in the run's first event, so that what a cut-off run leaves behind
    says where it comes from.
    """
    import torch

    from ..memory.governor import Governor

    if device == "cuda":
        # What is left to the CPU are many small operations, which more threads only slow down: with three
        # runs side by side on 64 cores, each with 64 threads, splitting took 331 s instead of 6.
        torch.set_num_threads(min(torch.get_num_threads(), MAX_CPU_THREADS_BESIDE_GPU))
    run.log("start", resumed=resumed, provenance=asdict(provenance([], sources)))
    at = torch.device(device)
    with Governor(at, budget_bytes=budget_bytes, log=run.log) as governor:
        result, samples = work(at, governor.text)
    if shown is not None:
        result = result.model_copy(update={"config": dict(shown)})
    peak = recorded_peak(run.events()).joined(governor.peak)
    result = with_memory(result, peak, device=device, budget_bytes=budget_bytes, problem=governor.problem)
    result = with_visible_differences(result)
    run.finish(result, samples)
    return result
