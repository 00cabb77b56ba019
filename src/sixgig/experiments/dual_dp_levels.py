"""What a stated leakage costs on each curve, and two curves held against one another there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..evaluate.statistics import Estimate, Interval
from ..evaluate.statistics.resampling import percentiles
from ..evaluate.statistics.trade_off import cost_at, costs_at
from .dual_dp_pools import DualDpPools, TradeOff

LEVELS_BITS = (4.0, 2.0, 1.0, 0.5)  # of exposure above never-planted secrets
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Log-perplexity at a level of leakage: its value and its resamples, infinite where one never does."""

    nats: float
    nats_B: np.ndarray


def cost_of(curve: TradeOff, level: float) -> Cost | str:
    """The cost on `curve`, or in words why it has none."""
    nats = cost_at(curve.gap_K, curve.nats_K, level)
    if nats is None:
        if curve.gap_K[0] <= level:
            return f"without protection the leak is only {curve.gap_K[0]:.2f} bits, so nothing is paid for"
        return f"the leak never falls to {level:g} bits here; the lowest is {curve.gap_K.min():.2f}"
    return Cost(nats=nats, nats_B=costs_at(curve.gap_BK, curve.nats_BK, level))


def base_alone(curve: TradeOff, level: float) -> Cost | str:
    """The cost of leaving the Ortho part out, from the curve of a sieve; in words, where that leaks more."""
    gap = float(curve.gap_K[-1])
    if gap > level:
        return f"the Base alone leaks {gap:.2f} bits, more than {level:g}"
    return Cost(nats=float(curve.nats_K[-1]), nats_B=curve.nats_BK[:, -1])


def perplexity(pools: DualDpPools, cost: Cost) -> Estimate:
    """Its upper end may be infinite."""
    return _estimate(pools, cost.nats, cost.nats_B, cost.nats_B)


def ratio(pools: DualDpPools, one: Cost, other: Cost) -> Estimate:
    """Perplexity of one over the other's, paired; below 1: the first is cheaper.

    A resample in which only the second never gets there has the ratio 0, one in which only the first does
    not an infinite one. Where neither does the ratio may be anything: 0 at the lower end, infinite at the
    upper one.
    """
    neither_B = np.isinf(one.nats_B) & np.isinf(other.nats_B)
    with np.errstate(invalid="ignore"):
        nats_B = one.nats_B - other.nats_B
    low_B, high_B = (np.where(neither_B, end, nats_B) for end in (-np.inf, np.inf))
    return _estimate(pools, one.nats - other.nats, low_B, high_B)


def share_never(*costs: Cost) -> float:
    """Of the resamples: in which one of the curves or more never falls to the level."""
    return float(np.any([np.isinf(cost.nats_B) for cost in costs], axis=0).mean())


def _estimate(pools: DualDpPools, nats: float, low_B: np.ndarray, high_B: np.ndarray) -> Estimate:
    interval = Interval(low=_end(low_B, "low"), high=_end(high_B, "high"), confidence=CONFIDENCE)
    return Estimate(value=float(np.exp(nats)), interval=interval, n=pools.num_secrets)


def _end(nats_B: np.ndarray, end: Literal["low", "high"]) -> float:
    """One end of the percentile interval of exp(`nats_B`)."""
    resampled = np.exp(nats_B)
    if np.isfinite(nats_B).all():
        return getattr(percentiles(resampled, CONFIDENCE), end)
    # Between a number and an infinite one nothing lies: the resample on the outer side of the percentile.
    tail = (1 - CONFIDENCE) / 2
    share, side = (tail, "lower") if end == "low" else (1 - tail, "higher")
    return float(np.quantile(resampled, share, method=side))
