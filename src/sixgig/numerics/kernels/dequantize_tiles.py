"""Packed tiles to dense rows, for prefill: a few thousand rows at a time, which a dense product then reads.

How many rows is the caller's choice: memory against the size of the dense product.
"""

# Triton's functions are compiled from source: no postponed annotations and no type hints beyond constexpr.
import triton
import triton.language as tl

from .codes import grid, steps_of_plane


@triton.jit
def dequantize_tiles_kernel(
    words_ptr, grids_ptr, out_ptr, first_row, num_rows, num_in, num_out,
    BITS: tl.constexpr, GROUP: tl.constexpr, BLOCK_O: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """out [num_rows, num_in] = (code - zero) * scale of rows first_row and on, rounded once.

    Program (b, n): BLOCK_O rows of block n of columns.
    """
    WIDTH: tl.constexpr = 16 if BITS == 3 else 32 if BITS == 2 else 64
    PARTS: tl.constexpr = 3 if BITS == 3 else 4 if BITS == 8 else 1
    PLANES: tl.constexpr = 16 if BITS == 3 else 8 if BITS == 2 else 4
    GROUPS: tl.constexpr = PLANES * WIDTH // GROUP
    here = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    block = tl.program_id(1)
    inside = here < num_rows
    rows = first_row + here
    word = tl.arange(0, WIDTH)
    at = words_ptr + (block * PARTS * num_out + rows[:, None]) * WIDTH + word[None, :]
    first = tl.load(at, mask=inside[:, None], other=0)
    second = first
    third = first
    if BITS == 3:
        second = tl.load(at + num_out * WIDTH, mask=inside[:, None], other=0)
        third = tl.load(at + 2 * num_out * WIDTH, mask=inside[:, None], other=0)
    for group in tl.static_range(GROUPS):
        packed = tl.load(grids_ptr + (block * GROUPS + group) * num_out + rows, mask=inside, other=0)
        scale, offset = grid(packed, DTYPE)
        for index in tl.static_range(PLANES // GROUPS):
            if BITS == 8:
                part = group * (PLANES // GROUPS) + index
                codes = tl.load(at + part * num_out * WIDTH, mask=inside[:, None], other=0)
                steps = codes.to(tl.float32) - offset.to(tl.float32)[:, None]
            else:
                steps = steps_of_plane(
                    first, second, third, offset, group * (PLANES // GROUPS) + index, BITS, DTYPE
                ).to(tl.float32)
            column = (block * PLANES + group * (PLANES // GROUPS) + index) * WIDTH + word
            wanted = inside[:, None] & (column[None, :] < num_in)
            out_at = out_ptr + here[:, None] * num_in + column[None, :]
            tl.store(out_at, (steps * scale[:, None]).to(DTYPE), mask=wanted)


@triton.jit
def add_slots_kernel(
    out_ptr, alpha_ptr, starts_ptr, columns_ptr, values_ptr, first_row, num_in,
    ENTRIES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """out [rows, num_in] += alpha S, one row a program; every entry of S has a place of its own."""
    row = tl.program_id(0)
    alpha = tl.load(alpha_ptr)
    first = tl.load(starts_ptr + first_row + row)
    last = tl.load(starts_ptr + first_row + row + 1)
    if alpha != 0.0:
        for start in range(first * ENTRIES, last * ENTRIES, TILE):
            entry = start + tl.arange(0, TILE)
            value = tl.load(values_ptr + entry, mask=entry < last * ENTRIES, other=0.0).to(tl.float32)
            column = tl.load(columns_ptr + entry, mask=entry < last * ENTRIES, other=0).to(tl.int32)
            at = out_ptr + row * num_in + column
            here = value != 0.0  # fillings of a slot point at column 0
            before = tl.load(at, mask=here, other=0.0)
            tl.store(at, (before.to(tl.float32) + alpha * value).to(before.dtype), mask=here)
