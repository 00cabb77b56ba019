"""The receipt of measured quality: each row's ratio to full precision, and the figures that are asked for.

Which row stands for INT4, INT3 and INT3 with entries is decided by perplexity on validation text; the ratio
that is told is the test's. Only rows of a plain head take part.

SqueezeLLM (Kim et al. 2023, arXiv 2306.07629, table 1), LLaMA-7B at 3 bits, WikiText-2: fp16 5.68, dense
alone 6.32, with 0.45% kept 6.13. Perplexity falls by 3.0%; of the logarithm's gap to fp16, which does not
grow with a model's weakness as percents do, 29% is closed. Asked for is the larger claim: both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import Any

import numpy as np

from sixgig.errors import InputError
from sixgig.evaluate.statistics.resampling import paired_perplexity_ratio
from sixgig.provenance import provenance

AREA, SCHEMA, FULL = "quality", "sixgig.receipt/1", "full-precision"
FP16, DENSE, SPARSE = 5.68, 6.32, 6.13
FALL = 1 - SPARSE / DENSE
CLOSED = 1 - log(SPARSE / FP16) / log(DENSE / FP16)
MOST_INT4 = 1.06
Rows = Mapping[str, Mapping[str, Any]]


def receipt(done: Mapping[str, Any], device: str, commit: str | None = None) -> dict[str, Any]:
    """The receipt of what `quality.measure` returned; `commit`, where git does not tell it."""
    rows = done["rows"]
    origin = provenance([done["config"]["seed"]], [])
    return {
        "schema": SCHEMA,
        "area": AREA,
        "command": f"python benchmarks/quality.py --device {device}",
        "date": origin.date_utc[:10],
        "commit": commit or origin.commit,
        "device": {"name": origin.device_name if device != "cpu" else "cpu"},
        "versions": origin.library_versions | {"python": origin.python_version},
        "config": dict(done["config"]) | {"source_sha256": origin.source_sha256, "dirty": origin.dirty},
        "figures": figures(rows, done["config"]),
        "raw": {"rows": rows},
    }


def figures(rows: Rows, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures that are asked for first, then every row's ratio to full precision."""
    tokens = config["window_tokens"] - 1
    int4, int3 = chosen(rows, "int4", sparse=False), chosen(rows, "int3", sparse=False)
    sparse = chosen(rows, "int3", sparse=True)
    found = [
        _ratio("int4_ppl_ratio", rows, int4, FULL, tokens, most=MOST_INT4),
        _ratio("int3_ppl_ratio", rows, int3, FULL, tokens),
        _ratio("int3_sparse_ppl_ratio", rows, sparse, FULL, tokens),
        _ratio("int3_sparse_to_int3_ppl_ratio", rows, sparse, int3, tokens, most=1 - FALL),
        _closed(rows, int3, sparse, tokens),
    ]
    found += _against_peers(rows, int4, tokens)
    return found + [
        _ratio(f"ppl_ratio_{name}", rows, name, FULL, tokens)
        for name, row in rows.items()
        if name != FULL and "failed" not in row
    ]


def chosen(rows: Rows, start: str, *, sparse: bool) -> str:
    """The row of this project that reads the validation text best."""
    able = [
        name
        for name, row in rows.items()
        if name.startswith(start) and ("sparse" in name) == sparse and "head" not in name
    ]
    if not able:
        raise InputError(
            f"no row of {start}{' with entries kept' if sparse else ''} was measured",
            todo="measure one, or leave out --receipt",
        )
    return min(able, key=lambda name: rows[name]["choice_ppl"])


def _against_peers(rows: Rows, int4: str, tokens: int) -> list[dict[str, Any]]:
    peers = [name for name, row in rows.items() if row["kind"] == "peer" and "failed" not in row]
    peers = [name for name in peers if "int3" not in name]
    if not peers:
        return []
    best = min(peers, key=lambda name: rows[name]["test_ppl"])
    return [_ratio("int4_to_best_peer_ppl_ratio", rows, int4, best, tokens, most=1.0)]


def _closed(rows: Rows, int3: str, sparse: str, tokens: int) -> dict[str, Any]:
    """Share of INT3's gap in nats a token that the kept entries close, bootstrapped over windows."""
    full, dense, kept = (np.asarray(rows[name]["test_nll"]) / tokens for name in (FULL, int3, sparse))
    drawn = np.random.default_rng(0).integers(len(full), size=(2000, len(full)))

    def share(full: np.ndarray, dense: np.ndarray, kept: np.ndarray) -> np.ndarray:
        return 1 - (kept - full).mean(axis=-1) / (dense - full).mean(axis=-1)

    value = float(share(full, dense, kept))
    low, high = np.quantile(share(full[drawn], dense[drawn], kept[drawn]), (0.025, 0.975))
    return _figure(
        "int3_sparse_gap_closed", value, "share", (float(low), float(high)), len(full),
        target=f"at least {CLOSED:.2f}", met=value >= CLOSED, note=f"{sparse} against {int3}",
    )  # fmt: skip


def _ratio(
    name: str, rows: Rows, row: str, other: str, tokens: int, most: float | None = None
) -> dict[str, Any]:
    mine, theirs = (np.asarray(rows[key]["test_nll"]) for key in (row, other))
    counts = np.full(len(mine), tokens)
    ratio = paired_perplexity_ratio(mine, theirs, counts, seed=0)
    bits = rows[row]["bits_per_weight"]
    return _figure(
        name,
        ratio.value,
        "ratio",
        (ratio.interval.low, ratio.interval.high),
        len(mine),
        target=None if most is None else f"at most {most:.3f}",
        met=None if most is None else ratio.value <= most,
        note=f"{row} ({bits:.3f} bits a weight) against {other}",
    )


def _figure(
    name: str,
    value: float,
    unit: str,
    interval: Sequence[float],
    n: int,
    *,
    target: str | None,
    met: bool | None,
    note: str,
) -> dict[str, Any]:
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "low": interval[0],
        "high": interval[1],
        "n": n,
        "target": target,
        "met": met,
        "note": note,
    }
