"""docs/memory.md's tables: the planner's figures, and every configuration beside other estimators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docs_receipts import (
    NOT_YET,
    Words,
    asked,
    mark,
    newest_receipt,
    source,
    table,
    translated,
    value_text,
)
from sixgig.units import MIB

AREA = "memory"
_COUNTS = ("pairs", "configurations")
_MEASURED, _PREDICTED = "measured", "predicted"


SHORT: dict[str, Words] = {
    "plan_allocated_error_max": (
        "tensors' peak, predicted against measured: largest error",
        "张量峰值，预测与实测相比：最大误差",
    ),
    "plan_allocated_error_max_heldout": (
        "the same of configurations that it was not fitted on",
        "其中未用于校准规划器的配置",
    ),
    "plan_device_used_error_max": ("what the driver reports: largest error", "驱动程序报告的占用：最大误差"),
    "plan_false_fits": (
        "of all pairs with a card of 4, 6 or 8 GiB: said to fit, and ran out under that limit",
        "与 4、6、8 GiB 的卡配成的所有组合中：判为放得下，在该限额下运行却耗尽",
    ),
    "plan_false_refusals_share": (
        "of the pairs that run: refused",
        "实际能运行的组合中：被判为放不下",
    ),
    "plan_false_refusals_share_heldout": (
        "the same of configurations that it was not fitted on",
        "其中未用于校准规划器的配置",
    ),
    "plan_seconds": ("time to answer", "给出答案所需时间"),
    "accelerate_estimate_error_median": (
        "for comparison, accelerate estimate-memory: median error",
        "对照：accelerate estimate-memory 的误差中位数",
    ),
}
_HEADERS = (("", "measured", "n", "asked"), ("", "实测", "n", "要求"))


def summary(folder: Path, document: Path, language: int) -> str:
    """The README's table: how far the planner can be trusted."""
    receipt = newest_receipt(folder, AREA)
    if receipt is None:
        return NOT_YET[language]
    known = [(words[language], receipt.figures[name]) for name, words in SHORT.items()]
    rows = [[words, _figure(one), f"{one['n']}", _asked(one, language)] for words, one in known]
    return "\n\n".join([table(_HEADERS[language], rows), source(receipt, document, language)])


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
    return f"{translated(figure['target'], language)}{mark(figure)}" if is_count else asked(figure, language)


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
