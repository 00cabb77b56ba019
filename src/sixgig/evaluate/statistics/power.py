"""What a sample could have shown: the smallest true difference that it would have found, four times in five.

A criterion that was met says little where nothing smaller than a barn door could have been seen. Read off the
interval itself, so that pairing, strata and clusters are in it as far as they are in the interval. Normal
approximation (Chow, Shao and Wang 2008, section 3.2): an interval lies wholly beyond a limit with
probability `power` when the truth lies beyond it by (z_confidence + z_power) standard errors. It knows no
other error than the interval does: few units, or intervals that are too narrow, make it too hopeful.
"""

from __future__ import annotations

import math
from typing import Any

from scipy.optimize import brentq
from scipy.stats import beta, norm

from ...errors import InputError
from .intervals import clopper_pearson, require_between

POWER = 0.80


def visible_difference(half_width: float, *, confidence: float, power: float = POWER) -> float:
    """The smallest true distance from a limit that puts the interval wholly beyond it in `power` of cases.

    `half_width` is half of a two-sided interval of `confidence`; a one-sided 95% bound's distance from its
    value is half of a 90% interval. In the units of `half_width`.

    >>> round(visible_difference(1.96, confidence=0.95), 2)
    2.8
    """
    require_between("confidence", confidence, 0, 1)
    require_between("power", power, 0, 1)
    if not 0 <= half_width < math.inf:
        raise InputError("impossible half width", expected="a number of 0 or more", received=f"{half_width}")
    z = float(norm.ppf((1 + confidence) / 2))
    return half_width * (z + float(norm.ppf(power))) / z


def visible_rate(n: int, *, power: float = POWER) -> float:
    """The smallest rate of which n trials show at least one case with probability `power`, exactly.

    1 - (1 - rate)^n = power. Example: 15 secrets show a rate of 10.2%, and no smaller one, 8 times in 10.
    """
    require_between("power", power, 0, 1)
    if n < 1:
        raise InputError("without trials nothing is seen", expected="n of 1 or more", received=str(n))
    return -math.expm1(math.log1p(-power) / n)


def trials_of_upper_bound(rate: float, upper: float, *, confidence: float = 0.95) -> int | None:
    """How many trials stand behind Clopper and Pearson's one-sided `upper` bound on a measured `rate`.

    None where no whole number of them gives that bound: then it is a bound of another kind.
    """
    if not 0 <= rate < upper < 1:
        return None

    def excess(n: float) -> float:
        return float(beta.ppf(confidence, rate * n + 1, n * (1 - rate))) - upper

    largest = 1e9
    if excess(1.0) < 0 or excess(largest) > 0:
        return 1 if math.isclose(upper, _upper(rate, 1, confidence), rel_tol=1e-6) else None
    found: Any = brentq(excess, 1.0, largest)  # typed by scipy as the root, or the root and how it was found
    n = round(found)
    return n if math.isclose(upper, _upper(rate, n, confidence), rel_tol=1e-6) else None


def _upper(rate: float, n: int, confidence: float) -> float:
    return clopper_pearson(round(rate * n), n, confidence=confidence, side="upper").high
