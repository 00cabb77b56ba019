"""y = x (Base + alpha (S + U V))^T for 1 to 16 rows of activations, straight from packed codes, in one
launch.

Of the launch's programs the first `num_helpers` work on the Ortho part, and leave at once where alpha is 0:
they multiply rows of V and slots of S with the activations and leave the results (see `exchange`). All
others share the Base: `split` programs for each block of rows, each with its share of the columns. The
program of a block that finishes last adds up what the others left, in fixed order, and alpha times the
helpers' part, and writes. So no sum depends on which program was quicker, and alpha = 0 and 1 are the same
launch: alpha is read from device memory, and a captured graph need not be captured again.

Nobody waits for a program that has not started, as long as programs start in the order of their numbers,
which GPUs do though nothing promises it: helpers have the lowest numbers and wait for nobody themselves.

What comes before and after a product in a Llama-like decoder is in the launch too:
- the input may lack its RMSNorm's factor, which is one number a row and can as well multiply the result; it
  is made from sums of squares that the launch before left (one for each of its blocks of rows);
- "residual": y is added to the residual stream h; h times the next norm's gain is what the next launch reads;
- "swiglu": rows 2i and 2i + 1 are gate and up of one channel, and silu(gate) * up is written.

Legend: M rows of activations (at most 16), O out features, I in features.
"""

# Triton's functions are compiled from source: no postponed annotations and no type hints beyond constexpr.
import triton
import triton.language as tl

from .codes import grid, product_of_tiles, strip
from .dependent_launch import let_next_come
from .exchange import empty, leave, look


