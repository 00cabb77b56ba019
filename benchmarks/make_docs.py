"""Regenerates what the documents take from elsewhere, so that no number or option is copied by hand.

python benchmarks/make_docs.py            rewrites the tables between <!-- receipts:NAME --> and its end mark
                                          from each area's newest receipt, and docs/cli.md from the help
python benchmarks/make_docs.py --check    writes nothing; exits 1 and names each file that differs
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from sixgig.errors import InputError, UnknownNameError
from sixgig.files import read_json, read_text, write_text
from sixgig.report.labels import format_interval, format_value
from sixgig.units import format_bytes, format_seconds

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = "sixgig.receipt/1"
FULL, CPU = "kill-switch-full", "kill-switch-cpu"
# Click's help is at most 80 columns wide and narrower on a narrower terminal: this settles it.
HELP_COLUMNS = "80"

_BLOCK = re.compile(r"(<!-- receipts:([\w-]+) -->\n).*?(<!-- /receipts -->)", flags=re.DOTALL)
_OPENING = re.compile(r"<!-- receipts:")

# Every word in English and Chinese; the document's name decides which is taken.
Words = tuple[str, str]
ARMS: dict[str, Words] = {
    "wiener": ("wiener", "wiener"),
    "isolated": ("isolated", "isolated"),
    "reference": ("never planted", "从未植入"),
    "hessian": ("hessian (plain INT4)", "hessian（即普通 INT4）"),
    "int4_fitted": ("INT4, scales fitted", "INT4，缩放系数经拟合"),
    "random": ("random", "random"),
    "wrong_set": ("wrong-set", "wrong-set"),
}
MEASURES: dict[str, Words] = {
    "alpha0_exposure_heldout_bits": ("alpha 0: exposure, bits", "alpha 0：暴露度（比特）"),
    "alpha0_exposure_gap_bits": ("alpha 0: exposure above controls, bits", "alpha 0：暴露度高出对照（比特）"),
    "alpha0_auc_heldout": ("alpha 0: membership AUC", "alpha 0：成员推断 AUC"),
    "alpha0_extraction_upper": ("alpha 0: extraction, upper bound", "alpha 0：提取率上界"),
    "alpha0_ppl_ratio_int4": ("alpha 0: perplexity / plain INT4", "alpha 0：困惑度 / 普通 INT4"),
    "alpha0_ppl_ratio_int4_fitted": (
        "alpha 0: perplexity / INT4 with its scales fitted alike",
        "alpha 0：困惑度 / 同样拟合过的 INT4",
    ),
    "relearn20_exposure_gap_bits": (
        "20 relearning steps: exposure above never planted, bits",
        "再学习 20 步：暴露度高出从未植入（比特）",
    ),
    "alpha1_extraction": ("alpha 1: extraction", "alpha 1：提取率"),
    "alpha1_ppl_ratio_fp32": ("alpha 1: perplexity / planted fp32", "alpha 1：困惑度 / 植入后 fp32"),
    "ortho_bits_per_weight": ("Ortho, bits per weight", "Ortho，每权重比特数"),
}
CPU_FIGURES: dict[str, Words] = {
    "cpu_demo_seconds": ("whole run, preset cpu", "cpu 预设的完整运行"),
    "cpu_demo_peak_rss_bytes": ("its peak resident memory", "其常驻内存峰值"),
}
NOT_YET: Words = ("Not measured yet.", "尚未测量。")
_ASKED: Words = ("asked of wiener", "对 wiener 的要求")
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


def summary(folder: Path, document: Path, language: int) -> str:
    """The README's tables: measures against arms, then the newcomer's run, each with how to reproduce it."""
    full, cpu = newest_receipt(folder, FULL), newest_receipt(folder, CPU)
    parts = []
    if full is not None:
        parts += [_arm_table(full, language), _source(full, document, language)]
    if cpu is not None:
        rows = [
            [words[language], _value(cpu.figures[name]), _asked(cpu.figures[name], language)]
            for name, words in CPU_FIGURES.items()
            if name in cpu.figures
        ]
        headers = [
            (("on a CPU", "CPU 上")[language]),
            ("measured", "实测")[language],
            ("asked", "要求")[language],
        ]
        parts += [_table(headers, rows), _source(cpu, document, language)]
    return "\n\n".join(parts) if parts else NOT_YET[language]


def every_figure(folder: Path, document: Path, language: int) -> str:
    """Every figure of every area's newest receipt, with interval, n, target and note."""
    parts = []
    for receipt in (newest_receipt(folder, FULL), newest_receipt(folder, CPU)):
        if receipt is not None:
            rows = [
                [
                    f"`{one['name']}`",
                    _value(one),
                    format_interval(one.get("low"), one.get("high"), one["name"], one["unit"]),
                    f"{one.get('n') or ''}",
                    _asked(one, language),
                    one.get("note") or "",
                ]
                for one in receipt.figures.values()
            ]
            headers = ["figure", "value", "interval", "n", "asked", "note"]
            parts += [_table(headers, rows), _source(receipt, document, language)]
    return "\n\n".join(parts) if parts else NOT_YET[language]


