"""(S + U V) x in the decoding kernel: what helpers leave, and what a block of rows makes of it.

A helper multiplies rows of V, or slots of S, with the activations; the block that finishes a row adds up the
row's slots and U times V's sums, which are there by then, as a rule (see `exchange`).
"""

# Triton's own types do not describe what its functions return.
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportAssignmentType=false

# Triton's functions are compiled from source: no postponed annotations and no type hints beyond constexpr.
import triton
import triton.language as tl

from .exchange import empty, leave, look

MOST_COMPONENTS = 32


@triton.constexpr_function
def piece_of(rank):
    """Components that are multiplied with U at a time: more of them take more registers than there are."""
    return min(rank, MOST_COMPONENTS)


@triton.jit
def inner_share(
    x_ptr, down_ptr, inner_ptr, task, rank, num_in, num_rows,
    SLICE: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One row of V times the activations over one slice of the columns, into inner[slice, 16, rank]."""
    component = task % rank
    part = task // rank
    m = tl.arange(0, ROWS)
    sums = tl.zeros((ROWS,), tl.float32)
    for start in range(part * SLICE, min(part * SLICE + SLICE, num_in), CHUNK):
        column = start + tl.arange(0, CHUNK)
        inside = column < num_in
        v = tl.load(down_ptr + component * num_in + column, mask=inside, other=0.0).to(tl.float32)
        at = x_ptr + m[:, None] * num_in + column[None, :]
        x = tl.load(at, mask=inside[None, :] & (m[:, None] < num_rows), other=0.0).to(tl.float32)
        sums += tl.sum(x * v[None, :], axis=1)
    leave(inner_ptr + (part * 16 + m) * rank + component, sums, m < num_rows)


@triton.jit
def _entries(columns_ptr, values_ptr, tile, TILE: tl.constexpr, ENTRIES: tl.constexpr):
    """Columns and values of TILE slots [TILE, ENTRIES]."""
    slot = tile * TILE + tl.arange(0, TILE)
    entry = slot[:, None] * ENTRIES + tl.arange(0, ENTRIES)[None, :]
    return tl.load(columns_ptr + entry), tl.load(values_ptr + entry)


@triton.jit
def sparse_share(
    x_ptr, columns_ptr, values_ptr, kept_ptr, first_tile, num_tiles, step, num_slots, num_used, num_in,
    num_rows, TILE: tl.constexpr, ENTRIES: tl.constexpr,
):  # fmt: skip
    """Every `step`-th tile of TILE slots of S, each slot with ENTRIES entries of one row, times the
    activations, into kept[M, slots]. The next tile is asked for before this one's activations."""
    column, value = _entries(columns_ptr, values_ptr, min(first_tile, num_tiles - 1), TILE, ENTRIES)
    for tile in range(first_tile, num_tiles, step):
        next_tile = min(tile + step, num_tiles - 1)
        next_column, next_value = _entries(columns_ptr, values_ptr, next_tile, TILE, ENTRIES)
        slot = tile * TILE + tl.arange(0, TILE)
        for m in range(num_rows):
            x = tl.load(x_ptr + m * num_in + column.to(tl.int32)).to(tl.float32)
            sums = tl.sum(value.to(tl.float32) * x, axis=1)
            leave(kept_ptr + m * num_slots + slot, sums, slot < num_used)
        column = next_column
        value = next_value


@triton.jit
def _kept_sums(kept_at, first, last, MOST: tl.constexpr):
    """(sums of the rows' slots from `first` to before `last`, at most MOST of them [BLOCK_O]; missing).

    What is all there is empty afterwards.
    """
    slot = first[:, None] + tl.arange(0, MOST)[None, :]
    mine = slot < last[:, None]
    kept, lacks = look(kept_at + slot, mine)
    missing = tl.max(lacks)
    if missing == 0:
        empty(kept_at + slot, mine)
    return tl.sum(kept, axis=1), missing


@triton.jit
def _inner_sums(inner_at, rank, RANK: tl.constexpr, NUM_SLICES: tl.constexpr, SLICES: tl.constexpr):
    """(RANK rows of V times one row of activations, over all slices of the columns [RANK]; missing)."""
    part = tl.arange(0, SLICES)
    r = tl.arange(0, RANK)
    wanted = (part[:, None] < NUM_SLICES) & (r[None, :] >= 0)
    inner, lacks = look(inner_at + part[:, None] * 16 * rank + r[None, :], wanted)
    return tl.sum(inner, axis=0), tl.max(lacks)


@triton.jit
def _rows_of_u(up_ptr, rows, row_mask, start, RANK: tl.constexpr, PIECE: tl.constexpr):
    """Components `start` and on of the rows [BLOCK_O, PIECE]."""
    at = up_ptr + rows[:, None] * RANK + start + tl.arange(0, PIECE)[None, :]
    return tl.load(at, mask=row_mask[:, None], other=0.0)


@triton.jit
def ortho_sums(
    inner_at, kept_at, first, last, up, up_ptr, rows, row_mask, rank,
    RANK: tl.constexpr, NUM_SLICES: tl.constexpr, SLICES: tl.constexpr, HAS_SPARSE: tl.constexpr,
    BLOCK_O: tl.constexpr, USUAL_SLOTS: tl.constexpr,
):  # fmt: skip
    """(S + U V) x for one row of activations [BLOCK_O], once the helpers have left it."""
    sums = tl.zeros((BLOCK_O,), tl.float32)
    if HAS_SPARSE:
        longest = tl.max(last - first)
        done = 0
        while done < longest:
            kept, missing = _kept_sums(kept_at, first + done, last, USUAL_SLOTS)
            if missing == 0:
                sums += kept
                done += USUAL_SLOTS
    if RANK > 0:
        PIECE: tl.constexpr = piece_of(RANK)
        for start in range(0, RANK, PIECE):
            inner = tl.zeros((PIECE,), tl.float32)
            missing = 1
            while missing != 0:
                inner, missing = _inner_sums(inner_at + start, rank, PIECE, NUM_SLICES, SLICES)
            mine = up if PIECE == RANK else _rows_of_u(up_ptr, rows, row_mask, start, RANK, PIECE)
            sums += tl.sum(mine.to(tl.float32) * inner[None, :], axis=1)
    return sums


@triton.jit
def own_ortho(
    up_ptr, starts_ptr, segment_ptr, row_block, rows, row_mask,
    RANK: tl.constexpr, HAS_SPARSE: tl.constexpr,
):  # fmt: skip
    """What a block of rows needs to know of its Ortho part, whatever the activations are: (each row's first
    slot, the one after its last, first component, rows of U where they are
    narrow enough to be held meanwhile)."""
    first = rows
    last = rows
    if HAS_SPARSE:
        first = tl.load(starts_ptr + rows, mask=row_mask, other=0)
        last = tl.load(starts_ptr + rows + 1, mask=row_mask, other=0)
    segment = row_block
    up = rows
    if RANK > 0:
        segment = tl.load(segment_ptr + row_block)
        if piece_of(RANK) == RANK:
            up = _rows_of_u(up_ptr, rows, row_mask, 0, RANK, RANK)
    return first, last, segment, up
