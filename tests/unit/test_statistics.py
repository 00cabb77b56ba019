"""Intervals, ranks, exposure and equivalence against scipy, closed forms and brute force."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, ks_2samp, mannwhitneyu, t

from sixgig.errors import InputError, NumericalError
from sixgig.evaluate.statistics import (
    Interval,
    auc,
    auc_sample_size,
    chance_exposure_bits,
    clopper_pearson,
    clopper_pearson_sample_size,
    exposure_bits,
    holm,
    ks_two_sample,
    max_exposure_bits,
    roc_curve,
    stratified_auc,
    tost,
    tost_sample_size,
    tpr_at_fpr,
    two_sided_tpr_at_fpr,
)

scores = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=25).map(np.array)


@settings(deadline=None, max_examples=50)
@given(n=st.integers(1, 400), share=st.floats(0, 1), confidence=st.sampled_from([0.9, 0.95, 0.99]))
def test_clopper_pearson_is_scipys_exact_interval(n: int, share: float, confidence: float) -> None:
    k = round(share * n)
    expected = binomtest(k, n).proportion_ci(confidence_level=confidence, method="exact")
    got = clopper_pearson(k, n, confidence=confidence)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    expected = binomtest(k, n, alternative="less").proportion_ci(confidence, method="exact")
    got = clopper_pearson(k, n, confidence=confidence, side="upper")
    assert (got.low, got.high) == pytest.approx((0, expected.high), abs=1e-9)
    expected = binomtest(k, n, alternative="greater").proportion_ci(confidence, method="exact")
    got = clopper_pearson(k, n, confidence=confidence, side="lower")
    assert (got.low, got.high) == pytest.approx((expected.low, 1), abs=1e-9)


def test_clopper_pearson_never_covers_less_than_promised() -> None:
    n = 40
    intervals = [clopper_pearson(k, n) for k in range(n + 1)]
    for p in np.linspace(0.01, 0.99, 33):
        covered = sum(binom.pmf(k, n, p) for k in range(n + 1) if p in intervals[k])
        assert covered >= 0.95


def test_clopper_pearson_edges() -> None:
    nothing = clopper_pearson(0, 0)
    assert (nothing.low, nothing.high) == (0, 1)
    with pytest.raises(InputError, match="count"):
        clopper_pearson(5, 4)
    with pytest.raises(InputError, match="confidence"):
        clopper_pearson(1, 4, confidence=95)


@pytest.mark.parametrize("upper", [0.01, 0.015, 0.05, 0.3])
def test_zero_successes_need_exactly_this_many(upper: float) -> None:
    n = clopper_pearson_sample_size(upper)
    assert clopper_pearson(0, n, side="upper").high <= upper < clopper_pearson(0, n - 1, side="upper").high


def test_three_hundred_trials_show_one_percent() -> None:
    assert clopper_pearson_sample_size(0.01) == 299


@settings(deadline=None)
@given(positives=scores, negatives=scores)
def test_auc_counts_pairs_with_ties_as_halves(positives: np.ndarray, negatives: np.ndarray) -> None:
    pairs = [(a > b) + (a == b) / 2 for a, b in product(positives, negatives)]
    assert auc(positives, negatives) == pytest.approx(np.mean(pairs))
    u = mannwhitneyu(positives, negatives).statistic
    assert auc(positives, negatives) == pytest.approx(u / len(pairs))


@settings(deadline=None)
@given(members=scores, controls=scores)
def test_the_area_under_the_curve_is_the_auc(members: np.ndarray, controls: np.ndarray) -> None:
    fpr, tpr = roc_curve(members, controls)
    assert np.trapezoid(tpr, fpr) == pytest.approx(auc(members, controls))
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(tpr) >= 0).all()
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)


def test_strata_are_never_compared_with_each_other() -> None:
    # Pooled, the second stratum's high level would hide that members win within each stratum.
    values = np.array([1.0, 0.0, 0.5, 11.0, 10.0])
    member = np.array([True, False, False, True, False])
    assert stratified_auc(values, member, ["a", "a", "a", "b", "b"]) == 1
    assert auc(values[member], values[~member]) < 1
    # two pairs in a, one in b, of which b's is lost: 2/3; the stratum without controls has no say
    values[3] = 9.0
    strata = ["a", "a", "a", "b", "b", "c"]
    assert stratified_auc(np.append(values, 99.0), np.append(member, True), strata) == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="stratum"):
        stratified_auc(np.array([1.0, 2.0]), np.array([True, False]), ["a", "b"])


@settings(deadline=None)
@given(members=scores, controls=scores, fpr=st.sampled_from([0.001, 0.01, 0.1, 0.29, 0.5]))
def test_tpr_threshold_is_the_most_generous_allowed(
    members: np.ndarray, controls: np.ndarray, fpr: float
) -> None:
    got = tpr_at_fpr(members, controls, fpr)
    rates = [
        (np.mean(members > s), np.mean(controls > s))
        for s in np.concatenate([[-99.0], controls])
        if np.mean(controls > s) <= fpr + 1e-9
    ]
    assert got.fpr <= fpr + 1e-9
    assert got.tpr == max(rate for rate, _ in rates)
    assert got.tpr in got.interval


def test_over_suppression_shows_in_the_opposite_direction() -> None:
    rng = np.random.default_rng(0)
    controls = rng.normal(size=1000)
    both = two_sided_tpr_at_fpr(rng.normal(size=200) - 4, controls, 0.01)
    assert both.leak.tpr == 0
    assert both.opposite.tpr > 0.8
    assert both.opposite.fpr == 0.01
    same = two_sided_tpr_at_fpr(rng.normal(size=200), controls, 0.01)
    assert 0.01 in same.leak.interval
    assert 0.01 in same.opposite.interval


def test_auc_sample_size_gives_the_width_asked_for() -> None:
    n = auc_sample_size(0.08, ratio=5)
    rng = np.random.default_rng(1)
    areas = [auc(rng.normal(size=n), rng.normal(size=5 * n)) for _ in range(400)]
    assert 1.96 * np.std(areas) == pytest.approx(0.08, rel=0.15)
    assert auc_sample_size(0.04, ratio=5) > 3.5 * n


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=20), st.integers(0, 6))
def test_exposure_is_definition_by_sorting(decoys: list[int], own: int) -> None:
    got = exposure_bits(np.array([own]), np.array([decoys]))[0]
    places = [i + 1 for i, v in enumerate(sorted([own, *decoys])) if v == own]
    assert got == pytest.approx(math.log2(len(decoys) + 1) - math.log2(np.mean(places)))


def test_chance_exposure_is_the_mean_over_ranks() -> None:
    for num_decoys in (0, 1, 19, 199):
        ranks = np.arange(1, num_decoys + 2)
        assert chance_exposure_bits(num_decoys) == pytest.approx(np.mean(np.log2((num_decoys + 1) / ranks)))
    nlls = np.random.default_rng(0).normal(size=(4000, 200))
    assert exposure_bits(nlls[:, 0], nlls[:, 1:]).mean() == pytest.approx(chance_exposure_bits(199), abs=0.08)
    assert max_exposure_bits(199) == pytest.approx(7.64, abs=0.01)
    assert exposure_bits(np.array(0.0), np.full(199, 1.0)) == max_exposure_bits(199)


def test_exposure_refuses_what_it_cannot_rank() -> None:
    with pytest.raises(NumericalError, match="decoys"):
        exposure_bits(np.array([1.0]), np.array([[np.nan, 1.0]]))
    with pytest.raises(InputError, match="num_decoys"):
        exposure_bits(np.array([1.0]), np.array([1.0, 2.0]))


def interval(low: float, high: float, confidence: float = 0.9) -> Interval:
    return Interval(low=low, high=high, confidence=confidence)


def test_tost_has_three_answers() -> None:
    assert tost(interval(-0.4, 0.3), 0.5) == "equivalent"
    assert tost(interval(-0.5, 0.3), 0.5) == "undecided"
    assert tost(interval(0.1, 0.9), 0.5) == "undecided"  # a gap, but maybe one within the margin
    assert tost(interval(0.51, 0.9), 0.5) == "different"
    assert tost(interval(-0.9, -0.51), 0.5) == "different"
    with pytest.raises(InputError, match="confidence"):
        tost(interval(-0.1, 0.1, 0.95), 0.5)
    with pytest.raises(InputError, match="margin"):
        tost(interval(-0.1, 0.1), 0)


@pytest.mark.parametrize("true_gap", [0.0, 0.06, -0.2])
def test_tost_sample_size_reaches_its_power_and_no_more(true_gap: float) -> None:
    n = tost_sample_size(1.4, 1.3, ratio=4, margin=0.5, gap=true_gap)
    assert n is not None
    rng, passed = np.random.default_rng(2), 0
    for _ in range(1000):
        a, b = rng.normal(scale=1.4, size=n), rng.normal(scale=1.3, size=4 * n)
        error = math.sqrt(a.var(ddof=1) / n + b.var(ddof=1) / (4 * n))
        half = t.ppf(0.95, n - 1) * error
        gap = true_gap + a.mean() - b.mean()
        passed += tost(interval(gap - half, gap + half), 0.5) == "equivalent"
    assert passed / 1000 == pytest.approx(0.8, abs=0.04)


def test_tost_size_follows_its_formula() -> None:
    expected = (1.6448536 + 1.2815516) ** 2 * (1.4**2 + 1.4**2) / 0.25
    assert tost_sample_size(1.4, 1.4, ratio=1, margin=0.5) == math.ceil(expected)
    with pytest.raises(InputError, match="ratio"):
        tost_sample_size(1, 1, ratio=0, margin=0.5)
    with pytest.raises(InputError, match="gap nan"):
        tost_sample_size(1, 1, ratio=1, margin=0.5, gap=math.nan)


def test_tost_size_grows_with_the_gap_until_no_size_would_do() -> None:
    def size(gap: float) -> int | None:
        return tost_sample_size(1.4, 1.4, ratio=1, margin=0.5, gap=gap)

    sizes = [size(gap) or 0 for gap in (0.0, 1e-9, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.49)]
    assert sizes == sorted(sizes)
    assert sizes[0] == sizes[1]
    assert size(-0.3) == size(0.3)
    # Near the margin only the test on its side can fail: Chow, Shao and Wang's formula for a gap.
    assert size(0.4) == math.ceil((1.6448536 + 0.8416212) ** 2 * (1.4**2 + 1.4**2) / 0.1**2)
    strict = tost_sample_size(1.4, 1.4, ratio=1, margin=0.5, gap=0.4999, alpha=0.01)
    assert strict == pytest.approx((2.3263479 + 0.8416212) ** 2 * (1.4**2 + 1.4**2) / 1e-4**2, rel=1e-6)
    assert size(0.5) is size(-0.5) is size(2.0) is None


def test_ks_is_scipys() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=30), rng.normal(0.5, size=50)
    expected = ks_2samp(a, b)
    assert (ks_two_sample(a, b).statistic, ks_two_sample(a, b).p_value) == pytest.approx(tuple(expected))


def test_holm_by_hand() -> None:
    adjusted = holm(np.array([0.04, 0.01, 0.03, 0.6]))
    assert adjusted == pytest.approx([0.09, 0.04, 0.09, 0.6])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1, 1])
    with pytest.raises(InputError, match="p-values"):
        holm(np.array([1.2]))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.3))
def test_holm_rejects_what_the_step_down_rejects(p_values: list[float], level: float) -> None:
    rejected = set()
    for step, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] * (len(p_values) - step) > level:
            break
        rejected.add(int(index))
    assert set(np.flatnonzero(holm(np.array(p_values)) <= level)) == rejected


def test_samples_with_nan_or_nothing_are_refused() -> None:
    with pytest.raises(NumericalError, match="positives"):
        auc(np.array([np.nan]), np.array([1.0]))
    with pytest.raises(InputError, match="negatives"):
        auc(np.array([1.0]), np.array([]))
