"""Dual-dp's criteria, fixed before any run that counts.

Two decide, at one bit of leakage and for the first sieve: noise on the Ortho part must cost less perplexity
than noise on everything, and less than not publishing the Ortho part at all. The other levels, the other
sieve and the other forms of noise are shown for comparison.
"""

from __future__ import annotations

import math

from ..evaluate.statistics import size_to_decide, visible_difference
from ..report.schema import Verdict
from .dual_dp_levels import CONFIDENCE, LEVELS_BITS, Cost, base_alone, cost_of, ratio, share_never
from .dual_dp_pools import DualDpPools
from .dual_dp_seed import noise_arm

MAIN_LEVEL_BITS = 1.0


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
    """Decided where the whole 95% interval of the ratio of perplexities lies on one side of 1.

    Open where an end of it is infinite or 0, since one of the costs is infinite there.
    """
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
    low = found.interval.low if found.interval.low > 0 else None
    high = found.interval.high if math.isfinite(found.interval.high) else None
    note, passed, needed_n = _sample(pools, found.n), None, None
    if low is None or high is None:
        never = share_never(one, other)
        note += f"; no {_missing_ends(low, high)}: {never:.1%} of resamples never fall to this leakage"
    elif high < 1 or low > 1:
        passed = high < 1
    else:
        needed_n = size_to_decide(found.interval, found.value, 1.0, found.n)
        seen = visible_difference((math.log(high) - math.log(low)) / 2, confidence=CONFIDENCE)
        note += f"; a ratio of {math.exp(-seen):.2f} would have been seen"
    return Verdict(
        criterion=criterion,
        arm=arm,
        threshold=threshold,
        value=found.value,
        low=low,
        high=high,
        passed=passed,
        needed_n=needed_n,
        note=note,
        counts=counts,
    )


def _missing_ends(low: float | None, high: float | None) -> str:
    return " and no ".join(name for name, end in (("lower end", low), ("upper end", high)) if end is None)


def _sample(pools: DualDpPools, num_secrets: int) -> str:
    """What the verdict rests on."""
    config = pools.config
    return (
        f"{num_secrets} secrets, {pools.num_windows} windows, {config.num_draws} draws of noise, "
        f"{len(config.seeds)} seed{'s' if len(config.seeds) > 1 else ''}"
    )
