"""The bootstrap's intervals cover what they promise, in small cells too."""

from __future__ import annotations

import time

import numpy as np
import pytest

from sixgig.errors import InputError
from sixgig.evaluate.statistics import (
    Cluster,
    bootstrap_auc,
    bootstrap_gap,
    bootstrap_mean,
    paired_perplexity_ratio,
    stratified_auc,
)


def grid(num_seeds: int, num_templates: int, size: int) -> list[Cluster]:
    return [(s, f"t{t}") for s in range(num_seeds) for t in range(num_templates) for _ in range(size)]


def test_gap_variance_is_that_of_the_difference_of_means() -> None:
    # Cells of 3: drawing 3 of 3 would make the width too small by a fifth.
    rng = np.random.default_rng(0)
    clusters = grid(1, 200, 3)
    a, b = rng.normal(size=(2, 600))
    got = bootstrap_gap(a, clusters, b, clusters, num_resamples=4000, confidence=0.9, seed=0)
    within = sum(x.reshape(200, 3).var(axis=1, ddof=1).mean() / 600 for x in (a, b))
    assert got.value == pytest.approx(a.mean() - b.mean())
    assert got.interval.high - got.interval.low == pytest.approx(2 * 1.645 * np.sqrt(within), rel=0.06)


def test_gap_interval_covers_at_its_confidence() -> None:
    rng = np.random.default_rng(1)
    clusters_a, clusters_b = grid(3, 4, 4), grid(3, 4, 10)
    levels = {cluster: rng.normal(scale=3) for cluster in set(clusters_a)}  # cancels out of the gap
    covered = 0
    for trial in range(300):
        a = np.array([levels[c] for c in clusters_a]) + rng.exponential(size=len(clusters_a)) + 0.5
        b = np.array([levels[c] for c in clusters_b]) + rng.exponential(size=len(clusters_b))
        gap = bootstrap_gap(a, clusters_a, b, clusters_b, num_resamples=300, confidence=0.9, seed=trial)
        covered += 0.5 in gap.interval
    assert 0.85 <= covered / 300 <= 0.95


def test_resampling_seeds_widens_the_interval_when_seeds_differ() -> None:
    rng = np.random.default_rng(2)
    clusters = grid(6, 2, 20)
    values = rng.normal(size=len(clusters)) + np.array([3.0 * seed for seed, _ in clusters])
    kept = bootstrap_mean(values, clusters, seed=0).interval
    drawn = bootstrap_mean(values, clusters, seed=0, resample_seeds=True).interval
    assert drawn.high - drawn.low > 5 * (kept.high - kept.low)
    spread = np.std([3.0 * seed for seed in range(6)]) / np.sqrt(6)
    assert drawn.high - drawn.low == pytest.approx(2 * 1.96 * spread, rel=0.15)


def test_a_seed_is_drawn_for_both_groups() -> None:
    # One level per seed, the same in both groups: the gap is 0 whatever seeds are drawn.
    clusters = grid(4, 1, 2)
    values = np.array([float(10 * seed) for seed, _ in clusters])
    gap = bootstrap_gap(values, clusters, values, clusters, seed=0, resample_seeds=True)
    assert (gap.interval.low, gap.interval.high) == (0, 0)


def test_single_units_are_pooled_so_that_the_interval_has_width() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=8)
    lonely = [(0, f"t{i}") for i in range(8)]
    pooled = bootstrap_mean(values, lonely, num_resamples=4000, seed=0).interval
    together = bootstrap_mean(values, [(0, "t")] * 8, num_resamples=4000, seed=0).interval
    assert (pooled.low, pooled.high) == pytest.approx((together.low, together.high))
    one_alone = bootstrap_mean(values, [(0, "u")] + [(0, "t")] * 7, num_resamples=4000, seed=0).interval
    assert one_alone.high - one_alone.low == pytest.approx(together.high - together.low, rel=0.1)
    with pytest.raises(InputError, match="two units"):
        bootstrap_mean(np.array([1.0]), [(0, "t")], seed=0)


def test_a_cell_keeps_its_share_whatever_is_drawn() -> None:
    # Values constant within cells of unlike sizes: only the cells' shares matter, and they never vary.
    clusters = [(0, "small")] * 2 + [(0, "large")] * 20
    got = bootstrap_mean(np.array([11.0] * 2 + [0.0] * 20), clusters, seed=0)
    assert (got.interval.low, got.interval.high) == pytest.approx((1, 1))


def test_the_same_seed_gives_the_same_interval() -> None:
    values, clusters = np.arange(12.0), grid(2, 2, 3)
    assert bootstrap_mean(values, clusters, seed=7) == bootstrap_mean(values, clusters, seed=7)
    assert bootstrap_mean(values, clusters, seed=7) != bootstrap_mean(values, clusters, seed=8)


