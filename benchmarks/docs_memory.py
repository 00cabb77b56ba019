"""docs/memory.md's tables: the planner's figures, and every configuration beside other estimators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docs_receipts import NOT_YET, asked, mark, newest_receipt, source, table, value_text
from sixgig.units import MIB

AREA = "memory"
_COUNTS = ("pairs", "configurations")
_MEASURED, _PREDICTED = "measured", "predicted"


def figures(folder: Path, document: Path, language: int) -> str:
    """Every figure of the newest receipt with what is asked of it; in English only."""
    receipt = newest_receipt(folder, AREA)
    if receipt is None:
        return NOT_YET[language]
    rows = [
        [f"`{one['name']}`", _figure(one), f"{one['n']}", _asked(one, language), one["note"]]
        for one in receipt.figures.values()
    ]
    parts = [table(["figure", "value", "n", "asked", "note"], rows), source(receipt, document, language)]
    return "\n\n".join(parts)


def every_configuration(folder: Path, document: Path, language: int) -> str:
    """Allocated peaks in MiB, each configuration a row; errors are predicted over measured, signed."""
    receipt = newest_receipt(folder, AREA)
    if receipt is None:
        return NOT_YET[language]
    headers = ["configuration", _MEASURED, _PREDICTED, "error", "reserved", "driver"]
    rows = [_row(one) for one in receipt.content["raw"]["configurations"]]
    return "\n\n".join(
        [
            table([*headers, "accelerate", "canifinetune", "MemTracker"], rows),
            source(receipt, document, language),
        ]
    )


def _asked(figure: Mapping[str, Any], language: int) -> str:
    is_count = figure["unit"] in _COUNTS
    return f"{figure['target']}{mark(figure)}" if is_count else asked(figure, language)


def _figure(figure: Mapping[str, Any]) -> str:
    if figure["unit"] == "s":
        return f"{figure['value']:.2f} s"
    return f"{figure['value']}" if figure["unit"] in _COUNTS else value_text(figure)


def _row(one: Mapping[str, Any]) -> list[str]:
    measured, predicted, peers = one[_MEASURED], one[_PREDICTED], one["peers"]
    peak_bytes = measured["peak_allocated_bytes"]
    name = one["label"] + (" (held out)" if one["held_out"] else "")
    gave_up = "gave up" if "mem_tracker_error" in peers else ""
    return [
        name,
        f"{peak_bytes / MIB:,.0f}",
        f"{predicted['peak_allocated_bytes'] / MIB:,.0f}",
        _error(predicted["peak_allocated_bytes"], peak_bytes),
        _error(predicted["peak_reserved_bytes"], measured["peak_reserved_bytes"]),
        _error(predicted["device_used_bytes"], measured["device_used_bytes"]),
        _error(peers.get("accelerate_bytes"), peak_bytes),
        _error(peers.get("canifinetune_bytes"), peak_bytes),
        gave_up or _error(peers.get("mem_tracker_bytes"), peak_bytes),
    ]


def _error(value: int | None, measured: int) -> str:
    if value is None:
        return ""
    return f"{round(100 * (value / measured - 1), 2) + 0.0:+.2f}%"  # + 0.0: no "-0.00%"
