"""What a run took of memory, held against what was planned: for the result of any experiment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..memory.readings import Peak
from ..report.schema import Memory, Result
from ..units import format_bytes

TOLERATED_SHARE = 0.10  # by which planned and measured peak may differ without a word


def recorded_peak(events: Iterable[Mapping[str, Any]]) -> Peak:
    """The most that a run's events tell of, over every process that worked on it."""
    peak = Peak()
    for event in events:
        if event.get("event") == "memory_peak":
            peak = peak.joined(Peak.from_json_value(event))
        elif event.get("event") == "memory":
            peak = peak.joined(Peak.from_json_value(event.get("peak")))
    return peak


def with_memory(
    result: Result, peak: Peak, *, device: str, budget_bytes: int | None, problem: str | None
) -> Result:
    """`result` with every peak, and a warning where plan and measurement differ or sampling broke off.

    `peak` is joined with what the result has from its stages.
    """
    on_card = device == "cuda"
    measured = max(
        result.memory.measured_peak_bytes or 0, peak.allocated_bytes if on_card else peak.resident_bytes
    )
    memory = Memory(
        planned_peak_bytes=result.memory.planned_peak_bytes,
        measured_peak_bytes=measured or None,
        reserved_peak_bytes=peak.reserved_bytes if on_card else None,
        device_used_peak_bytes=peak.device_used_bytes if on_card else None,
        resident_peak_bytes=peak.resident_bytes or None,
        budget_bytes=budget_bytes,
    )
    warnings = [*result.warnings, *_difference(memory)]
    if problem is not None:
        warnings.append(f"memory was not sampled to the end, so peaks may be higher: {problem}")
    return result.model_copy(update={"memory": memory, "warnings": warnings})


def _difference(memory: Memory) -> list[str]:
    planned, measured = memory.planned_peak_bytes, memory.measured_peak_bytes
    if not planned or not measured or abs(measured - planned) <= TOLERATED_SHARE * planned:
        return []
    share = f"{abs(measured - planned) / planned:.0%} {'more' if measured > planned else 'less'}"
    return [
        f"the plan was wrong about memory: {format_bytes(planned)} planned, {format_bytes(measured)} "
        f"measured ({share})"
    ]