def test_groups_must_share_their_seeds_and_fit_their_clusters() -> None:
    values = np.arange(4.0)
    with pytest.raises(InputError, match="different seeds"):
        bootstrap_gap(values, [(0, "t")] * 4, values, [(1, "t")] * 4, seed=0)
    with pytest.raises(InputError, match="clusters"):
        bootstrap_mean(values, [(0, "t")] * 3, seed=0)


def test_auc_interval_covers_at_its_confidence() -> None:
    rng = np.random.default_rng(4)
    clusters = grid(2, 2, 8) + grid(2, 2, 24)
    member = np.array([True] * 32 + [False] * 96)
    truth, covered = 0.7602, 0  # P(N(1,1) > N(0,1)) = Phi(1 / sqrt 2)
    for trial in range(200):
        scores = rng.normal(size=128) + member
        got = bootstrap_auc(scores, member, clusters, num_resamples=300, seed=trial)
        assert got.value == stratified_auc(scores, member, clusters)
        covered += truth in got.interval
    assert 0.90 <= covered / 200 <= 0.99


def test_tied_scores_count_as_halves_in_every_resample() -> None:
    got = bootstrap_auc(np.ones(8), np.array([True, False] * 4), [(0, "t")] * 8, seed=0)
    assert (got.value, got.interval.low, got.interval.high) == (0.5, 0.5, 0.5)


def test_auc_is_unmoved_by_the_level_of_a_cell() -> None:
    rng = np.random.default_rng(5)
    clusters = grid(3, 2, 5) + grid(3, 2, 9)
    member = np.array([True] * 30 + [False] * 54)
    scores = rng.normal(size=84) + member
    levels = np.array([100 * seed + 7 * (template == "t1") for seed, template in clusters])
    plain = bootstrap_auc(scores, member, clusters, seed=0, resample_seeds=True)
    assert bootstrap_auc(scores + levels, member, clusters, seed=0, resample_seeds=True) == plain


def test_auc_with_a_handful_of_units_still_has_an_interval() -> None:
    clusters = [(0, f"t{i}") for i in range(4)] * 2
    member = np.array([True] * 4 + [False] * 4)
    got = bootstrap_auc(np.array([1.0, 2, 0, 5, 0, 1, 3, 3]), member, clusters, seed=0)
    assert got.value == 0.75
    assert got.interval.low < 0.75 < got.interval.high


def test_perplexity_ratio_is_paired() -> None:
    rng = np.random.default_rng(6)
    tokens = np.full(60, 511)
    level = rng.normal(3.0, 0.5, size=60) * tokens  # windows differ far more than the models do
    noise = rng.normal(0, 0.02, size=60) * tokens
    got = paired_perplexity_ratio(level + 0.03 * tokens + noise, level, tokens, num_resamples=4000, seed=0)
    gap = (0.03 * tokens + noise).sum() / tokens.sum()
    assert got.value == pytest.approx(np.exp(gap))
    error = (noise / tokens).std(ddof=1) / np.sqrt(60)
    width = np.log(got.interval.high) - np.log(got.interval.low)
    assert width == pytest.approx(2 * 1.96 * error, rel=0.06)
    assert got.n == 60


def test_perplexity_ratio_over_seeds_draws_a_window_for_all_of_them() -> None:
    rng = np.random.default_rng(7)
    tokens = rng.integers(100, 500, size=40)
    one = rng.normal(0, 0.05, size=40) * tokens
    base = np.zeros((3, 40))
    # The same gaps in every seed: three seeds know no more than one.
    single = paired_perplexity_ratio(one, base[0], tokens, seed=0)
    triple = paired_perplexity_ratio(np.stack([one] * 3), base, tokens, seed=0)
    assert triple.value == pytest.approx(single.value)
    assert triple.interval.low == pytest.approx(single.interval.low)
    # Seeds that differ: drawing them widens.
    shifted = np.stack([one, one + 0.1 * tokens, one - 0.1 * tokens])
    kept = paired_perplexity_ratio(shifted, base, tokens, seed=0).interval
    drawn = paired_perplexity_ratio(shifted, base, tokens, seed=0, resample_seeds=True).interval
    assert drawn.high - drawn.low > 1.5 * (kept.high - kept.low)


def test_perplexity_ratio_refuses_misfits() -> None:
    with pytest.raises(InputError, match="windows"):
        paired_perplexity_ratio(np.zeros(3), np.zeros(3), np.ones(4), seed=0)
    with pytest.raises(InputError, match="windows"):
        paired_perplexity_ratio(np.zeros(3), np.zeros(3), np.array([1, 0, 2]), seed=0)


def test_two_thousand_resamples_of_three_thousand_units_take_seconds_at_most() -> None:
    rng = np.random.default_rng(8)
    clusters = grid(3, 9, 20) + grid(3, 9, 92)
    values = rng.normal(size=len(clusters))
    begun = time.perf_counter()
    bootstrap_gap(values[:540], clusters[:540], values[540:], clusters[540:], seed=0)
    assert time.perf_counter() - begun < 5  # about 0.3 s alone on a core
