"""How weights lie for the kernels: there and back is the identity, and an Ortho part's tiles are the part."""

from __future__ import annotations

import pytest
import torch
from fakes import randn
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_tools import random_base, random_ortho, sparse_part
from torch import Tensor

from sixgig.errors import InputError
from sixgig.numerics.kernels.layout import block_columns, tile_base, untile_base
from sixgig.numerics.kernels.ortho_layout import SLOT_ENTRIES, TILE_SLOTS, TiledOrtho, tile_ortho
from sixgig.numerics.quantize import quantize_rtn
from sixgig.numerics.split_product import OrthoFactors

BITS = st.sampled_from([2, 3, 4, 8])
GROUPS = st.sampled_from([64, 128])
DTYPES = st.sampled_from([torch.bfloat16, torch.float16])


# ---- Base ----


@settings(max_examples=60, deadline=None)
@given(BITS, GROUPS, DTYPES, st.integers(1, 40), st.integers(1, 1100), st.integers(0, 2**20))
def test_tiling_a_base_and_back_is_the_identity(
    bits: int, group_size: int, dtype: torch.dtype, num_out: int, num_in: int, seed: int
) -> None:
    base = random_base(num_out, num_in, bits=bits, group_size=group_size, seed=seed)
    back = untile_base(tile_base(base, dtype))
    assert torch.equal(back.codes_OI, base.codes_OI)
    assert torch.equal(back.scales_OG, base.scales_OG)
    assert torch.equal(back.zeros_OG, base.zeros_OG)
    assert (back.bits, back.group_size) == (bits, group_size)


@settings(max_examples=30, deadline=None)
@given(BITS, GROUPS, DTYPES, st.integers(1, 40), st.integers(1, 1100))
def test_a_base_takes_its_bits_and_32_for_each_grid(
    bits: int, group_size: int, dtype: torch.dtype, num_out: int, num_in: int
) -> None:
    tiled = tile_base(random_base(num_out, num_in, bits=bits, group_size=group_size), dtype)
    columns = -(-num_in // block_columns(bits)) * block_columns(bits)
    # Three bits a code, in words of five codes and a third of a sixteenth: no bit is lost there either.
    assert tiled.num_bytes * 8 == num_out * (columns * bits + columns // group_size * 32)
    assert (tiled.num_out, tiled.num_in) == (num_out, num_in)
    assert tiled.num_blocks == columns // block_columns(bits)


def test_what_the_kernels_do_not_take_is_refused() -> None:
    weight_OI = randn(4, 256)
    for base, dtype, problem in (
        (quantize_rtn(weight_OI, bits=4, group_size=32), torch.float16, "group size"),
        (quantize_rtn(weight_OI, bits=4, group_size=64), torch.float32, "type of activations"),
    ):
        with pytest.raises(InputError, match=problem):
            tile_base(base, dtype)
    other = random_base(4, 256, bits=5, group_size=64)
    with pytest.raises(InputError, match="this bits") as raised:
        tile_base(other, torch.float16)
    assert raised.value.received == "5"


# ---- Ortho part ----


def rebuilt(tiled: TiledOrtho) -> tuple[Tensor, Tensor]:
    """S and U V [O, I], read from the tiles as the kernel reads them."""
    num_out, num_in = len(tiled.up_Ow), tiled.down_RI.shape[1]
    sparse_OI, product_OI = torch.zeros(num_out, num_in), torch.zeros(num_out, num_in)
    for row in range(num_out):
        slots = slice(int(tiled.starts_O[row]), int(tiled.starts_O[row + 1]))
        columns_k = tiled.columns_Te[slots].flatten().long()
        sparse_OI[row].index_add_(0, columns_k, tiled.values_Te[slots].flatten().float())
        first = int(tiled.segments_B[row // tiled.block_rows])
        down_wI = tiled.down_RI[first : first + tiled.width].float()
        product_OI[row] = tiled.up_Ow[row].float() @ down_wI
    return sparse_OI, product_OI


def assert_holds(tiled: TiledOrtho, parts: list[OrthoFactors], order_O: Tensor) -> None:
    sparse_OI, product_OI = rebuilt(tiled)
    expected_S = torch.cat(
        [
            torch.zeros(len(p.up_Or), p.down_rI.shape[1]) if p.sparse is None else p.sparse.dense()
            for p in parts
        ]
    )
    expected_UV = torch.cat([part.up_Or.float() @ part.down_rI.float() for part in parts])
    assert torch.equal(sparse_OI, expected_S[order_O])
    torch.testing.assert_close(product_OI, expected_UV[order_O], rtol=1e-5, atol=1e-6)
    for start, stop, first in tiled.segment_bounds:
        blocks = range(start // tiled.block_rows, -(-stop // tiled.block_rows))
        assert {int(tiled.segments_B[block]) for block in blocks} == {first}
    assert [start for start, _, _ in tiled.segment_bounds[1:]] == [s for _, s, _ in tiled.segment_bounds[:-1]]
    assert (tiled.segment_bounds[0][0], tiled.segment_bounds[-1][1]) == (0, len(order_O))


@pytest.mark.parametrize("rank", [0, 1, 5, 16, 17, 32])
@pytest.mark.parametrize("num_sparse", [0, 7, 400])
def test_the_tiles_of_one_layer_are_its_parts(rank: int, num_sparse: int) -> None:
    part = random_ortho(70, 90, rank=rank, num_sparse=num_sparse)
    order_O = torch.arange(70)
    tiled = tile_ortho([part], order_O, 32)
    assert_holds(tiled, [part], order_O)
    assert tiled.width == {0: 0, 1: 16, 5: 16, 16: 16, 17: 32, 32: 32}[rank]
    assert tiled.num_slots % TILE_SLOTS == 0


@pytest.mark.parametrize("block_rows", [16, 32])
def test_stacked_layers_keep_their_own_components(block_rows: int) -> None:
    parts = [random_ortho(rows, 48, rank=rank, seed=rows) for rows, rank in ((64, 5), (32, 17), (32, 0))]
    order_O = torch.arange(128)
    tiled = tile_ortho(parts, order_O, block_rows)
    assert_holds(tiled, parts, order_O)
    assert tiled.width == 32, "no row is widened where blocks hold rows of one layer each"
    assert len(tiled.segment_bounds) == 3


def test_interleaved_layers_share_a_widened_factor() -> None:
    parts = [random_ortho(40, 48, rank=5, seed=1), random_ortho(40, 48, rank=3, seed=2)]
    order_O = torch.stack([torch.arange(40), 40 + torch.arange(40)], dim=1).flatten()
    tiled = tile_ortho(parts, order_O, 32)
    assert_holds(tiled, parts, order_O)
    assert tiled.width == 32
    assert len(tiled.segment_bounds) == 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 24), st.integers(0, 20), st.integers(0, 60)), min_size=1, max_size=3),
    st.sampled_from([4, 8, 16]),
    st.booleans(),
    st.integers(0, 2**20),
)
def test_any_stack_in_any_order_is_its_parts(
    layers: list[tuple[int, int, int]], block_rows: int, shuffled: bool, seed: int
) -> None:
    parts = [
        random_ortho(rows, 30, rank=rank, num_sparse=min(num_sparse, 30 * rows), seed=seed + index)
        for index, (rows, rank, num_sparse) in enumerate(layers)
    ]
    num_rows = sum(rows for rows, _, _ in layers)
    order_O = torch.arange(num_rows)
    if shuffled:
        order_O = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))
    assert_holds(tile_ortho(parts, order_O, block_rows), parts, order_O)


