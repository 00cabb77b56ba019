"""Packing: pack then unpack is the identity for every shape and width, in exactly the promised bytes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sixgig.errors import InputError, IntegrityError
from sixgig.numerics.pack import pack_codes, packed_row_bytes, unpack_codes


@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    num_out=st.integers(1, 5),
    num_in=st.integers(1, 67),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=80)
def test_unpacking_inverts_packing(bits: int, num_out: int, num_in: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (num_out, num_in), generator=generator, dtype=torch.uint8)
    packed = pack_codes(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (num_out, packed_row_bytes(num_in, bits))
    assert torch.equal(unpack_codes(packed, bits, num_in), codes)


@pytest.mark.parametrize(("bits", "largest"), [(2, 3), (3, 7), (4, 15), (8, 255)])
def test_the_largest_code_survives(bits: int, largest: int) -> None:
    codes = torch.full((2, 11), largest, dtype=torch.uint8)
    assert torch.equal(unpack_codes(pack_codes(codes, bits), bits, 11), codes)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("place", [(0, 0), (1, 4), (2, 10)])
def test_a_code_too_large_for_its_bits_is_refused(bits: int, place: tuple[int, int]) -> None:
    codes = torch.full((3, 11), 2**bits - 1, dtype=torch.uint8)
    codes[place] += 1
    with pytest.raises(InputError) as caught:
        pack_codes(codes, bits)
    assert f"expected: codes of 0 to {2**bits - 1} for {bits} bits" in str(caught.value)
    assert f"received: a code of {2**bits}" in str(caught.value)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_first_code_lies_in_the_lowest_bits(bits: int) -> None:
    codes = [(5 * position + 1) % 2**bits for position in range(8)]
    packed = pack_codes(torch.tensor([codes], dtype=torch.uint8), bits)
    word = sum(code << (bits * position) for position, code in enumerate(codes))
    assert bytes(packed[0].tolist()) == word.to_bytes(bits, "little")


@given(num_in=st.integers(1, 10_000))
@settings(deadline=None)
def test_row_bytes_are_the_fewest_whole_chunks(num_in: int) -> None:
    for bits in (2, 4, 8):
        assert packed_row_bytes(num_in, bits) == math.ceil(num_in * bits / 8)
    assert packed_row_bytes(num_in, 3) == 3 * math.ceil(num_in / 8)


@pytest.mark.parametrize("extra", [-1, 1])
def test_a_row_of_another_length_is_refused(extra: int) -> None:
    with pytest.raises(IntegrityError, match="wrong length"):
        unpack_codes(torch.zeros(2, packed_row_bytes(20, 4) + extra, dtype=torch.uint8), 4, 20)
