"""Accuracy kept, with intervals over units that share questions; against scipy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from sixgig.errors import InputError
from sixgig.evaluate.statistics import clopper_pearson
from sixgig.evaluate.statistics.paired_accuracy import (
    paired_accuracy_difference,
    paired_accuracy_ratio,
)


def answers(n: int, share_a: float, share_b: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    drawn = np.random.default_rng(seed).random(n)
    return (drawn < share_a).astype(float), (drawn < share_b).astype(float)


def alone(n: int) -> list[tuple[int, int]]:
    return [(0, number) for number in range(n)]


def test_the_ratio_and_its_interval_agree_with_the_delta_method() -> None:
    a, b = answers(2000, 0.6, 0.9)
    found = paired_accuracy_ratio(a, b, alone(2000), seed=0)
    assert found is not None
    ratio = a.sum() / b.sum()
    assert (found.value, found.n) == (ratio, 2000)
    error = np.std((a - ratio * b) / b.mean()) / np.sqrt(2000)
    assert found.interval.low == pytest.approx(ratio - 1.96 * error, abs=0.004)
    assert found.interval.high == pytest.approx(ratio + 1.96 * error, abs=0.004)


def test_the_difference_and_its_interval_agree_with_the_normal_ones() -> None:
    a, b = answers(2000, 0.6, 0.9)
    found = paired_accuracy_difference(a, b, alone(2000), seed=0)
    error = np.std(a - b) / np.sqrt(2000)
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert found.interval.high - found.interval.low == pytest.approx(2 * 1.96 * error, rel=0.06)


def test_questions_of_one_unit_are_drawn_together() -> None:
    a, b = answers(500, 0.6, 0.9)
    twice = paired_accuracy_ratio(
        np.repeat(a, 2), np.repeat(b, 2), [(0, number // 2) for number in range(1000)], seed=0
    )
    once = paired_accuracy_ratio(a, b, alone(500), seed=0)
    assert twice is not None
    assert once is not None
    assert (twice.interval, twice.n) == (once.interval, 1000)


def test_seeds_keep_their_number_of_units() -> None:
    """One seed always right and one never: only a bootstrap that mixes seeds would see a spread."""
    a = np.concatenate([np.ones(50), np.zeros(50)])
    units = [(number // 50, number % 50) for number in range(100)]
    found = paired_accuracy_difference(a, np.zeros(100), units, seed=0)
    assert (found.interval.low, found.interval.high) == pytest.approx((0.5, 0.5))


def test_where_all_answers_are_alike_the_interval_is_the_exact_bound() -> None:
    right = np.ones(200)
    found = paired_accuracy_ratio(right, right, alone(200), seed=0)
    assert found is not None
    reach = clopper_pearson(0, 200).high
    assert (found.interval.low, found.interval.high) == pytest.approx((1 - reach, 1 + reach))
    halved = paired_accuracy_ratio(np.tile([1.0, 0.0], 100), np.tile([1.0, 0.0], 100), alone(200), seed=0)
    assert halved is not None
    assert halved.interval.low == pytest.approx(1 - 2 * reach)


def test_nothing_right_in_full_precision_has_no_share() -> None:
    assert paired_accuracy_ratio(np.ones(5), np.zeros(5), alone(5), seed=0) is None


@pytest.mark.parametrize(
    ("a", "units"), [(np.ones(3), alone(2)), (np.ones(2), [(0, 1), (0, 1)]), (np.ones(0), [])]
)
def test_what_are_no_pairs_is_refused(a: np.ndarray, units: list[tuple[int, int]]) -> None:
    with pytest.raises(InputError):
        paired_accuracy_difference(a, np.ones(len(a)), units, seed=0)
