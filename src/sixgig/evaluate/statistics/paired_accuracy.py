"""Two models' right answers to the same questions: what share one keeps of the other's, and by how much they
differ.

The unit that is resampled is what questions share, such as the two orders of one sum; units belong to a seed,
and are drawn within it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from ...errors import InputError
from .intervals import Estimate, Interval, clopper_pearson, sample
from .resampling import draw_weights, percentiles

Unit = tuple[int, Hashable]  # (seed, what questions share)


def paired_accuracy_ratio(
    right_a: np.ndarray,
    right_b: np.ndarray,
    units: Sequence[Unit],
    *,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int,
) -> Estimate | None:
    """sum(right_a) / sum(right_b) over the same questions [n]; None where b is never right.

    Where the two agree on every question no resample differs; the interval is then as wide as the exact
    upper bound for units that differ, none having been seen among them.
    """
    a, b = _pairs(right_a, right_b, units)
    if not b.sum():
        return None
    value = float(a.sum() / b.sum())
    if (a == b).all():
        return _all_alike(value, float(b.mean()), units, confidence)
    sum_a, sum_b, _ = _resampled(a, b, units, num_resamples, seed)
    usable = sum_b > 0
    return Estimate(
        value=value, interval=percentiles(sum_a[usable] / sum_b[usable], confidence), n=len(units)
    )


def paired_accuracy_difference(
    right_a: np.ndarray,
    right_b: np.ndarray,
    units: Sequence[Unit],
    *,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int,
) -> Estimate:
    """mean(right_a) - mean(right_b) over the same questions [n]; alike on all of them as the ratio says."""
    a, b = _pairs(right_a, right_b, units)
    value = float(a.mean() - b.mean())
    if (a == b).all():
        return _all_alike(value, 1.0, units, confidence)
    sum_a, sum_b, weight = _resampled(a, b, units, num_resamples, seed)
    return Estimate(value=value, interval=percentiles((sum_a - sum_b) / weight, confidence), n=len(units))


def _pairs(right_a: np.ndarray, right_b: np.ndarray, units: Sequence[Unit]) -> tuple[np.ndarray, np.ndarray]:
    a, b = sample("answers of a", right_a), sample("answers of b", right_b)
    if not len(a) == len(b) == len(units):
        raise InputError("not pairs", received=f"{len(a)} and {len(b)} answers, {len(units)} units")
    if len(set(units)) < 2:
        raise InputError("an interval needs two units", received="one", todo="ask more questions")
    return a, b


def _all_alike(value: float, accuracy: float, units: Sequence[Unit], confidence: float) -> Estimate:
    reach = clopper_pearson(0, len(set(units)), confidence=confidence).high / accuracy
    interval = Interval(low=value - reach, high=value + reach, confidence=confidence)
    return Estimate(value=value, interval=interval, n=len(units))


def _resampled(
    a: np.ndarray, b: np.ndarray, units: Sequence[Unit], num_resamples: int, seed: int
) -> np.ndarray:
    """[3, num_resamples]: sums of a, of b, and of the questions' weights."""
    rng = np.random.default_rng(seed)
    columns = np.stack([a, b, np.ones_like(a)], axis=1)
    places: dict[int, dict[Hashable, list[int]]] = {}
    for index, (of_seed, unit) in enumerate(units):
        places.setdefault(of_seed, {}).setdefault(unit, []).append(index)
    total = np.zeros((num_resamples, 3))
    for by_unit in places.values():
        sums = np.stack([columns[indices].sum(axis=0) for indices in by_unit.values()])
        if len(sums) < 2:
            raise InputError("an interval needs two units in each seed", received="one")
        total += draw_weights(len(sums), num_resamples, rng) @ sums
    return total.T