def test_slots_are_balanced_by_nonzeros() -> None:
    """A full row, rows of 1, 8 and 9 entries and empty rows: no slot holds two rows, none is wasted."""
    num_in = 1000
    entries = {(0, column): 1.0 + column for column in range(num_in)}
    for row, count in ((3, 1), (4, 8), (5, 9)):
        entries |= {(row, 10 * column): -1.0 for column in range(count)}
    part = OrthoFactors(
        up_Or=torch.zeros(7, 0), down_rI=torch.zeros(0, num_in), sparse=sparse_part(entries, (7, num_in))
    )
    tiled = tile_ortho([part], torch.arange(7), 16)
    assert tiled.starts_O.diff().tolist() == [125, 0, 0, 1, 1, 2, 0]
    assert tiled.num_slots == 2 * TILE_SLOTS
    assert tiled.values_Te.shape == (tiled.num_slots, SLOT_ENTRIES)
    assert int((tiled.values_Te != 0).sum()) == len(entries)
    assert torch.equal(rebuilt(tiled)[0], part.dense())


def test_columns_take_two_bytes_while_they_can() -> None:
    for num_in, dtype in ((2**15, torch.int16), (2**15 + 1, torch.int32)):
        last = sparse_part({(1, num_in - 1): 2.0}, (2, num_in))
        part = OrthoFactors(up_Or=torch.zeros(2, 0), down_rI=torch.zeros(0, num_in), sparse=last)
        tiled = tile_ortho([part], torch.arange(2), 16)
        assert tiled.columns_Te.dtype == dtype
        assert torch.equal(rebuilt(tiled)[0], last.dense())


def test_an_ortho_part_counts_all_its_bytes() -> None:
    tiled = tile_ortho([random_ortho(32, 40, rank=16, num_sparse=100)], torch.arange(32), 16)
    factors = 2 * 16 * (32 + 40)
    slots = tiled.num_slots * SLOT_ENTRIES * (2 + 2)
    assert tiled.num_bytes == factors + slots + 4 * (2 + 33)
