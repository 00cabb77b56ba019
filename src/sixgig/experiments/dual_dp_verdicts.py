"""Dual-dp's criteria, fixed before any run that counts.

Two decide, at one bit of leakage and for the first sieve: noise on the Ortho part must cost less perplexity
than noise on everything, and less than not publishing the Ortho part at all. The other levels, the other
sieve and the other forms of noise are shown for comparison.
"""

from __future__ import annotations

import math

from ..evaluate.statistics import Estimate, size_to_decide
from ..report.schema import Verdict
from .dual_dp_levels import LEVELS_BITS, Cost, base_alone, cost_of, ratio
from .dual_dp_pools import DualDpPools
from .dual_dp_seed import noise_arm

MAIN_LEVEL_BITS = 1.0
_POWER = (1.96 + 0.84) / 1.96  # of an interval's half width: what 80 of 100 such samples would show


def verdicts(pools: DualDpPools) -> list[Verdict]:
    found: list[Verdict] = []
    for sieve in pools.config.sieves:
        decides = sieve == pools.config.sieves[0]
        for level in sorted(LEVELS_BITS, key=lambda level: (level != MAIN_LEVEL_BITS, -level)):
            found.append(_against_all(pools, sieve, "ortho", level, decides and level == MAIN_LEVEL_BITS))
        found.append(_against_base(pools, sieve, decides))
        found.append(_against_alpha(pools, sieve))
        if "product" in pools.config.ways:
            found.append(_against_all(pools, sieve, "product", MAIN_LEVEL_BITS, False))
    return found


def _against_all(pools: DualDpPools, sieve: str, way: str, level: float, counts: bool) -> Verdict:
    arms = noise_arm(sieve, way), noise_arm(sieve, "all")
    return _cheaper(
        pools,
        arms[0],
        f"at {level:g} bit of leakage, noise on the Ortho part alone costs less than noise on all weights",
        (cost_of(pools.curves[arms[0]], level), cost_of(pools.curves[arms[1]], level)),
        counts,
    )


def _against_base(pools: DualDpPools, sieve: str, counts: bool) -> Verdict:
    arm, level = noise_arm(sieve, "ortho"), MAIN_LEVEL_BITS
    return _cheaper(
        pools,
        arm,
        f"at {level:g} bit of leakage, noise on the Ortho part costs less than leaving it out",
        (cost_of(pools.curves[arm], level), base_alone(pools.curves[sieve], level)),
        counts,
    )


def _against_alpha(pools: DualDpPools, sieve: str) -> Verdict:
    arm, level = noise_arm(sieve, "ortho"), MAIN_LEVEL_BITS
    return _cheaper(
        pools,
        arm,
        f"at {level:g} bit of leakage, noise on the Ortho part costs less than turning it down",
        (cost_of(pools.curves[arm], level), cost_of(pools.curves[sieve], level)),
        False,
    )


def _cheaper(
    pools: DualDpPools, arm: str, criterion: str, costs: tuple[Cost | str, Cost | str], counts: bool
) -> Verdict:
    """Decided where the whole 95% interval of the ratio of perplexities lies on one side of 1."""
    threshold = "perplexity ratio below 1 (95% interval)"
    one, other = costs
    if isinstance(one, str) or isinstance(other, str):
        missing = "; ".join(
            f"{which}: {cost}"
            for which, cost in (("noise", one), ("what it is held against", other))
            if isinstance(cost, str)
        )
        return Verdict(
            criterion=criterion,
            arm=arm,
            threshold=f"{threshold}; missing: {missing}",
            value=None,
            passed=None,
            counts=counts,
        )
    found = ratio(pools, one, other)
    low, high = found.interval.low, found.interval.high
    passed = True if high < 1 else False if low > 1 else None
    return Verdict(
        criterion=criterion,
        arm=arm,
        threshold=threshold,
        value=found.value,
        low=low,
        high=high,
        passed=passed,
        needed_n=size_to_decide(found.interval, found.value, 1.0, found.n) if passed is None else None,
        note=_sample(pools, found, undecided=passed is None),
        counts=counts,
    )


def _sample(pools: DualDpPools, found: Estimate, *, undecided: bool) -> str:
    """What the verdict rests on; where it is open, the smallest ratio that this sample would have shown."""
    config = pools.config
    words = (
        f"{found.n} secrets, {pools.num_windows} windows, {config.num_draws} draws of noise, "
        f"{len(config.seeds)} seed{'s' if len(config.seeds) > 1 else ''}"
    )
    if not undecided:
        return words
    half_width = (math.log(found.interval.high) - math.log(found.interval.low)) / 2
    return f"{words}; a ratio of {math.exp(-_POWER * half_width):.2f} would have been seen"