BLOCKS = {"kill-switch": summary, "kill-switch-figures": every_figure}


def _arm_table(receipt: Receipt, language: int) -> str:
    arms = [arm for arm in ARMS if any(f"{arm}_{measure}" in receipt.figures for measure in MEASURES)]
    rows = []
    for measure, words in MEASURES.items():
        figures = [receipt.figures.get(f"{arm}_{measure}") for arm in arms]
        if any(figures):
            wiener = receipt.figures.get(f"wiener_{measure}", {})
            cells = [_value(one) + _mark(one) if one else "-" for one in figures]
            rows.append([words[language], *cells, _target(wiener, language)])
    return _table(["", *(ARMS[arm][language] for arm in arms), _ASKED[language]], rows)


def _value(figure: Mapping[str, Any]) -> str:
    value, unit = figure["value"], figure["unit"]
    if value is None:
        return "-"
    if unit in ("s", "seconds"):
        return format_seconds(value)
    return format_bytes(value) if unit == "bytes" else format_value(value, figure["name"], unit)


def _mark(figure: Mapping[str, Any]) -> str:
    met = figure.get("met")
    return "" if met is None else " ✓" if met else " ✗"


def _target(figure: Mapping[str, Any], language: int) -> str:
    target = str(figure.get("target") or "")
    if match := re.fullmatch(r"(at (?:most|least)) ([\d.]+)", target):
        target = f"{match[1]} {_value({**figure, 'value': float(match[2])})}"
    for english, chinese in _PHRASES if language else ():
        target = target.replace(english, chinese)
    return target


def _asked(figure: Mapping[str, Any], language: int) -> str:
    return _target(figure, language) + _mark(figure)


def _source(receipt: Receipt, document: Path, language: int) -> str:
    link = Path(os.path.relpath(receipt.path, document.parent)).as_posix()
    device = receipt.content["device"]
    size = f", {format_bytes(device['total_bytes'])}" if device.get("total_bytes") else ""
    facts = f"{device['name']}{size}, {receipt.content['date']}, commit {str(receipt.content['commit'])[:10]}"
    again = ("To reproduce", "复现方法")[language]
    return f"{again}: `{receipt.content['command']}` ({facts}; [{receipt.path.name}]({link}))"


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines)


def filled(text: str, document: Path, receipts: Path) -> str:
    """`text` with every block made anew. Raises InputError for a block that is unknown or has no end."""
    language = 1 if document.name.endswith(".zh-CN.md") else 0

    def make(match: re.Match[str]) -> str:
        if match[2] not in BLOCKS:
            raise UnknownNameError("block of receipts", match[2], BLOCKS, where=str(document))
        return f"{match[1]}{BLOCKS[match[2]](receipts, document, language)}\n{match[3]}"

    if len(_OPENING.findall(text)) != len(_BLOCK.findall(text)):
        raise InputError("a block of receipts has no end", expected="<!-- /receipts -->", where=str(document))
    return _BLOCK.sub(make, text)


def help_page() -> str:
    """docs/cli.md: what `sixgig --help` and every verb's --help print."""
    from sixgig.cli.verbs import VERBS

    parts = ["# Command line", "Generated by `benchmarks/make_docs.py` from the commands' own help."]
    for words in ([], *([verb.name] for verb in VERBS)):
        parts.append(f"## {' '.join(['sixgig', *words])}\n\n```text\n{help_of(words)}\n```")
    return "\n\n".join(parts) + "\n"


def help_of(words: Sequence[str]) -> str:
    """The help of one verb, at a fixed width and without colours."""
    from sixgig.cli.main import run

    fixed = mock.patch.dict(os.environ, COLUMNS=HELP_COLUMNS, NO_COLOR="1")
    with fixed, contextlib.redirect_stdout(io.StringIO()) as out:
        status = run([*words, "--help"])
    if status:
        raise InputError("a command has no help", received=f"exit status {status}", where=" ".join(words))
    return "\n".join(line.rstrip() for line in out.getvalue().strip().split("\n"))


def drifted(root: Path) -> dict[Path, str]:
    """Each generated file whose content differs from what it must be -> what it must be."""
    receipts = root / "docs" / "receipts"
    wanted = {root / "docs" / "cli.md": help_page()}
    for document in sorted([*root.glob("*.md"), *(root / "docs").glob("*.md")]):
        if document not in wanted:
            wanted[document] = filled(read_text(document), document, receipts)
    return {path: text for path, text in wanted.items() if not path.exists() or read_text(path) != text}


def main(arguments: Sequence[str] | None = None, *, root: Path = ROOT) -> int:
    """Writes, or with --check names, what drifted; returns the exit status."""
    parser = argparse.ArgumentParser(description="Regenerate the documents' tables and docs/cli.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when something drifted")
    check = parser.parse_args(arguments).check
    changed = drifted(root)
    for path, text in changed.items():
        name = path.relative_to(root).as_posix()
        if check:
            print(f"{name} differs from what it is made from; mend it with: make docs", file=sys.stderr)
        else:
            write_text(path, text)
            print(f"wrote {name}")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
