"""What an interval is, and the exact one for a proportion.

Extraction rates sit at 0 or 1, where the normal approximation has zero width; Clopper and Pearson's interval
(1934, Biometrika 26) never covers less than it promises.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import beta

from ...errors import InputError, NumericalError

Side = Literal["two-sided", "upper", "lower"]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """From `low` to `high`, covering the truth with probability `confidence`."""

    low: float
    high: float
    confidence: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value, its interval, and the number of units behind it."""

    value: float
    interval: Interval
    n: int


def clopper_pearson(
    successes: int, n: int, *, confidence: float = 0.95, side: Side = "two-sided"
) -> Interval:
    """The exact binomial interval; with n = 0 it is [0, 1].

    `side="upper"` puts the whole error above: low is 0 and high the upper bound at `confidence`.
    """
    require_between("confidence", confidence, 0, 1)
    if not 0 <= successes <= n:
        raise InputError("impossible count", expected=f"0 to {n} successes", received=str(successes))
    tail = (1 - confidence) / (2 if side == "two-sided" else 1)
    low = float(beta.ppf(tail, successes, n - successes + 1)) if successes > 0 and side != "upper" else 0.0
    high = (
        float(beta.ppf(1 - tail, successes + 1, n - successes)) if successes < n and side != "lower" else 1.0
    )
    return Interval(low=low, high=high, confidence=confidence)


def clopper_pearson_sample_size(upper: float, *, confidence: float = 0.95) -> int:
    """Smallest n at which zero successes put the one-sided upper bound at `upper` or below.

    Closed form: 1 - (1 - confidence)^(1/n) <= upper. Example: `upper=0.01` needs 299.
    """
    require_between("upper", upper, 0, 1)
    require_between("confidence", confidence, 0, 1)
    return math.ceil(math.log(1 - confidence) / math.log1p(-upper))


def require_between(name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        raise InputError(
            f"{name} is out of range",
            expected=f"between {low} and {high}, both excluded",
            received=str(value),
        )


def finite(name: str, values: np.ndarray) -> np.ndarray:
    """`values` as float64. Raises NumericalError where one is NaN or infinite, since ranks would then lie."""
    values = np.asarray(values, dtype=np.float64)
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        raise NumericalError(
            f"{name} are not all finite", expected="finite numbers", received=f"{bad} NaN or infinite values"
        )
    return values


def sample(name: str, values: np.ndarray) -> np.ndarray:
    """A finite 1-D sample with at least one value."""
    values = finite(name, values)
    if values.ndim != 1 or values.size == 0:
        raise InputError(
            f"{name} is not a sample", expected="at least one number", received=f"shape {values.shape}"
        )
    return values
