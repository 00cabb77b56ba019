"""Controls from other records: never a record's own value, never an equal one, like with like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sixgig.data.permuted import form_of, pools
from sixgig.errors import InputError

VALUES = st.lists(
    st.sampled_from([" 12", " 3456", " 77-88", " ab1", " Rome", " to the sea", " x y z w v"]),
    min_size=2,
    max_size=60,
).filter(lambda values: len(set(values)) > 1)


@given(values=VALUES, max_members=st.integers(5, 20), seed=st.integers(0, 5))
def test_every_record_has_controls_and_none_of_them_is_its_own(
    values: list[str], max_members: int, seed: int
) -> None:
    found = pools(values, values, max_members=max_members, seed=seed)
    assert sorted(place for pool in found for place in pool.members) == list(range(len(values)))
    for pool in found:
        assert len(set(pool.own)) == len(pool.values) >= 2
        for place, own in zip(pool.members, pool.own, strict=True):
            assert values[pool.values[own]] == values[place]
            controls = [values[other] for number, other in enumerate(pool.values) if number != own]
            assert controls
            assert values[place] not in controls


def test_values_of_one_form_are_compared_with_one_another() -> None:
    digits, words = [f" {1000 + i}" for i in range(7)], [f" {'ab' * (i + 1)}" for i in range(6)]
    mixed = [value for pair in zip(digits, words, strict=False) for value in pair] + digits[6:]
    found = pools(mixed, mixed, max_members=64, seed=0)
    assert [pool.alike for pool in found] == [True, True]
    assert all(len({form_of(mixed[place]) for place in pool.members}) == 1 for pool in found)


def test_a_form_with_too_few_records_joins_another_and_says_so() -> None:
    values = [f" {1000 + i}" for i in range(6)] + [" Rome", " Bern"]
    (pool,) = pools(values, values, max_members=64, seed=0)
    assert len(pool.members) == 8
    assert not pool.alike


def test_many_records_are_cut_into_pools_of_like_size() -> None:
    values = [f" {1000 + i}" for i in range(150)]
    sizes = [len(pool.members) for pool in pools(values, values, max_members=64, seed=0)]
    assert sizes == [50, 50, 50]


def test_the_same_seed_draws_the_same_pools() -> None:
    values = [f" {1000 + i}" for i in range(150)]
    first, again, other = (pools(values, values, max_members=64, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_one_value_in_all_records_is_refused() -> None:
    with pytest.raises(InputError, match="same value"):
        pools([" a"] * 9, [" a"] * 9, max_members=64, seed=0)
