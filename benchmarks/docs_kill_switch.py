"""The documents' tables of the kill switch: measures against arms, all sieves side by side, every figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docs_receipts import (
    NOT_YET,
    Receipt,
    Words,
    asked,
    mark,
    newest_receipt,
    source,
    table,
    target_text,
    value_text,
)
from sixgig.report.labels import format_interval

FULL, CPU, COMPARED = "kill-switch-full", "kill-switch-cpu", "kill-switch-compare"

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
# Of every sieve: what its Base leaks and costs, what relearning brings back, what alpha = 1 gives, how long.
COMPARED_MEASURES: dict[str, str] = {
    "alpha0_exposure_gap_bits": "gap, bits",
    "relearn20_exposure_gap_bits": "gap to never planted after relearning, bits",
    "alpha0_auc_heldout": "AUC",
    "alpha0_ppl_ratio_int4": "perplexity / INT4",
    "alpha0_ppl_ratio_int4_fitted": "/ INT4, scales fitted alike",
    "alpha1_extraction": "alpha 1: extracted",
    "alpha1_ppl_ratio_fp32": "alpha 1: perplexity / fp32",
    "ortho_bits_per_weight": "Ortho, bits a weight",
    "making_seconds": "made in",
}
_ASKED: Words = ("asked of wiener", "对 wiener 的要求")


def summary(folder: Path, document: Path, language: int) -> str:
    """The README's tables: measures against arms, then the newcomer's run, each with how to reproduce it."""
    full, cpu = newest_receipt(folder, FULL), newest_receipt(folder, CPU)
    parts = []
    if full is not None:
        parts += [_arm_table(full, language), source(full, document, language)]
    if cpu is not None:
        rows = [
            [words[language], value_text(cpu.figures[name]), asked(cpu.figures[name], language)]
            for name, words in CPU_FIGURES.items()
            if name in cpu.figures
        ]
        headers = [
            (("on a CPU", "CPU 上")[language]),
            ("measured", "实测")[language],
            ("asked", "要求")[language],
        ]
        parts += [table(headers, rows), source(cpu, document, language)]
    return "\n\n".join(parts) if parts else NOT_YET[language]


def comparison(folder: Path, document: Path, language: int) -> str:
    """Every sieve of the newest comparison against all measures, lowest gap first, and what it took."""
    receipt = newest_receipt(folder, COMPARED)
    if receipt is None:
        return NOT_YET[language]
    names = [
        arm.replace("-", "_") for arm in (*receipt.content["config"]["sieves"], "int4-fitted", "reference")
    ]
    gaps = {name: receipt.figures.get(f"{name}_alpha0_exposure_gap_bits") for name in names}
    known = sorted((float(gap["value"]), name) for name, gap in gaps.items() if gap is not None)
    rows = []
    for _, name in known:
        figures = [receipt.figures.get(f"{name}_{measure}") for measure in COMPARED_MEASURES]
        cells = [_with_interval(one) if one else "-" for one in figures]
        rows.append([ARMS.get(name, (f"`{name.replace('_', '-')}`",) * 2)[language], *cells])
    parts = [table(["", *COMPARED_MEASURES.values()], rows)]
    whole = receipt.figures.get("all_sieves_minutes")
    if whole is not None:
        parts.append(
            f"`all_sieves_minutes`: {value_text(whole)} (asked: {asked(whole, language)}); {whole['note']}."
        )
    return "\n\n".join([*parts, source(receipt, document, language)])


def _with_interval(figure: Mapping[str, Any]) -> str:
    told = format_interval(figure.get("low"), figure.get("high"), figure["name"], figure["unit"])
    return f"{value_text(figure)} {told}" if told else value_text(figure)


def every_figure(folder: Path, document: Path, language: int) -> str:
    """Every figure of every area's newest receipt, with interval, n, target and note."""
    parts = []
    for receipt in (newest_receipt(folder, FULL), newest_receipt(folder, CPU)):
        if receipt is not None:
            rows = [
                [
                    f"`{one['name']}`",
                    value_text(one),
                    format_interval(one.get("low"), one.get("high"), one["name"], one["unit"]),
                    f"{one.get('n') or ''}",
                    asked(one, language),
                    one.get("note") or "",
                ]
                for one in receipt.figures.values()
            ]
            headers = ["figure", "value", "interval", "n", "asked", "note"]
            parts += [table(headers, rows), source(receipt, document, language)]
    return "\n\n".join(parts) if parts else NOT_YET[language]


def _arm_table(receipt: Receipt, language: int) -> str:
    arms = [arm for arm in ARMS if any(f"{arm}_{measure}" in receipt.figures for measure in MEASURES)]
    rows = []
    for measure, words in MEASURES.items():
        figures = [receipt.figures.get(f"{arm}_{measure}") for arm in arms]
        if any(figures):
            wiener = receipt.figures.get(f"wiener_{measure}", {})
            cells = [value_text(one) + mark(one) if one else "-" for one in figures]
            rows.append([words[language], *cells, target_text(wiener, language)])
    return table(["", *(ARMS[arm][language] for arm in arms), _ASKED[language]], rows)
