"""The receipt of decode_8b.py: its figures, each with interval and target, and where they were measured."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from decode_8b_peers import Row, peer_rows

AREA, SCHEMA = "decode-8b", "sixgig.receipt/1"
CAP_GIB = 5.3  # what a 6 GiB card leaves to tensors

# name -> (target in words, whether the value meets it)
TARGETS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "decode_roofline_share_int4": ("at least 0.6", lambda value: value >= 0.6),
    "decode_int3_over_int4": ("above 1", lambda value: value > 1),
    "alpha0_overhead": ("at most 0.01", lambda value: value <= 0.01),
    "alpha1_overhead": ("at most 0.15", lambda value: value <= 0.15),
    "prefill_vs_bf16": ("at least 0.9", lambda value: value >= 0.9),
    "peak_allocated_gib_8b_512": ("at most 4.3", lambda value: value <= 4.3),
    "speedup_vs_bnb_nf4": ("at least 8", lambda value: value >= 8),
    "speedup_vs_torchao_int4": ("at least 1.2", lambda value: value >= 1.2),
    "speedup_vs_gemlite": ("at least 1.2", lambda value: value >= 1.2),
    "bnb_nf4_runs_under_cap": ("at most 0", lambda value: value == 0),
}


def figures(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """All figures, intervals by resampling rounds."""
    import numpy as np

    from sixgig.evaluate.statistics.paired import bootstrap_median, paired_median_ratio

    def times(arm: str, key: str = "ms_per_token") -> Any:
        return np.array([one[key] for one in measured["rounds"][arm]])

    def ratio(slow: Any, fast: Any) -> Any:
        return paired_median_ratio(slow, fast, seed=0)

    int4 = bootstrap_median(times("int4"), seed=0)
    cache_bytes = measured["cache_bytes_per_token"] * measured["middle_tokens"]
    ideal_ms = 1e3 * (measured["step_bytes"]["int4"] + cache_bytes) / measured["bandwidth"]
    share = bootstrap_median(ideal_ms / times("int4"), seed=0)
    rows = [
        (
            "decode_ms_int4",
            int4,
            0.0,
            "ms",
            "INT4 in groups of 128, INT4 head, CUDA graph, 512 tokens before",
        ),
        ("decode_tokens_per_second_int4", bootstrap_median(1e3 / times("int4"), seed=0), 0.0, "tokens/s", ""),
        ("decode_roofline_share_int4", share, 0.0, "ratio", "of the copy bandwidth in this process"),
        ("decode_int3_over_int4", ratio(times("int4"), times("int3")), 0.0, "ratio", "speed"),
        ("decode_int4_vs_bf16", ratio(times("bf16"), times("int4")), 0.0, "ratio", "speed; dense, same loop"),
        (
            "alpha0_overhead",
            ratio(times("alpha0"), times("int4")),
            1.0,
            "share",
            "to INT4 without Ortho part",
        ),
        ("alpha1_overhead", ratio(times("alpha1"), times("int4")), 1.0, "share", "0.5% sparse, rank 16"),
        (
            "prefill_vs_bf16",
            ratio(times("bf16", "prefill_ms"), times("int4", "prefill_ms")),
            0.0,
            "ratio",
            "speed; 512 tokens",
        ),
    ]
    found = [
        _figure(name, one.value - less, one.interval.low - less, one.interval.high - less, one.n, unit, note)
        for name, one, less, unit, note in rows
    ]
    if measured["peak"]:
        found.append(_peak_figure(measured["peak"]))
    return found + [_peer_figure(row) for row in peer_rows(measured["peers"])]


def _peak_figure(peak: dict[str, Any]) -> dict[str, Any]:
    name, note = "peak_allocated_gib_8b_512", f"embedding on the CPU, allocator held to {CAP_GIB} GiB"
    if "failed" in peak:
        return _figure(name, None, None, None, 0, "GiB", f"{note}: {peak['failed']}")
    value = peak["allocated_gib"]
    return _figure(name, value, value, value, 1, "GiB", note)


def _peer_figure(row: Row) -> dict[str, Any]:
    name, one, unit, note = row
    if one is None:
        return _figure(name, None, None, None, 0, unit, note)
    if isinstance(one, int | float):
        return _figure(name, one, one, one, 1, unit, note)
    return _figure(name, one.value, one.interval.low, one.interval.high, one.n, unit, note)


def _figure(
    name: str, value: float | None, low: float | None, high: float | None, n: int, unit: str, note: str
) -> dict[str, Any]:
    """`value` None: not measured, and so neither met nor missed."""
    target, meets = TARGETS.get(name, (None, None))
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "low": low,
        "high": high,
        "n": n,
        "target": target,
        "met": None if meets is None or value is None else meets(value),
        "note": note,
    }


def receipt(measured: dict[str, Any], commit: str) -> dict[str, Any]:
    """The receipt of what `decode_8b.measure` found so far."""
    import torch
    import triton

    on_gpu = torch.cuda.is_available() and bool(measured["peak"])
    device = (
        {
            "name": torch.cuda.get_device_name(0),
            "total_bytes": torch.cuda.get_device_properties(0).total_memory,
        }
        if on_gpu
        else {"name": "CPU, Triton's interpreter", "total_bytes": None}
    )
    versions: dict[str, str] = {}
    for one in measured["peers"]["speed"].values():
        versions |= one.get("facts", {}).get("versions", {})
    return {
        "schema": SCHEMA,
        "area": AREA,
        "command": _command(measured),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit,
        "device": device,
        "versions": {"torch": torch.__version__, "triton": triton.__version__} | versions,
        "config": {key: measured[key] for key in ("shape", "prompt_tokens", "tokens_per_round")},
        "figures": figures(measured),
        "raw": measured,
    }


def _command(measured: dict[str, Any]) -> str:
    """Without the folder's own name, which says nothing elsewhere."""
    return "python benchmarks/decode_8b.py" + (" --peers-path FOLDER" if measured["with_peers_path"] else "")
