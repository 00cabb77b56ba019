"""Paired statistics against closed forms, scipy, and what they must do to known data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from sixgig.errors import InputError
from sixgig.evaluate.statistics import (
    Interval,
    bootstrap_median,
    bootstrap_stratified_mean,
    exact_lost_share,
    exact_paired_difference,
    mcnemar,
    paired_median_ratio,
    paired_recovered_share,
    size_to_decide,
)

RNG = np.random.default_rng(4)


def test_mcnemar_is_the_exact_binomial_of_the_items_that_differ() -> None:
    a = [True] * 9 + [False] * 2 + [True] * 5
    b = [False] * 9 + [True] * 2 + [True] * 5
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b) == (9, 2)
    assert found.p_value == pytest.approx(2 * binom.cdf(2, 11, 0.5))
    assert mcnemar(a, a).p_value == 1
    with pytest.raises(InputError):
        mcnemar(a, b[1:])
    with pytest.raises(InputError):
        mcnemar([], [])


def test_a_stratified_mean_weighs_strata_and_not_items() -> None:
    values = np.array([1.0, 1, 1, 1, 0, 0])
    found = bootstrap_stratified_mean(values, list("aaaabb"), {"a": 1, "b": 3}, seed=0)
    assert found.value == pytest.approx(0.25)
    assert found.interval.low == found.interval.high == pytest.approx(0.25), "no spread within the strata"
    even = bootstrap_stratified_mean(values, list("aaaabb"), {"a": 4, "b": 2}, seed=0)
    assert even.value == pytest.approx(values.mean())


def test_its_interval_has_the_width_of_the_theory() -> None:
    values = (RNG.random(400) < 0.3).astype(float)
    found = bootstrap_stratified_mean(values, ["a", "b"] * 200, {"a": 1, "b": 1}, seed=0)
    wanted = 1.96 * values.std() / 20
    assert (found.interval.high - found.interval.low) / 2 == pytest.approx(wanted, rel=0.15)


def test_strata_of_one_item_are_pooled() -> None:
    found = bootstrap_stratified_mean(
        np.array([0.0, 1.0, 0.0, 1.0]), list("abcd"), dict.fromkeys("abcd", 1.0), seed=0
    )
    assert found.interval.low < 0.5 < found.interval.high
    mixed = bootstrap_stratified_mean(np.array([0.0, 1.0, 1.0]), list("aab"), {"a": 1, "b": 1}, seed=0)
    assert mixed.interval.low < mixed.value < mixed.interval.high
    with pytest.raises(InputError):
        bootstrap_stratified_mean(np.array([1.0]), ["a"], {"a": 1}, seed=0)


def test_the_recovered_share_is_what_was_put_in() -> None:
    best = 100 + RNG.normal(size=64)
    base = best + 10 + RNG.normal(size=64)
    between = base - 0.6 * (base - best)
    found = paired_recovered_share(base, between, best, seed=0)
    assert found is not None
    assert found.value == pytest.approx(0.6)
    assert found.interval.low == pytest.approx(0.6)
    noisy = paired_recovered_share(base, between + RNG.normal(size=64), best, seed=0)
    assert noisy is not None
    assert 0.5 < noisy.interval.low < 0.6 < noisy.interval.high < 0.7


def test_where_nothing_was_lost_there_is_no_share_of_it() -> None:
    best = 100 + RNG.normal(size=64)
    noise = best + RNG.normal(size=64) * 0.1
    assert paired_recovered_share(noise - noise.mean() + best.mean(), best, best, seed=0) is None


def test_the_lost_share_is_of_those_that_were_there() -> None:
    before, after = np.array([1.0, 1, 1, 1, 0, 0]), np.array([1.0, 0, 0, 0, 1, 1])
    found = exact_lost_share(before, after)
    assert found is not None
    wanted = binomtest(3, 4).proportion_ci(method="exact")
    assert (found.value, found.n) == (0.75, 4)
    assert (found.interval.low, found.interval.high) == pytest.approx((wanted.low, wanted.high))
    assert exact_lost_share(np.zeros(4), np.ones(4)) is None


def test_the_exact_difference_covers_what_it_promises_and_is_never_without_a_width() -> None:
    alike = exact_paired_difference(np.ones(20), np.ones(20)).interval
    assert (alike.low, alike.high) == pytest.approx((-(1 - 0.0125**0.05), 1 - 0.0125**0.05))
    drawn = RNG.random((2000, 25))  # only a below 0.3, only b above 0.9
    found = [exact_paired_difference(one < 0.3, one > 0.9).interval for one in drawn]
    assert np.mean([0.2 in interval for interval in found]) >= 0.95
    with pytest.raises(InputError, match="not pairs of outcomes"):
        exact_paired_difference(np.ones(3), np.array([0.5, 0, 1]))
    with pytest.raises(InputError, match="not pairs of outcomes"):
        exact_lost_share(np.ones(3), np.ones(2))


def test_a_paired_ratio_sees_through_what_both_share() -> None:
    b = np.exp(RNG.normal(size=60))  # rounds differ by a factor of ten
    found = paired_median_ratio(1.01 * b, b, seed=0)
    assert found.value == pytest.approx(1.01)
    assert found.interval.high - found.interval.low < 1e-9
    wild = 1.01 * b
    wild[:5] *= 50
    assert paired_median_ratio(wild, b, seed=0).value == pytest.approx(1.01)
    assert bootstrap_median(b, seed=0).value == pytest.approx(np.median(b))
    with pytest.raises(InputError):
        paired_median_ratio(b[:1], b[:1], seed=0)


def test_the_size_to_decide_grows_with_the_square() -> None:
    interval = Interval(low=0.98, high=1.02, confidence=0.95)
    assert size_to_decide(interval, 1.0, 1.01, 50) == 200
    assert size_to_decide(interval, 1.0, 0.99, 50) == 200
    assert size_to_decide(interval, 1.0, 1.0, 50) is None
