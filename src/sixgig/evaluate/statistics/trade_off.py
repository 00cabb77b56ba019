"""What protection costs: the cost at which a leak has fallen to a stated level.

A curve's K steps go from no protection to the most. Measured leaks waver by chance, so both sides are first
made monotone by isotonic regression (Barlow et al. 1972, "Statistical Inference under Order Restrictions";
scipy's), the leak falling, the cost rising; between two steps the cost is taken as linear in the leak.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import isotonic_regression

from ...errors import InputError
from .intervals import finite


def cost_at(leaks_K: np.ndarray, costs_K: np.ndarray, level: float) -> float | None:
    """The least cost at which the leak is down to `level`; None where the curve does not cross it, because
    it begins at or below it, or never gets there.

    >>> cost_at(np.array([3.0, 2.0, 0.0]), np.array([10.0, 11.0, 15.0]), 1.0)
    13.0
    """
    leaks_K, costs_K = finite("leaks", leaks_K), finite("costs", costs_K)
    if leaks_K.shape != costs_K.shape or leaks_K.ndim != 1 or len(leaks_K) < 2:
        raise InputError(
            "not a curve",
            expected="as many leaks as costs, two or more",
            received=f"shapes {leaks_K.shape} and {costs_K.shape}",
        )
    leaks_K, costs_K = _monotone(leaks_K, costs_K)
    if leaks_K[0] <= level or leaks_K[-1] > level:
        return None
    return _least_cost(leaks_K, costs_K, level)


def costs_at(leaks_BK: np.ndarray, costs_BK: np.ndarray, level: float) -> np.ndarray:
    """The least cost of every resample [B] at which its leak is down to `level`: that of its first step where
    it begins there, infinite where it never gets there."""
    curves = (_monotone(leaks_K, costs_K) for leaks_K, costs_K in zip(leaks_BK, costs_BK, strict=True))
    return np.array([_least_cost(leaks_K, costs_K, level) for leaks_K, costs_K in curves])


def _monotone(leaks_K: np.ndarray, costs_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    leaks_K, costs_K = (
        isotonic_regression(values_K, increasing=rising).x
        for values_K, rising in ((leaks_K, False), (costs_K, True))
    )
    return leaks_K, costs_K


def _least_cost(leaks_K: np.ndarray, costs_K: np.ndarray, level: float) -> float:
    """Of a monotone curve."""
    low_enough = np.flatnonzero(leaks_K <= level)
    if not len(low_enough):
        return np.inf
    after = int(low_enough[0])
    if after == 0:
        return float(costs_K[0])
    share = (leaks_K[after - 1] - level) / (leaks_K[after - 1] - leaks_K[after])
    return float(costs_K[after - 1] + share * (costs_K[after] - costs_K[after - 1]))
