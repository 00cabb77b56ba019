"""What a sample could have seen: by simulation, at that difference four experiments in five detect it."""

from __future__ import annotations

import numpy as np
import pytest
from fake_result import fake_result
from scipy.stats import norm

from sixgig.errors import InputError
from sixgig.evaluate.statistics import (
    Interval,
    bootstrap_mean,
    clopper_pearson,
    tost,
    trials_of_upper_bound,
    visible_difference,
    visible_rate,
)
from sixgig.report.could_see import (
    NO_END,
    NO_INTERVAL,
    NO_SPREAD,
    NOT_KEPT,
    NOT_MEASURED,
    why_unknown,
    with_visible_differences,
)
from sixgig.report.schema import Verdict

NUM_SIMULATED = 4000


def means(true_mean: float, n: int, seed: int) -> tuple[np.ndarray, float]:
    """Sample means [simulated] of n values each of standard deviation 1, and their standard error."""
    drawn = np.random.default_rng(seed).normal(true_mean, 1.0, size=(NUM_SIMULATED, n))
    return drawn.mean(axis=1), 1 / np.sqrt(n)


@pytest.mark.parametrize("n", [10, 200])
@pytest.mark.parametrize("limit", [0.0, 1.05])
def test_at_that_distance_from_the_limit_four_in_five_intervals_lie_beyond_it(n: int, limit: float) -> None:
    half = norm.ppf(0.975) / np.sqrt(n)
    seen = visible_difference(half, confidence=0.95)
    found, _ = means(limit + seen, n, seed=n)
    assert np.mean(found - half > limit) == pytest.approx(0.80, abs=0.025)
    found, _ = means(limit - seen, n, seed=n + 1)
    assert np.mean(found + half < limit) == pytest.approx(0.80, abs=0.025)


def test_the_same_of_two_one_sided_tests_on_either_side_of_the_margin() -> None:
    n, margin = 60, 1.0
    half = norm.ppf(0.95) / np.sqrt(n)
    seen = visible_difference(half, confidence=0.90)
    for truth, outcome in ((margin - seen, "equivalent"), (margin + seen, "different")):
        found, _ = means(truth, n, seed=7)
        outcomes = [tost(Interval(low=m - half, high=m + half, confidence=0.90), margin) for m in found]
        assert np.mean([one == outcome for one in outcomes]) == pytest.approx(0.80, abs=0.025)


def test_a_bootstrap_interval_keeps_the_promise_too() -> None:
    """The half width of one run's own interval, as reports use it."""
    n, rng = 60, np.random.default_rng(3)
    clusters = [(0, "all")] * n
    pilot = bootstrap_mean(rng.normal(0, 1, n), clusters, num_resamples=400, confidence=0.95, seed=1).interval
    seen = visible_difference((pilot.high - pilot.low) / 2, confidence=0.95)
    lows = [
        bootstrap_mean(
            rng.normal(seen, 1, n), clusters, num_resamples=400, confidence=0.95, seed=number
        ).interval.low
        for number in range(400)
    ]
    assert np.mean(np.asarray(lows) > 0) == pytest.approx(0.80, abs=0.08)


@pytest.mark.parametrize("n", [1, 15, 306])
def test_a_rate_is_seen_by_four_in_five_samples(n: int) -> None:
    hits = np.random.default_rng(n).binomial(n, visible_rate(n), size=40_000)
    assert np.mean(hits > 0) == pytest.approx(0.80, abs=0.01)


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (0, 15), (0, 306), (3, 40), (17, 18), (250, 1000)])
def test_the_trials_behind_an_exact_bound_are_found_again(hits: int, n: int) -> None:
    upper = clopper_pearson(hits, n, side="upper").high
    assert trials_of_upper_bound(hits / n, upper) == n


@pytest.mark.parametrize(("rate", "upper"), [(0.1, 0.2), (0.0, 0.5), (0.3, 0.3), (-0.1, 0.2), (0.5, 1.4)])
def test_a_bound_of_another_kind_has_no_trials(rate: float, upper: float) -> None:
    assert trials_of_upper_bound(rate, upper) is None


@pytest.mark.parametrize("half", [-1.0, float("nan"), float("inf")])
def test_an_impossible_width_is_refused(half: float) -> None:
    with pytest.raises(InputError):
        visible_difference(half, confidence=0.95)
    with pytest.raises(InputError):
        visible_rate(0)


def verdict(threshold: str, value: float | None, low: float | None, high: float | None) -> Verdict:
    return Verdict(
        criterion="c", arm="wiener", threshold=threshold, value=value, low=low, high=high, passed=None
    )


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        (verdict("perplexity ratio at most 1.03", 1.02, 1.01, 1.03), 0.01 * 2.8016 / 1.95996),
        (verdict("within 0.5 bit (TOST, 90% interval)", 0.1, -0.3, 0.5), 0.4 * 2.4865 / 1.64485),
        (verdict("one-sided 95% upper bound at most 1.5%", 0.0, 0.0, 1 - 0.05 ** (1 / 15)), 0.10174),
        (verdict("at most 2", 1.0, None, 1.5), 0.5 * 2.4865 / 1.64485),
        (verdict("at least 2", 3.0, 2.5, None), 0.5 * 2.4865 / 1.64485),
        (verdict("0 of 24 windows differ", 0.0, None, None), None),
        (verdict("at most 1.05", 1.0, 1.0, 1.0), None),
        (verdict("ratio below 1 (95% interval)", 0.8, None, 0.9), None),
        (verdict("missing: text", None, None, None), None),
    ],
)
def test_every_kind_of_interval_says_what_it_could_have_seen(given: Verdict, seen: float | None) -> None:
    (filled,) = with_visible_differences(fake_result(verdicts=[given])).verdicts
    assert filled.visible_difference == (None if seen is None else pytest.approx(seen, rel=1e-3))
    assert (why_unknown(filled) == "") == (seen is not None)


def test_without_it_the_reason_is_said() -> None:
    assert why_unknown(verdict("0 differ", 0.0, None, None)) == NO_INTERVAL
    assert why_unknown(verdict("missing: text", None, None, None)) == NOT_MEASURED
    assert why_unknown(verdict("ratio below 1 (95% interval)", 0.8, None, 0.9)) == NO_END
    assert why_unknown(verdict("at most 1", 0.5, 0.4, 0.6)) == NOT_KEPT
    assert why_unknown(verdict("at most 1", 0.5, 0.5, 0.5)) == NO_SPREAD
