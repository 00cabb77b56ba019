"""Dual-dp's scores and curves: pure functions of what the looks saved. The unit is the secret."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..evaluate.statistics import clopper_pearson
from ..evaluate.statistics.resampling import percentiles
from ..report.schema import Curve, Score
from .dual_dp_levels import LEVELS_BITS, cost_of, perplexity, share_never
from .dual_dp_pools import DualDpPools, Step, TradeOff

X_LABEL = "leakage: exposure above never-planted secrets (bits)"
Y_LABEL = "perplexity of public text"


class DualDpScores:
    """Scores of every arm at every step, what stated leakages cost, and the curves of the page."""

    def __init__(self, pools: DualDpPools) -> None:
        self._pools = pools

    def all(self, facts: Mapping[str, Mapping[str, float]]) -> list[Score]:
        """`facts`: by sieve, sizes of its Ortho part."""
        found: list[Score] = []
        for arm, curve in self._pools.curves.items():
            found += self._steps(arm, curve)
        for arm, curve in self._pools.curves.items():
            found += [self._at_level(_turned_down(self._pools, arm), curve, level) for level in LEVELS_BITS]
        for sieve, sizes in facts.items():
            for name, unit in (("ortho_bits_per_weight", "bits"), ("ortho_bytes", "bytes")):
                if name in sizes:
                    found.append(_score(name, sieve, Step(alpha=1.0), sizes[name], unit, higher=None))
        return found

    def curves(self) -> list[Curve]:
        """One figure a sieve: each way's line, and the Base alone as a point."""
        found = []
        for sieve in self._pools.config.sieves:
            arms = {arm: curve for arm, curve in self._pools.curves.items() if arm.startswith(sieve)}
            for arm, curve in arms.items():
                found.append(_curve(f"leakage_{sieve}", _turned_down(self._pools, arm), curve, slice(None)))
            found.append(_curve(f"leakage_{sieve}", f"{sieve}-base", arms[sieve], slice(-1, None)))
        return found

    # ---- one curve -------------------------------------------------------------------------------------

    def _steps(self, arm: str, curve: TradeOff) -> list[Score]:
        """Noise arms leave out their first step, which is the sieve's own at alpha = 1."""
        num_secrets, num_windows = self._pools.num_secrets, self._pools.num_windows
        auc_K, auc_BK = self._pools.resampled_auc(curve)
        found = []
        for place, step in enumerate(curve.steps):
            if step.sigma is None and arm not in self._pools.config.sieves:
                continue
            gap, nats = (curve.gap_K[place], curve.gap_BK[:, place]), curve.nats_BK[:, place]
            auc, ppl = (auc_K[place], auc_BK[:, place]), (np.exp(curve.nats_K[place]), np.exp(nats))
            found += [
                _sampled("exposure_gap", arm, step, gap, "bits", num_secrets),
                _sampled("auc_loss", arm, step, auc, "AUC", num_secrets),
                _extraction(arm, step, curve, place),
                _sampled("perplexity", arm, step, ppl, "perplexity", num_windows),
            ]
        return found

    def _at_level(self, arm: str, curve: TradeOff, level: float) -> Score:
        name, cost = f"perplexity_at_{level:g}_bits", cost_of(curve, level)
        if isinstance(cost, str):
            # In few words, for a cell of a table; the verdicts say why.
            return _score(name, arm, None, None, "perplexity", note="not crossed")
        found = perplexity(self._pools, cost)
        low, high = (end if math.isfinite(end) else None for end in (found.interval.low, found.interval.high))
        never = f"no upper end: {share_never(cost):.1%} of resamples never fall so low"
        note = never if high is None else ""
        return _score(name, arm, None, found.value, "perplexity", low, high, n=found.n, note=note)


def _turned_down(pools: DualDpPools, arm: str) -> str:
    """A sieve's own curve under a name that says what is turned: alpha."""
    return f"{arm}-alpha" if arm in pools.config.sieves else arm


def _extraction(arm: str, step: Step, curve: TradeOff, place: int) -> Score:
    hits = np.concatenate([seed.extracted_DKH[:, place].mean(axis=0) for seed in curve.seeds])
    interval = clopper_pearson(round(hits.sum()), len(hits))
    value = float(hits.mean())
    # A mean over draws may lie a fraction of a secret beside the whole number that the interval is of.
    low, high = min(interval.low, value), max(interval.high, value)
    note = "mean over draws of noise; the interval is over secrets (Clopper-Pearson)" if step.sigma else ""
    return _score("extraction_heldout", arm, step, value, "share", low, high, n=len(hits), note=note)


def _sampled(name: str, arm: str, step: Step, found: tuple[float, np.ndarray], unit: str, n: int) -> Score:
    interval = percentiles(found[1], 0.95)
    return _score(name, arm, step, found[0], unit, interval.low, interval.high, n=n)


def _score(
    name: str,
    arm: str,
    step: Step | None,
    value: float | None,
    unit: str,
    low: float | None = None,
    high: float | None = None,
    *,
    n: int = 0,
    higher: bool | None = False,
    note: str = "",
) -> Score:
    """`step` None: of the whole curve."""
    return Score(
        name=name,
        arm=arm,
        alpha=None if step is None else step.alpha,
        condition="plain" if step is None else step.condition,
        value=None if value is None else float(value),
        low=low,
        high=high,
        n=n,
        unit=unit,
        higher_is_better=higher,
        note=note,
    )


def _curve(name: str, arm: str, curve: TradeOff, part: slice) -> Curve:
    gaps = [percentiles(curve.gap_BK[:, place], 0.95) for place in range(len(curve.gap_K))][part]
    costs = [percentiles(np.exp(curve.nats_BK[:, place]), 0.95) for place in range(len(curve.nats_K))][part]
    return Curve(
        name=name,
        arm=arm,
        x_label=X_LABEL,
        y_label=Y_LABEL,
        x=curve.gap_K[part].tolist(),
        y=np.exp(curve.nats_K[part]).tolist(),
        low=[one.low for one in costs],
        high=[one.high for one in costs],
        x_low=[one.low for one in gaps],
        x_high=[one.high for one in gaps],
    )
