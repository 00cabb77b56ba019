"""Showing that two groups are alike, which is not the same as failing to show that they differ.

TOST: Schuirmann 1987; sizes: Chow, Shao and Wang 2008, "Sample Size Calculations in Clinical Research",
section 3.2. Holm 1979 for several sieves at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import root_scalar
from scipy.stats import ks_2samp, norm

from ...errors import InputError
from .intervals import Interval, finite, require_between, sample

TostOutcome = Literal["equivalent", "different", "undecided"]


@dataclass(frozen=True, kw_only=True)
class KsTest:
    """Two-sample Kolmogorov-Smirnov: the largest distance of the two distribution functions, and its p."""

    statistic: float
    p_value: float


def tost(gap: Interval, margin: float, *, alpha: float = 0.05) -> TostOutcome:
    """Two one-sided tests at level `alpha`, read off the gap's interval at confidence 1 - 2 alpha (90%).

    equivalent  the whole interval lies strictly within -margin .. margin
    different   the whole interval lies beyond the margin on one side
    undecided   anything else: the sample is too small to tell
    """
    if margin <= 0:
        raise InputError("an equivalence margin must be positive", received=str(margin))
    if not math.isclose(gap.confidence, 1 - 2 * alpha, abs_tol=1e-9):
        raise InputError(
            "the interval does not belong to this test",
            expected=f"confidence {1 - 2 * alpha:g}, for two one-sided tests at {alpha:g} each",
            received=f"confidence {gap.confidence:g}",
        )
    if -margin < gap.low and gap.high < margin:
        return "equivalent"
    return "different" if gap.low > margin or gap.high < -margin else "undecided"


def tost_sample_size(
    sd_a: float,
    sd_b: float,
    *,
    ratio: float,
    margin: float,
    gap: float = 0.0,
    alpha: float = 0.05,
    power: float = 0.8,
) -> int | None:
    """Units of group a that TOST needs when the true gap is `gap`; group b has `ratio` times as many.

    None where `gap` is not within the margin: no size shows as equivalent what is not.

    With e = sqrt((sd_a^2 + sd_b^2 / ratio) / n_a), the smallest n_a for which both tests reject with
    probability Phi((margin - |gap|) / e - z) + Phi((margin + |gap|) / e - z) - 1 >= power, z = z_{1-alpha}.
    Chow, Shao and Wang drop the second test where gap is not 0, which asks for too little near 0; solved
    whole, it is their formula at 0, and theirs again where the gap is most of the margin:
    n_a = (z + z_{(1+power)/2})^2 (sd_a^2 + sd_b^2 / ratio) / margin^2, and with z_power and margin - |gap|.
    Normal approximation; units taken as independent, so clustering is in it only as far as the standard
    deviations are those within clusters.
    """
    require_between("alpha", alpha, 0, 0.5)
    require_between("power", power, 0, 1)
    if min(sd_a, sd_b) < 0 or ratio <= 0 or margin <= 0 or not math.isfinite(gap):
        raise InputError(
            "impossible size",
            expected="standard deviations of 0 or more, ratio and margin above 0, a gap",
            received=f"sd {sd_a:g} and {sd_b:g}, ratio {ratio:g}, margin {margin:g}, gap {gap:g}",
        )
    near, far = margin - abs(gap), margin + abs(gap)
    if near <= 0:
        return None
    z = float(norm.ppf(1 - alpha))

    def shortfall(errors: float) -> float:
        """`errors` is 1 / e."""
        return float(norm.cdf(near * errors - z) + norm.cdf(far * errors - z)) - 1 - power

    # One test alone at `power` is not enough; both, each failing half of what may fail, always are.
    low, high = ((z + float(norm.ppf(share))) / near for share in (power, (1 + power) / 2))
    # Where the gap is nearly the margin, the second test is certain to the last digit.
    if shortfall(low) >= 0:
        errors = low
    else:
        errors = high if shortfall(high) <= 0 else root_scalar(shortfall, bracket=(low, high)).root
    return max(2, math.ceil(float(errors) ** 2 * (sd_a**2 + sd_b**2 / ratio)))


def ks_two_sample(a: np.ndarray, b: np.ndarray) -> KsTest:
    """Kolmogorov-Smirnov of two independent samples, two-sided (scipy's, exact for small samples)."""
    # An array of two, since scipy's result object names its fields only at run time.
    statistic, p_value = np.asarray(ks_2samp(sample("sample a", a), sample("sample b", b)), dtype=np.float64)
    return KsTest(statistic=float(statistic), p_value=float(p_value))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values `[m]`, in the order given; reject those at or below the family-wise level."""
    p_values = finite("p-values", p_values)
    if p_values.ndim != 1 or ((p_values < 0) | (p_values > 1)).any():
        raise InputError("not p-values", expected="a list of numbers from 0 to 1")
    order = np.argsort(p_values, kind="stable")
    steps = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted
