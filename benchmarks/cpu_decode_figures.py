"""What the measured rounds of `cpu_decode.py` say: ratios within rounds, speeds, and perplexities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import bootstrap

Rounds = Mapping[str, Sequence[Mapping[str, float]]]

MAIN = "int4_alpha0"
# figure -> (the slower-to-be, the faster-to-be, note); ratios of tokens a second, above 1 is faster
RATIOS = {
    "cpu_decode_vs_bf16": ("bf16", MAIN, "packed, alpha = 0, 8-bit head, over dense bf16: same lean loop"),
    "cpu_decode_alpha1_vs_bf16": ("bf16", "int4_alpha1", "the same at alpha = 1: sparse part and low rank"),
    "cpu_decode_alpha1_vs_alpha0": (MAIN, "int4_alpha1", "what alpha = 1 costs"),
    "cpu_decode_head16_vs_bf16": ("bf16", "int4_alpha0_head16", "the head left in bf16"),
    "cpu_decode_head4_vs_bf16": ("bf16", "int4_alpha0_head4", "the head in 4 bits"),
    "cpu_decode_vs_fp16": ("fp16", MAIN, "torch multiplies one row by fp16 weights faster than by bf16"),
    "cpu_decode_vs_modules": ("bf16_modules", MAIN, "over dense bf16 in transformers' modules, static cache"),
    "cpu_decode_vs_generate": ("bf16_generate", MAIN, "over transformers' generate, dense bf16"),
    "cpu_lean_vs_modules_bf16": ("bf16_modules", "bf16", "the lean loop alone, both dense bf16"),
}
TARGETS = {"cpu_decode_vs_bf16": 1.0}
QUALITY = {
    "cpu_packed_ppl_ratio": ("reference", "head16", "packed layers in bf16 over the same Base in fp32"),
    "cpu_head8_ppl_ratio": ("head16", "head8", "head in 8 bits over bf16"),
    "cpu_head4_ppl_ratio": ("head16", "head4", "head in 4 bits over bf16"),
}


def figures(rounds: Rounds, quality: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """All figures of the receipt."""
    found = []
    for name, (slower, faster, note) in RATIOS.items():
        ratios = _times(rounds, slower) / _times(rounds, faster)
        found.append(_figure(name, ratios, np.median, "ratio", note, least=TARGETS.get(name)))
    for name in rounds:
        times = _times(rounds, name)
        found.append(_figure(f"cpu_{name}_ms_per_token", times, np.median, "ms", ""))
        found.append(_figure(f"cpu_{name}_tokens_per_s", 1e3 / times, np.median, "tokens/s", ""))
    prefill = _times(rounds, "bf16", "prefill_ms") / _times(rounds, MAIN, "prefill_ms")
    found.append(_figure("cpu_prefill_vs_bf16", prefill, np.median, "ratio", "speed of reading the prompt"))
    for name, (before, after, note) in QUALITY.items():
        gaps = np.asarray(quality[after]) - np.asarray(quality[before])
        found.append(_perplexity(name, gaps, quality["num_targets"][0], note))
    return found


def _times(rounds: Rounds, name: str, key: str = "ms_per_token") -> np.ndarray:
    return np.array([one[key] for one in rounds[name]])


def _perplexity(name: str, gaps_nats: np.ndarray, targets_per_window: float, note: str) -> dict[str, Any]:
    """exp of the mean NLL's difference, windows resampled in pairs."""

    def ratio(gaps: np.ndarray, axis: int = -1) -> Any:
        return np.exp(np.mean(gaps, axis=axis) / targets_per_window)

    return _figure(name, gaps_nats, ratio, "ratio", f"perplexity; {note}")


def _figure(
    name: str,
    values: np.ndarray,
    statistic: Callable[..., Any],
    unit: str,
    note: str,
    *,
    least: float | None = None,
) -> dict[str, Any]:
    """`statistic` of `values`, with the 95% percentile interval of a bootstrap over them."""
    value = float(statistic(values))
    low, high = value, value
    if len(set(values.tolist())) > 1:
        interval = bootstrap(
            (values,), statistic, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "low": low,
        "high": high,
        "n": len(values),
        "target": None if least is None else f"at least {least:g}",
        "met": None if least is None else value >= least,
        "note": note,
    }
