"""Two models on the same questions or windows: what differs, item by item.

Pairing takes out what makes one item harder than another, which is most of the spread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from ...errors import InputError
from .intervals import Estimate, Interval, clopper_pearson, finite, sample
from .resampling import draw_weights, percentiles


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """Items that only the first or only the second model got right, and the exact two-sided p-value."""

    only_a: int
    only_b: int
    p_value: float


def mcnemar(right_a: Sequence[bool], right_b: Sequence[bool]) -> McNemar:
    """Do two models differ in how often they are right (McNemar 1947, Psychometrika 12)? Binomial, exact.

    Without a single item on which they differ, p is 1.
    """
    if len(right_a) != len(right_b) or not right_a:
        raise InputError(
            "not pairs", expected="as many outcomes of each", received=_lengths(right_a, right_b)
        )
    only_a = sum(a and not b for a, b in zip(right_a, right_b, strict=True))
    only_b = sum(b and not a for a, b in zip(right_a, right_b, strict=True))
    p_value = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return McNemar(only_a=only_a, only_b=only_b, p_value=float(p_value))


def exact_lost_share(before: np.ndarray, after: np.ndarray, *, confidence: float = 0.95) -> Estimate | None:
    """Of the items that were true `before`, the share that are so no more `after`; both 0 or 1, [n].

    Clopper and Pearson's interval over those items, which has a width where all of them agree; None where
    there is none. Items that are true after alone do not count against it.
    """
    before, after = _outcomes(before, after)
    num, lost = int(before.sum()), int((before & ~after).sum())
    if not num:
        return None
    return Estimate(value=lost / num, interval=clopper_pearson(lost, num, confidence=confidence), n=num)


def exact_paired_difference(a: np.ndarray, b: np.ndarray, *, confidence: float = 0.95) -> Estimate:
    """mean(a) - mean(b) of paired outcomes, 0 or 1, [n].

    The interval is Clopper and Pearson's of the share that only a has, less that of the share that only b
    has, each with half of the error (Bonferroni): it never covers less than `confidence`, and has a width
    where the two agree everywhere.
    """
    a, b = _outcomes(a, b)
    num, each = len(a), (1 + confidence) / 2
    only_a, only_b = (clopper_pearson(int(only.sum()), num, confidence=each) for only in (a & ~b, b & ~a))
    interval = Interval(low=only_a.low - only_b.high, high=only_a.high - only_b.low, confidence=confidence)
    return Estimate(value=float(a.mean() - b.mean()), interval=interval, n=num)


def bootstrap_stratified_mean(
    values: np.ndarray,
    strata: Sequence[str],
    stratum_weights: Mapping[str, float],
    *,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int,
) -> Estimate:
    """Mean over strata, each with its weight, of the means of `values` [n] within; resampled within strata.

    Strata of one value say nothing of their spread: they are pooled into one cell, in which they are drawn
    with the weights that they have.
    """
    values = sample("values", values)
    if len(strata) != len(values):
        raise InputError("strata do not fit", received=f"{len(strata)} for {len(values)} values")
    weights = _item_weights(strata, stratum_weights)
    cells: dict[str, list[int]] = {}
    for index, stratum in enumerate(strata):
        cells.setdefault(stratum, []).append(index)
    single = [cell[0] for cell in cells.values() if len(cell) == 1]
    drawn_from = [cell for cell in cells.values() if len(cell) > 1] + ([single] if single else [])
    if any(len(cell) < 2 for cell in drawn_from):
        drawn_from = [list(range(len(values)))]  # one lonely value: everything is one cell
    if len(values) < 2:
        raise InputError("an interval needs two values", received="one")
    rng = np.random.default_rng(seed)
    total = np.zeros(num_resamples)
    weight = np.zeros(num_resamples)
    for cell in drawn_from:
        counts = draw_weights(len(cell), num_resamples, rng)
        total += counts @ (weights[cell] * values[cell])
        weight += counts @ weights[cell]
    return Estimate(
        value=float((weights * values).sum()), interval=percentiles(total / weight, confidence), n=len(values)
    )


def paired_recovered_share(
    nll_base: np.ndarray,
    nll_between: np.ndarray,
    nll_best: np.ndarray,
    *,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int,
) -> Estimate | None:
    """(base - between) / (base - best), of sums over windows: how much of a loss was taken back; paired.

    None where the loss itself cannot be told from 0: then there is no share of it.
    """
    lost = finite("NLLs", nll_base) - finite("NLLs", nll_best)
    regained = finite("NLLs", nll_base) - finite("NLLs", nll_between)
    if lost.ndim != 1 or lost.shape != regained.shape or len(lost) < 2:
        raise InputError("windows do not fit", expected="the same two windows or more of all three models")
    weights = draw_weights(len(lost), num_resamples, np.random.default_rng(seed))
    losses = weights @ lost
    if percentiles(losses, confidence).low <= 0:
        return None
    return Estimate(
        value=float(regained.sum() / lost.sum()),
        interval=percentiles((weights @ regained)[losses > 0] / losses[losses > 0], confidence),
        n=len(lost),
    )


def paired_median_ratio(
    a: np.ndarray, b: np.ndarray, *, num_resamples: int = 2000, confidence: float = 0.95, seed: int
) -> Estimate:
    """median(a / b) of paired measurements [n], such as two arms' times in the same round, with its interval.

    The median, since what disturbs a machine for one round makes that round's ratio wild.
    """
    ratio = sample("ratios", finite("numerators", a) / finite("denominators", b))
    if len(ratio) < 2:
        raise InputError("an interval needs two rounds", received="one")
    picks = np.random.default_rng(seed).integers(len(ratio), size=(num_resamples, len(ratio)))
    return Estimate(
        value=float(np.median(ratio)),
        interval=percentiles(np.median(ratio[picks], axis=1), confidence),
        n=len(ratio),
    )


def bootstrap_median(
    values: np.ndarray, *, num_resamples: int = 2000, confidence: float = 0.95, seed: int
) -> Estimate:
    """Median of `values` [n] with its interval."""
    return paired_median_ratio(
        values, np.ones(len(values)), num_resamples=num_resamples, confidence=confidence, seed=seed
    )


def size_to_decide(interval: Interval, value: float, limit: float, n: int) -> int | None:
    """About how many units would put the whole interval on `value`'s side of `limit`; None where value is it.

    An interval's width falls as the root of its units.
    """
    distance = abs(limit - value)
    reach = (interval.high - value) if limit > value else (value - interval.low)
    if distance == 0:
        return None
    return max(n + 1, math.ceil(n * (reach / distance) ** 2))


def _outcomes(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as bool."""
    a, b = sample("outcomes", a), sample("outcomes", b)
    if len(a) != len(b) or not np.isin((a, b), (0, 1)).all():
        raise InputError(
            "not pairs of outcomes", expected="as many of each, 0 or 1", received=f"{len(a)} and {len(b)}"
        )
    return a.astype(bool), b.astype(bool)


def _item_weights(strata: Sequence[str], stratum_weights: Mapping[str, float]) -> np.ndarray:
    counts: dict[str, int] = {}
    for stratum in strata:
        counts[stratum] = counts.get(stratum, 0) + 1
    total = sum(stratum_weights[stratum] for stratum in counts)
    return np.asarray([stratum_weights[stratum] / total / counts[stratum] for stratum in strata])


def _lengths(a: Sequence[object], b: Sequence[object]) -> str:
    return f"{len(a)} and {len(b)}"