@triton.jit
def _base_share(
    x_ptr, words_ptr, grids_ptr, rows, row_mask, first_block, last_block, num_in, num_out, num_rows,
    BITS: tl.constexpr, GROUP: tl.constexpr, BLOCK_O: tl.constexpr, DTYPE: tl.constexpr, SLOTS: tl.constexpr,
    EVEN_I: tl.constexpr, EVEN_O: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The Base times x over blocks of columns [first_block, last_block): fp32 [BLOCK_O, SLOTS]."""
    WIDTH: tl.constexpr = 16 if BITS == 3 else 32 if BITS == 2 else 64
    PARTS: tl.constexpr = 3 if BITS == 3 else 4 if BITS == 8 else 1
    STRIPS: tl.constexpr = 4  # of 64 columns
    GROUPS: tl.constexpr = STRIPS * 64 // GROUP
    word = tl.arange(0, WIDTH)
    m = tl.arange(0, SLOTS)
    total = tl.zeros((BLOCK_O, SLOTS), tl.float32)
    for block in tl.range(first_block, last_block, num_stages=STAGES):
        at = words_ptr + (block * PARTS * num_out + rows[:, None]) * WIDTH + word[None, :]
        first = _load_rows(at, row_mask, EVEN_O)
        second = first
        third = first
        if BITS == 3:
            second = _load_rows(at + num_out * WIDTH, row_mask, EVEN_O)
            third = _load_rows(at + 2 * num_out * WIDTH, row_mask, EVEN_O)
        for group in tl.static_range(GROUPS):
            grids_at = grids_ptr + (block * GROUPS + group) * num_out + rows
            packed = tl.load(grids_at) if EVEN_O else tl.load(grids_at, mask=row_mask, other=0)
            scale, offset = grid(packed, DTYPE)
            product = tl.zeros((BLOCK_O, SLOTS), tl.float32)
            for index in tl.static_range(STRIPS // GROUPS):
                if BITS == 8:
                    part = group * (STRIPS // GROUPS) + index
                    codes = _load_rows(at + part * num_out * WIDTH, row_mask, EVEN_O)
                    steps = (codes.to(tl.float32) - offset.to(tl.float32)[:, None]).to(DTYPE)
                else:
                    steps = strip(
                        first, second, third, offset, group * (STRIPS // GROUPS) + index, BITS, DTYPE
                    )
                column = (block * STRIPS + group * (STRIPS // GROUPS) + index) * 64 + tl.arange(0, 64)
                wanted = m[None, :] < num_rows
                if not EVEN_I:
                    wanted = wanted & (column[:, None] < num_in)
                x = tl.load(x_ptr + m[None, :] * num_in + column[:, None], mask=wanted, other=0.0)
                product = product_of_tiles(steps, x, product)
            total += product * scale[:, None]
    return total


@triton.jit
def _load_rows(at, row_mask, EVEN_O: tl.constexpr):
    if EVEN_O:
        return tl.load(at)
    return tl.load(at, mask=row_mask[:, None], other=0)


@triton.jit
def _inner_share(
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
def _sparse_share(
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
def _kept_sums(kept_at, first, last, BLOCK_O: tl.constexpr, SLOTS: tl.constexpr):
    """(sums of the rows' slots from `first` to before `last`, at most SLOTS of them [BLOCK_O]; missing).

    What is all there is empty afterwards.
    """
    slot = first[:, None] + tl.arange(0, SLOTS)[None, :]
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
def _ortho_sums(
    inner_at, kept_at, first, last, up, rank,
    RANK: tl.constexpr, NUM_SLICES: tl.constexpr, SLICES: tl.constexpr, HAS_SPARSE: tl.constexpr,
    BLOCK_O: tl.constexpr, USUAL_SLOTS: tl.constexpr,
):  # fmt: skip
    """(S + U V) x for one row of activations [BLOCK_O], once the helpers have left it."""
    sums = tl.zeros((BLOCK_O,), tl.float32)
    if HAS_SPARSE:
        longest = tl.max(last - first)
        done = 0
        while done < longest:
            kept, missing = _kept_sums(kept_at, first + done, last, BLOCK_O, USUAL_SLOTS)
            if missing == 0:
                sums += kept
                done += USUAL_SLOTS
    if RANK > 0:
        inner = tl.zeros((RANK,), tl.float32)
        missing = 1
        while missing != 0:
            inner, missing = _inner_sums(inner_at, rank, RANK, NUM_SLICES, SLICES)
        sums += tl.sum(up.to(tl.float32) * inner[None, :], axis=1)
    return sums


@triton.jit
def _own_ortho(
    up_ptr, starts_ptr, segment_ptr, row_block, rows, row_mask,
    RANK: tl.constexpr, HAS_SPARSE: tl.constexpr,
):  # fmt: skip
    """What a block of rows needs to know of its Ortho part, whatever the activations are: (each row's first
    slot, the one after its last, first component, rows of U)."""
    first = rows
    last = rows
    if HAS_SPARSE:
        first = tl.load(starts_ptr + rows, mask=row_mask, other=0)
        last = tl.load(starts_ptr + rows + 1, mask=row_mask, other=0)
    segment = row_block
    up = rows
    if RANK > 0:
        segment = tl.load(segment_ptr + row_block)
        up_at = up_ptr + rows[:, None] * RANK + tl.arange(0, RANK)[None, :]
        up = tl.load(up_at, mask=row_mask[:, None], other=0.0)
    return first, last, segment, up


@triton.jit
def _write(
    y, out_ptr, row_block, rows, row_mask, num_out, num_rows, residual_ptr, gain_ptr, squares_ptr,
    EPILOGUE: tl.constexpr, DTYPE: tl.constexpr, BLOCK_O: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """Rounds where transformers' own layers round: after the product, after each further operation."""
    m = tl.arange(0, SLOTS)
    wanted = row_mask[:, None] & (m[None, :] < num_rows)
    if EPILOGUE == "swiglu":
        pairs = tl.permute(tl.reshape(y.to(DTYPE), (BLOCK_O // 2, 2, SLOTS)), (0, 2, 1))
        gate, up = tl.split(pairs)
        gate = gate.to(tl.float32)
        silu = (gate / (1.0 + tl.exp(-gate))).to(DTYPE)
        channel = row_block * (BLOCK_O // 2) + tl.arange(0, BLOCK_O // 2)
        inside = (channel[:, None] < num_out // 2) & (m[None, :] < num_rows)
        at = out_ptr + m[None, :] * (num_out // 2) + channel[:, None]
        tl.store(at, (silu.to(tl.float32) * up.to(tl.float32)).to(DTYPE), mask=inside)
    elif EPILOGUE == "residual":
        at = m[None, :] * num_out + rows[:, None]
        before = tl.load(residual_ptr + at, mask=wanted, other=0.0).to(tl.float32)
        after = (before + y.to(DTYPE).to(tl.float32)).to(DTYPE).to(tl.float32)
        tl.store(residual_ptr + at, after.to(DTYPE), mask=wanted)
        gain = tl.load(gain_ptr + rows, mask=row_mask, other=0.0).to(tl.float32)
        tl.store(out_ptr + at, (after * gain[:, None]).to(DTYPE), mask=wanted)
        squares = tl.sum(tl.where(wanted, after * after, 0.0), axis=0)
        tl.store(squares_ptr + row_block * 16 + m, squares)
    else:
        at = out_ptr + m[None, :] * num_out + rows[:, None]
        tl.store(at, y.to(out_ptr.dtype.element_ty), mask=wanted)


@triton.jit
def _inverse_rms(squares_ptr, num_parts, num_in, eps, PARTS: tl.constexpr, SLOTS: tl.constexpr):
    """1 / sqrt(mean square + eps) of each row of activations, [SLOTS], from the sums that its makers left."""
    part = tl.arange(0, PARTS)
    m = tl.arange(0, SLOTS)
    at = squares_ptr + part[:, None] * 16 + m[None, :]
    squares = tl.sum(tl.load(at, mask=part[:, None] < num_parts, other=0.0), axis=0)
    return 1.0 / tl.sqrt_rn(squares / num_in + eps)


@triton.jit
def decode_product_kernel(
    x_ptr, words_ptr, grids_ptr, out_ptr, num_in, num_out, num_rows, num_blocks,
    partial_ptr, counters_ptr,
    norm_ptr, num_norm_parts, eps,
    residual_ptr, gain_ptr, squares_ptr,
    alpha_ptr, num_helpers, num_inner_helpers, rank, down_ptr, up_ptr, segment_ptr, inner_ptr,
    num_slots, starts_ptr, columns_ptr, values_ptr, kept_ptr,
    BITS: tl.constexpr, GROUP: tl.constexpr, DTYPE: tl.constexpr, SLOTS: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_O: tl.constexpr, SPLIT: tl.constexpr, STAGES: tl.constexpr,
    EVEN_I: tl.constexpr, EVEN_O: tl.constexpr, EPILOGUE: tl.constexpr, NORM_PARTS: tl.constexpr,
    HAS_ORTHO: tl.constexpr, RANK: tl.constexpr, SLICE: tl.constexpr, NUM_SLICES: tl.constexpr,
    CHUNK: tl.constexpr, HAS_SPARSE: tl.constexpr, TILE: tl.constexpr, ENTRIES: tl.constexpr,
    USUAL_SLOTS: tl.constexpr, SLICES: tl.constexpr, LETS_NEXT_COME: tl.constexpr,
):  # fmt: skip
    """See the module. Counters: one a block of rows, all 0; `inner` and `kept`: places, all empty."""
    program = tl.program_id(0)
    alpha = 0.0
    if HAS_ORTHO:
        alpha = tl.load(alpha_ptr)
        is_helper = program < num_helpers
        program -= num_helpers
    else:
        is_helper = False
    row_block = program // SPLIT
    share = program % SPLIT
    first_block = share * num_blocks // SPLIT
    last_block = (share + 1) * num_blocks // SPLIT
    if is_helper:
        if alpha != 0.0:
            helper = program + num_helpers
            if helper < num_inner_helpers:
                for task in range(helper, rank * NUM_SLICES, num_inner_helpers):
                    _inner_share(x_ptr, down_ptr, inner_ptr, task, rank, num_in, num_rows, SLICE, CHUNK, ROWS)
            elif HAS_SPARSE:
                _sparse_share(
                    x_ptr, columns_ptr, values_ptr, kept_ptr, helper - num_inner_helpers, num_slots // TILE,
                    num_helpers - num_inner_helpers, num_slots, tl.load(starts_ptr + num_out), num_in,
                    num_rows, TILE, ENTRIES,
                )  # fmt: skip
    else:
        if LETS_NEXT_COME:
            let_next_come()
        rows = row_block * BLOCK_O + tl.arange(0, BLOCK_O)
        row_mask = rows < num_out
        if HAS_ORTHO:
            first, last, segment, up = _own_ortho(
                up_ptr, starts_ptr, segment_ptr, row_block, rows, row_mask, RANK, HAS_SPARSE
            )
        else:
            first, last, segment, up = rows, rows, row_block, rows
        y = _base_share(
            x_ptr, words_ptr, grids_ptr, rows, row_mask, first_block, last_block, num_in, num_out, num_rows,
            BITS, GROUP, BLOCK_O, DTYPE, SLOTS, EVEN_I, EVEN_O, STAGES,
        )  # fmt: skip
        m = tl.arange(0, SLOTS)
        o = tl.arange(0, BLOCK_O)
        at = partial_ptr + (row_block * SPLIT * 16 + m[None, :]) * BLOCK_O + o[:, None]
        wanted = (m[None, :] < num_rows) & (o[:, None] >= 0)
        is_last = True
        if SPLIT > 1:
            tl.store(at + share * 16 * BLOCK_O, y, mask=wanted)
            tl.debug_barrier()  # every thread's sums are written before the program counts as done
            is_last = tl.atomic_add(counters_ptr + row_block, 1, sem="acq_rel") == SPLIT - 1
        if is_last:
            if SPLIT > 1:
                tl.store(counters_ptr + row_block, 0)
                y = tl.zeros((BLOCK_O, SLOTS), tl.float32)
                for part in tl.static_range(SPLIT):
                    y += tl.load(at + part * 16 * BLOCK_O, mask=wanted, other=0.0, cache_modifier=".cg")
            if HAS_ORTHO:
                if alpha != 0.0:
                    for row in range(num_rows):
                        sums = _ortho_sums(
                            inner_ptr + row * rank + segment, kept_ptr + row * num_slots, first, last, up,
                            rank, RANK, NUM_SLICES, SLICES, HAS_SPARSE, BLOCK_O, USUAL_SLOTS,
                        )  # fmt: skip
                        y += tl.where(m[None, :] == row, alpha * sums[:, None], 0.0)
            if NORM_PARTS > 0:
                y *= _inverse_rms(norm_ptr, num_norm_parts, num_in, eps, NORM_PARTS, SLOTS)[None, :]
            _write(
                y, out_ptr, row_block, rows, row_mask, num_out, num_rows, residual_ptr, gain_ptr, squares_ptr,
                EPILOGUE, DTYPE, BLOCK_O, SLOTS,
            )  # fmt: skip
