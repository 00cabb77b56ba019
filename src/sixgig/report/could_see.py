"""Which difference each verdict could have seen, filled in for whole results: one place for all experiments.

What kind of interval a verdict rests on stands in its `threshold`, which is the criterion in words: "TOST" or
"90%" is the 90% interval of two one-sided tests, "upper bound" or one end alone a one-sided 95% bound (exact
where its trials can be found again), anything else a two-sided 95% interval. A "95% interval" with one end
alone has none on the other side, and says nothing of what could have been seen.
"""

from __future__ import annotations

import re

from ..evaluate.statistics.power import trials_of_upper_bound, visible_difference, visible_rate
from .schema import Result, Verdict

_TWO_ONE_SIDED = re.compile(r"\bTOST\b|\b90 ?% interval")
_TWO_SIDED = re.compile(r"\b95 ?% interval")
_UPPER_BOUND = re.compile(r"\bupper bound\b")
SHARE_SEEN = "8 of 10"  # evaluate.statistics.power.POWER, in words

# Why a verdict does not say what it could have seen.
NOT_MEASURED = "not measured"
NO_INTERVAL = "no interval"  # the value alone decides
NO_SPREAD = "no spread"  # the sample's units are all alike, which says nothing of those not in it
NO_END = "no bound on one side"
NOT_KEPT = "not kept"  # by the version that ran it


def with_visible_differences(result: Result) -> Result:
    """`result` with `visible_difference` in every verdict that has an interval."""
    verdicts = [
        verdict
        if verdict.visible_difference is not None  # by whoever knew more than the interval says
        else verdict.model_copy(update={"visible_difference": could_see(verdict)})
        for verdict in result.verdicts
    ]
    return result.model_copy(update={"verdicts": verdicts})


def could_see(verdict: Verdict) -> float | None:
    """The smallest true difference from the limit (of a bound on a rate: the smallest rate) that this sample
    shows with 80% probability at 5%; None where the verdict rests on no interval, or on one of no width."""
    value, low, high = verdict.value, verdict.low, verdict.high
    if value is None or (low is None and high is None) or low == high:
        return None
    if _lacks_end(verdict):
        return None
    if high is not None and (low is None or _UPPER_BOUND.search(verdict.threshold)):
        trials = trials_of_upper_bound(value, high)
        if trials is not None:
            return visible_rate(trials)
        return visible_difference(max(high - value, 0.0), confidence=0.90)
    if high is None:
        assert low is not None
        return visible_difference(max(value - low, 0.0), confidence=0.90)
    assert low is not None
    confidence = 0.90 if _TWO_ONE_SIDED.search(verdict.threshold) else 0.95
    return visible_difference((high - low) / 2, confidence=confidence)


def why_unknown(verdict: Verdict) -> str:
    """Why a verdict does not say what it could have seen; "" where it does."""
    if verdict.visible_difference is not None:
        return ""
    if verdict.value is None:
        return NOT_MEASURED
    if verdict.low is None and verdict.high is None:
        return NO_INTERVAL
    if _lacks_end(verdict):
        return NO_END
    return NO_SPREAD if verdict.low == verdict.high else NOT_KEPT


def _lacks_end(verdict: Verdict) -> bool:
    """A two-sided interval with an end at infinity."""
    return None in (verdict.low, verdict.high) and _TWO_SIDED.search(verdict.threshold) is not None
