"""What a stated leakage costs on each curve, and two curves held against one another there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..evaluate.statistics import Estimate
from ..evaluate.statistics.resampling import percentiles
from ..evaluate.statistics.trade_off import cost_at, costs_at
from .dual_dp_pools import DualDpPools, TradeOff

LEVELS_BITS = (4.0, 2.0, 1.0, 0.5)  # of exposure above never-planted secrets
MIN_CROSSING = 0.95  # share of resamples whose curve must cross a level too


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Log-perplexity at a level of leakage: its value and its resamples (NaN where one does not cross)."""

    nats: float
    nats_B: np.ndarray


def cost_of(curve: TradeOff, level: float) -> Cost | str:
    """The cost on `curve`, or in words why it has none."""
    nats = cost_at(curve.gap_K, curve.nats_K, level)
    if nats is None:
        if curve.gap_K[0] <= level:
            return f"without protection the leak is only {curve.gap_K[0]:.2f} bits, so nothing is paid for"
        return f"the leak never falls to {level:g} bits here; the lowest is {curve.gap_K.min():.2f}"
    nats_B = costs_at(curve.gap_BK, curve.nats_BK, level)
    crossing = float(np.isfinite(nats_B).mean())
    if crossing < MIN_CROSSING:
        return (
            f"only {crossing:.1%} of the resamples cross {level:g} bits: too few secrets, or too near an end"
        )
    return Cost(nats=nats, nats_B=nats_B)


def base_alone(curve: TradeOff, level: float) -> Cost | str:
    """The cost of leaving the Ortho part out, from the curve of a sieve; in words, where that leaks more."""
    gap = float(curve.gap_K[-1])
    if gap > level:
        return f"the Base alone leaks {gap:.2f} bits, more than {level:g}"
    return Cost(nats=float(curve.nats_K[-1]), nats_B=curve.nats_BK[:, -1])


def perplexity(pools: DualDpPools, cost: Cost) -> Estimate:
    return _estimate(pools, cost.nats, cost.nats_B)


def ratio(pools: DualDpPools, one: Cost, other: Cost) -> Estimate:
    """Perplexity of one over the other's, paired; below 1: the first is cheaper."""
    return _estimate(pools, one.nats - other.nats, one.nats_B - other.nats_B)


def _estimate(pools: DualDpPools, nats: float, nats_B: np.ndarray) -> Estimate:
    resampled = np.exp(nats_B[np.isfinite(nats_B)])
    return Estimate(value=float(np.exp(nats)), interval=percentiles(resampled, 0.95), n=pools.num_secrets)
