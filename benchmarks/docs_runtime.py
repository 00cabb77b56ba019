"""The tables of docs/runtime.md: decoding on a GPU and on a CPU, rounding errors, splitting from disk."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from docs_receipts import NOT_YET, asked, newest_receipt, source, table, value_text
from sixgig.report.labels import format_value

_HEADERS = (
    ("figure", "value", "95% interval", "asked", "note"),
    ("指标", "数值", "95% 区间", "要求", "说明"),
)


def every_figure(area: str, receipts: Path, document: Path, language: int) -> str:
    """All figures of an area's newest receipt, those that fell short too."""
    receipt = newest_receipt(receipts, area)
    if receipt is None:
        return NOT_YET[language]
    rows = []
    for name, one in receipt.figures.items():
        ends = [one.get("low"), one.get("high")]
        told = [format_value(end, name, one["unit"]) for end in ends if end is not None]
        interval = f"{told[0]} to {told[1]}" if len(told) == 2 and ends[0] != ends[1] else ""
        rows.append([f"`{name}`", value_text(one), interval, asked(one, language), one.get("note") or ""])
    return f"{table(_HEADERS[language], rows)}\n\n{source(receipt, document, language)}"


BLOCKS = {area: partial(every_figure, area) for area in ("decode-8b", "cpu-decode", "quality", "split-8b")}
