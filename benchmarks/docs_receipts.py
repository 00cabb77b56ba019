"""Receipts as the documents show them: the newest of an area, its figures as words, where they come from."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sixgig.errors import InputError
from sixgig.files import read_json
from sixgig.report.labels import format_value
from sixgig.units import format_bytes, format_seconds

SCHEMA = "sixgig.receipt/1"

# Every word in English and Chinese; the document's name decides which is taken.
Words = tuple[str, str]
NOT_YET: Words = ("Not measured yet.", "尚未测量。")
_PHRASES = (("at most", "至多"), ("at least", "至少"), ("interval covers", "区间包含"), (", or ", "，或 "))
_PHRASES += (("interval within", "区间在 ±"), (" bit", " 比特以内"), (" to ", " 至 "))


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """One receipt; `figures` by name, `path` where it lies."""

    path: Path
    content: Mapping[str, Any]
    figures: Mapping[str, Mapping[str, Any]]


def newest_receipt(folder: Path, area: str) -> Receipt | None:
    """The receipt of `area` with the latest date, or None. Raises InputError naming a file that is none."""
    found = []
    for path in sorted(folder.glob("*.json")):
        content = read_json(path)
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise InputError("not a receipt", expected=f"schema {SCHEMA}", where=str(path))
        missing = {"area", "command", "date", "commit", "device", "figures"} - content.keys()
        if missing:
            raise InputError("a receipt lacks fields", received=", ".join(sorted(missing)), where=str(path))
        if content["area"] == area:
            found.append((str(content["date"]), path.name, path, content))
    if not found:
        return None
    _, _, path, content = max(found, key=lambda one: one[:2])
    return Receipt(path=path, content=content, figures={one["name"]: one for one in content["figures"]})


def value_text(figure: Mapping[str, Any]) -> str:
    value, unit = figure["value"], figure["unit"]
    if value is None:
        return "-"
    if unit in ("s", "seconds"):
        return format_seconds(value)
    return format_bytes(value) if unit == "bytes" else format_value(value, figure["name"], unit)


def mark(figure: Mapping[str, Any]) -> str:
    met = figure.get("met")
    return "" if met is None else " ✓" if met else " ✗"


def target_text(figure: Mapping[str, Any], language: int) -> str:
    target = str(figure.get("target") or "")
    if match := re.fullmatch(r"(at (?:most|least)) ([\d.]+)", target):
        target = f"{match[1]} {value_text({**figure, 'value': float(match[2])})}"
    return translated(target, language)


def translated(target: str, language: int) -> str:
    for english, chinese in _PHRASES if language else ():
        target = target.replace(english, chinese)
    return target


def asked(figure: Mapping[str, Any], language: int) -> str:
    return target_text(figure, language) + mark(figure)


def source(receipt: Receipt, document: Path, language: int) -> str:
    link = Path(os.path.relpath(receipt.path, document.parent)).as_posix()
    device = receipt.content["device"]
    size = f", {format_bytes(device['total_bytes'])}" if device.get("total_bytes") else ""
    facts = f"{device['name']}{size}, {receipt.content['date']}, commit {str(receipt.content['commit'])[:10]}"
    again = ("To reproduce", "复现方法")[language]
    return f"{again}: `{receipt.content['command']}` ({facts}; [{receipt.path.name}]({link}))"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines)


_HEADERS = (
    ("figure", "value", "95% interval", "asked", "note"),
    ("指标", "数值", "95% 区间", "要求", "说明"),
)


def every_figure(
    area: str, receipts: Path, document: Path, language: int, *, only_counted: bool = False
) -> str:
    """All figures of an area's newest receipt, those that fell short too; without those that are there for
    comparison only, where `only_counted`."""
    receipt = newest_receipt(receipts, area)
    if receipt is None:
        return NOT_YET[language]
    rows = []
    for name, one in receipt.figures.items():
        if only_counted and str(one.get("note") or "").startswith("for comparison only"):
            continue
        ends = [one.get("low"), one.get("high")]
        told = [format_value(end, name, one["unit"]) for end in ends if end is not None]
        interval = f"{told[0]} to {told[1]}" if len(told) == 2 and ends[0] != ends[1] else ""
        rows.append([f"`{name}`", value_text(one), interval, asked(one, language), one.get("note") or ""])
    return f"{table(_HEADERS[language], rows)}\n\n{source(receipt, document, language)}"
