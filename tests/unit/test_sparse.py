"""The sparse part: exactly k entries, ties by position, matrices beyond 16-bit positions."""

from __future__ import annotations

import pytest
import torch
from fakes import randn
from hypothesis import given, settings
from hypothesis import strategies as st

from sixgig.errors import InputError
from sixgig.numerics.sparse import keep_top_k


@given(data=st.data(), num_out=st.integers(1, 7), num_in=st.integers(1, 9), levels=st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_exactly_k_of_the_highest_survive_whatever_the_ties(
    data: st.DataObject, num_out: int, num_in: int, levels: int
) -> None:
    k = data.draw(st.integers(0, num_out * num_in))
    matrix = randn(num_out, num_in, seed=levels)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**16)))
    score = torch.randint(0, levels, (num_out, num_in), generator=generator).float()
    kept = keep_top_k(matrix, score, k)
    flat = score.flatten().tolist()
    best = sorted(range(len(flat)), key=lambda position: (-flat[position], position))[:k]
    assert kept.positions_k.tolist() == sorted(best)
    expected = torch.zeros(num_out * num_in)
    expected[best] = matrix.flatten()[best]
    assert torch.equal(kept.dense(), expected.view(num_out, num_in))


@pytest.mark.parametrize("k", [0, 15])
def test_none_and_all(k: int) -> None:
    matrix = randn(3, 5)
    kept = keep_top_k(matrix, matrix.abs(), k)
    assert len(kept.positions_k) == len(kept.values_k) == k
    assert torch.equal(kept.dense(), matrix if k else torch.zeros(3, 5))


def test_positions_beyond_sixteen_bits() -> None:
    matrix = randn(300, 257)
    score = torch.arange(300.0 * 257).view(300, 257)  # the last entries win: all far above 65,536
    kept = keep_top_k(matrix, score, 100)
    expected = torch.zeros(300 * 257)
    expected[-100:] = matrix.flatten()[-100:]
    assert kept.positions_k.dtype == torch.int32
    assert int(kept.positions_k.min()) > 65_536
    assert torch.equal(kept.dense(), expected.view(300, 257))


@pytest.mark.parametrize("k", [-1, 16])
def test_k_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(InputError, match="k out of range"):
        keep_top_k(randn(3, 5), randn(3, 5), k)


def test_storage_counts_values_columns_and_row_offsets() -> None:
    kept = keep_top_k(randn(3, 5), randn(3, 5), 4)
    assert kept.storage_bits == 4 * (16 + 16) + 32 * (3 + 1)
