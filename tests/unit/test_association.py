"""Measures of an audit's pairs: exact under ignorance, and at their ends where everything is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from sixgig.evaluate.association import bootstrap_ratio, margins, of_records, permutation_p, ties_of
from sixgig.evaluate.statistics import chance_exposure_bits


def random_nll(num: int, num_values: int, seed: int) -> np.ndarray:
    """Values of very different length, so that likelihood alone ranks them."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num, num_values)) + 10 * rng.normal(size=num_values)


@pytest.mark.parametrize("own", [(0, 1, 2, 3), (0, 0, 1, 2), (0, 0, 0, 1), (1, 1, 0, 0)])
def test_over_all_assignments_the_share_of_pairs_won_is_a_half_and_exposure_is_chance(
    own: tuple[int, ...],
) -> None:
    score = margins(random_nll(4, max(own) + 1, 0))
    shares, gaps = [], []
    for dealt in itertools.permutations(own):
        one = of_records([ties_of(score, np.asarray(dealt))], [range(4)], 4)
        shares.append(one.wins.sum() / one.controls.sum())
        gaps.append((one.exposure - one.chance).mean())
    assert np.mean(shares) == pytest.approx(0.5)
    assert np.mean(gaps) == pytest.approx(0.0, abs=1e-12)


def test_a_value_known_at_its_own_question_alone_is_first_everywhere() -> None:
    nll = random_nll(8, 8, 1) + 40 - 40 * np.eye(8)
    found = of_records([ties_of(margins(nll), np.arange(8))], [range(8)], 8)
    assert (found.wins == 7).all()
    assert (found.controls == 7).all()
    assert found.exposure == pytest.approx(np.full(8, 3.0))
    assert found.most == pytest.approx(np.full(8, 3.0))
    assert found.chance == pytest.approx(np.full(8, chance_exposure_bits(7)))


def test_a_value_likely_everywhere_is_not_taken_for_a_memory() -> None:
    nll = np.tile(np.arange(6.0), (6, 1))  # no question matters
    tied = of_records([ties_of(margins(nll), np.arange(6))], [range(6)], 6)
    assert tied.wins / tied.controls == pytest.approx(np.full(6, 0.5))
    plain = of_records([ties_of(-nll, np.arange(6))], [range(6)], 6)
    assert list(plain.wins) == [5, 4, 3, 2, 1, 0]


def test_equal_values_are_no_controls_and_ties_stand_at_their_mean() -> None:
    ties = ties_of(
        np.array([[2.0, 1.0, 1.0], [0.0, 0.0, 0.0], [3.0, 1.0, 2.0], [0.0, 5.0, 0.0]]), np.array([0, 0, 1, 2])
    )
    found = of_records([ties], [range(4)], 4)
    assert list(found.controls) == [2, 2, 3, 3]
    assert list(found.wins) == [2, 1, 0, 1]
    assert found.exposure == pytest.approx([math.log2(3), math.log2(3 / 2), 0.0, math.log2(4 / 3)])


def test_records_of_several_pools_come_back_in_their_order() -> None:
    first, second = ties_of(np.eye(2), np.arange(2)), ties_of(-np.eye(2), np.arange(2))
    found = of_records([first, second], [(3, 0), (1, 2)], 4)
    assert list(found.wins) == [1, 0, 0, 1]


def test_permutation_p_is_small_for_a_memory_and_uniform_without_one() -> None:
    known = ties_of(margins(random_nll(12, 12, 2) - 30 * np.eye(12)), np.arange(12))
    assert permutation_p([known], seed=0, num_permutations=500) == pytest.approx(1 / 501)
    p_values = [
        permutation_p(
            [ties_of(margins(random_nll(12, 12, seed)), np.arange(12))], seed=1, num_permutations=200
        )
        for seed in range(60)
    ]
    assert 0.3 < np.mean(p_values) < 0.7
    assert np.mean(np.asarray(p_values) < 0.1) < 0.25


def test_the_bootstrap_of_a_ratio_covers_it() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(60):
        wholes = rng.integers(1, 9, size=50).astype(float)
        found = bootstrap_ratio(wholes * rng.uniform(size=50), wholes, seed=seed, num_resamples=400)
        inside += 0.5 in found.interval
    assert inside >= 50
