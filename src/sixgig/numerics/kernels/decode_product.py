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
from triton.language.extra.cuda import gdc_launch_dependents

from .codes import grid, product_of_tiles, strip
from .epilogue import inverse_rms, write_rows
from .ortho_product import inner_share, ortho_sums, own_ortho, sparse_share


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
                    inner_share(x_ptr, down_ptr, inner_ptr, task, rank, num_in, num_rows, SLICE, CHUNK, ROWS)
            elif HAS_SPARSE:
                sparse_share(
                    x_ptr, columns_ptr, values_ptr, kept_ptr, helper - num_inner_helpers, num_slots // TILE,
                    num_helpers - num_inner_helpers, num_slots, tl.load(starts_ptr + num_out), num_in,
                    num_rows, TILE, ENTRIES,
                )  # fmt: skip
    else:
        if LETS_NEXT_COME:
            gdc_launch_dependents()
        rows = row_block * BLOCK_O + tl.arange(0, BLOCK_O)
        row_mask = rows < num_out
        first, last, segment, up = own_ortho(
            up_ptr, starts_ptr, segment_ptr, row_block, rows, row_mask, RANK, HAS_SPARSE
        )
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
                        sums = ortho_sums(
                            inner_ptr + row * rank + segment, kept_ptr + row * num_slots, first, last, up,
                            up_ptr, rows, row_mask, rank,
                            RANK, NUM_SLICES, SLICES, HAS_SPARSE, BLOCK_O, USUAL_SLOTS,
                        )  # fmt: skip
                        y += tl.where(m[None, :] == row, alpha * sums[:, None], 0.0)
            if NORM_PARTS > 0:
                y *= inverse_rms(norm_ptr, num_norm_parts, num_in, eps, NORM_PARTS, SLOTS)[None, :]
            write_rows(
                y, out_ptr, row_block, rows, row_mask, num_out, num_rows, residual_ptr, gain_ptr, squares_ptr,
                EPILOGUE, DTYPE, BLOCK_O, SLOTS,
            )  # fmt: skip
