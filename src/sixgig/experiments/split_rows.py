"""What the null test and performance say alike: names of arms, a score's row, a bound on an estimate."""

from __future__ import annotations

from ..evaluate.statistics import Estimate, size_to_decide
from ..report.schema import Score, Verdict

FULL, SPLIT = "fp16", "split"
FULL_MODULES = "fp16-modules"  # full precision in transformers' own modules, beside what runs there alone

Key = tuple[str, float | None]  # (arm, alpha)


def score_row(
    name: str,
    key: Key,
    found: Estimate | float | None,
    unit: str,
    *,
    higher: bool | None,
    n: int = 0,
    note: str = "",
) -> Score:
    """One score; an estimate brings its interval and its own n. None needs a note that says why."""
    low = high = None
    if isinstance(found, Estimate):
        found, low, high, n = found.value, found.interval.low, found.interval.high, found.n
    return Score(
        name=name,
        arm=key[0],
        alpha=key[1],
        value=found,
        low=low,
        high=high,
        n=n,
        unit=unit,
        higher_is_better=higher,
        note=note,
    )


def at_most(found: Estimate, limit: float, *, criterion: str, threshold: str, counts: bool = True) -> Verdict:
    """The split's verdict: decided where the whole interval lies on one side of the limit."""
    low, high = found.interval.low, found.interval.high
    passed = True if high <= limit else False if low > limit else None
    return Verdict(
        criterion=criterion,
        arm=SPLIT,
        threshold=threshold,
        value=found.value,
        low=low,
        high=high,
        passed=passed,
        needed_n=size_to_decide(found.interval, found.value, limit, found.n) if passed is None else None,
        counts=counts,
    )
