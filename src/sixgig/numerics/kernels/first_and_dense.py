"""What stands around the products of a decoder: a token's embedding, the likeliest token, and the same
epilogues for a dense product."""

# Triton's functions are compiled from source: no postponed annotations and no type hints beyond constexpr.
import triton
import triton.language as tl

from .epilogue import inverse_rms, write_rows


@triton.jit
def embed_kernel(
    table_ptr, token_ptr, stream_ptr, gain_ptr, out_ptr, squares_ptr, hidden, num_parts,
    BLOCK: tl.constexpr, PARTS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The token's row becomes the residual stream; out: stream times the first norm's gain, and its
    squares."""
    token = tl.load(token_ptr)
    d = tl.arange(0, BLOCK)
    inside = d < hidden
    x = tl.load(table_ptr + token * hidden + d, mask=inside, other=0.0).to(tl.float32)
    tl.store(stream_ptr + d, x.to(DTYPE), mask=inside)
    gain = tl.load(gain_ptr + d, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + d, (x * gain).to(DTYPE), mask=inside)
    part = tl.arange(0, PARTS)
    squares = tl.where(part == 0, tl.sum(x * x, axis=0), 0.0)
    tl.store(squares_ptr + part * 16, squares, mask=part < num_parts)


@triton.jit
def finish_dense_kernel(
    y_ptr, out_ptr, num_in, num_out, num_rows, norm_ptr, num_norm_parts, eps,
    residual_ptr, gain_ptr, squares_ptr,
    DTYPE: tl.constexpr, SLOTS: tl.constexpr, BLOCK_O: tl.constexpr, EPILOGUE: tl.constexpr,
    NORM_PARTS: tl.constexpr,
):  # fmt: skip
    """A dense product's y [M, O] through the epilogue of `decode_product`."""
    row_block = tl.program_id(0)
    rows = row_block * BLOCK_O + tl.arange(0, BLOCK_O)
    m = tl.arange(0, SLOTS)
    wanted = (rows[:, None] < num_out) & (m[None, :] < num_rows)
    y = tl.load(y_ptr + m[None, :] * num_out + rows[:, None], mask=wanted, other=0.0).to(tl.float32)
    if NORM_PARTS > 0:
        y *= inverse_rms(norm_ptr, num_norm_parts, num_in, eps, NORM_PARTS, SLOTS)[None, :]
    write_rows(
        y, out_ptr, row_block, rows, rows < num_out, num_out, num_rows, residual_ptr, gain_ptr, squares_ptr,
        EPILOGUE, DTYPE, BLOCK_O, SLOTS,
    )  # fmt: skip


@triton.jit
def block_peaks_kernel(logits_ptr, peaks_ptr, places_ptr, num_logits, BLOCK: tl.constexpr):
    """Each block's highest logit and its place, the lowest among equals."""
    program = tl.program_id(0)
    at = program * BLOCK + tl.arange(0, BLOCK)
    logits = tl.load(logits_ptr + at, mask=at < num_logits, other=float("-inf"))
    peak = tl.max(logits, axis=0)
    tl.store(peaks_ptr + program, peak)
    tl.store(places_ptr + program, tl.min(tl.where(logits == peak, at, num_logits), axis=0))


@triton.jit
def next_token_kernel(
    peaks_ptr, places_ptr, token_ptr, position_ptr, num_parts, num_logits, PARTS: tl.constexpr
):
    """The likeliest token, and the next position."""
    part = tl.arange(0, PARTS)
    peaks = tl.load(peaks_ptr + part, mask=part < num_parts, other=float("-inf"))
    places = tl.load(places_ptr + part, mask=part < num_parts, other=num_logits)
    best = tl.min(tl.where(peaks == tl.max(peaks, axis=0), places, num_logits), axis=0)
    tl.store(token_ptr, best.to(tl.int64))
    tl.store(position_ptr, tl.load(position_ptr) + 1)
