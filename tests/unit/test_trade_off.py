"""The cost of a stated leakage: closed forms, what is not crossed, and what monotone means."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sixgig.errors import InputError, NumericalError
from sixgig.evaluate.statistics.resampling import unit_weights
from sixgig.evaluate.statistics.trade_off import cost_at, costs_at


def test_between_two_steps_the_cost_is_linear_in_the_leak() -> None:
    leaks, costs = np.array([4.0, 2.0, 0.0]), np.array([1.0, 2.0, 6.0])
    assert cost_at(leaks, costs, 3.0) == pytest.approx(1.5)
    assert cost_at(leaks, costs, 2.0) == pytest.approx(2.0)
    assert cost_at(leaks, costs, 0.5) == pytest.approx(5.0)
    assert cost_at(leaks, costs, 0.0) == pytest.approx(6.0)


def test_what_is_never_crossed_has_no_cost() -> None:
    leaks, costs = np.array([2.0, 1.0]), np.array([1.0, 2.0])
    assert cost_at(leaks, costs, 2.5) is None  # nothing to protect from
    assert cost_at(leaks, costs, 2.0) is None
    assert cost_at(leaks, costs, 0.9) is None  # never so low


def test_a_leak_that_wavers_is_pooled_with_its_neighbour() -> None:
    leaks, costs = np.array([3.0, 1.0, 1.4, 0.0]), np.array([1.0, 2.0, 3.0, 4.0])
    assert cost_at(leaks, costs, 1.3) == cost_at(np.array([3.0, 1.2, 1.2, 0.0]), costs, 1.3)
    assert cost_at(leaks, costs, 0.6) == pytest.approx(3.5)


@given(
    st.lists(st.floats(-1, 5), min_size=3, max_size=8),
    st.lists(st.floats(0, 9), min_size=8, max_size=8),
    st.floats(0.1, 4),
)
def test_less_leakage_never_costs_less(leaks: list[float], costs: list[float], level: float) -> None:
    leaks_K, costs_K = np.array([6.0, *leaks]), np.array([0.0, *costs[: len(leaks)]])
    less, more = cost_at(leaks_K, costs_K, 0.5 * level), cost_at(leaks_K, costs_K, level)
    if less is not None:
        assert more is not None
        assert more <= less + 1e-9
        assert costs_K.min() - 1e-9 <= more <= costs_K.max() + 1e-9


def test_a_resample_may_never_get_there_or_begin_there() -> None:
    leaks_BK = np.array([[2.0, 0.0], [2.0, 1.5], [0.9, 0.0]])
    assert costs_at(leaks_BK, np.array([[1.0, 3.0]] * 3), 1.0) == pytest.approx([2.0, np.inf, 1.0])


def test_no_curve_is_refused() -> None:
    with pytest.raises(InputError, match="not a curve"):
        cost_at(np.array([1.0]), np.array([1.0]), 0.5)
    with pytest.raises(InputError, match="not a curve"):
        cost_at(np.array([1.0, 0.0]), np.array([1.0, 2.0, 3.0]), 0.5)
    with pytest.raises(NumericalError):
        cost_at(np.array([1.0, np.nan]), np.array([1.0, 2.0]), 0.5)


def test_weights_are_drawn_within_clusters() -> None:
    clusters = ["a", "b", "a", "b", "a"]
    weights = unit_weights(clusters, 4000, np.random.default_rng(0))
    assert weights.shape == (4000, 5)
    in_a = np.array(clusters) == "a"
    assert np.allclose(weights[:, in_a].sum(axis=1), 3)
    assert np.allclose(weights[:, ~in_a].sum(axis=1), 2)
    assert np.allclose(weights.mean(axis=0), 1, atol=0.1)
