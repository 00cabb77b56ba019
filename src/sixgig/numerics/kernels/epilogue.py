"""What comes before and after a product in a Llama-like decoder, in the product's own launch: the RMSNorm's
factor, then "plain", "residual" or "swiglu" (see `decode_product`)."""

# Triton's functions are compiled from source: no postponed annotations and no type hints beyond constexpr.
import triton
import triton.language as tl


@triton.jit
def write_rows(
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
def inverse_rms(squares_ptr, num_parts, num_in, eps, PARTS: tl.constexpr, SLOTS: tl.constexpr):
    """1 / sqrt(mean square + eps) of each row of activations, [SLOTS], from the sums that its makers left."""
    part = tl.arange(0, PARTS)
    m = tl.arange(0, SLOTS)
    at = squares_ptr + part[:, None] * 16 + m[None, :]
    squares = tl.sum(tl.load(at, mask=part[:, None] < num_parts, other=0.0), axis=0)
    return 1.0 / tl.sqrt_rn(squares / num_in + eps)
