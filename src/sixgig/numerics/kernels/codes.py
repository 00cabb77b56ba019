"""From packed words to codes in the activations' type, on a whole tile at once.

A pair of neighbouring 16-bit words is one register; a shift and a three-input logic operation turn it into
two numbers that read as  magic + code  (magic: 128 in bf16, 1024 in fp16), from which the grid's offset is
taken by one exact subtraction. Converting integers instead takes four times the instructions and would make
decoding wait for arithmetic. Triton's interpreter knows no inline assembly; there the same is said plainly.
"""

# Triton's functions are compiled from source: no postponed annotations and no type hints beyond constexpr.
import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.constexpr_function
def _magic(dtype):
    return 128 if dtype == tl.bfloat16 else 1024


@triton.constexpr_function
def _field_asm(shift, bits, dtype):
    move = f"shr.u32 t, $1, {shift};" if shift else "mov.b32 t, $1;"
    mask = f"0x{2**bits - 1:04X}{2**bits - 1:04X}"
    magic = "0x43004300" if dtype == tl.bfloat16 else "0x64006400"
    return f"{{ .reg .b32 t; {move} lop3.b32 $0, t, {mask}, {magic}, 0xEA; }}"


@triton.constexpr_function
def _top_bits_asm(dtype):
    magic = "0x43004300" if dtype == tl.bfloat16 else "0x64006400"
    return (
        "{ .reg .b32 t, u; "
        f"shr.u32 t, $1, 15; lop3.b32 u, t, 0x00010001, {magic}, 0xEA; "
        "shr.u32 t, $2, 14; lop3.b32 u, t, 0x00020002, u, 0xEA; "
        "shr.u32 t, $3, 13; lop3.b32 $0, t, 0x00040004, u, 0xEA; }"
    )


@triton.jit
def _field(words, SHIFT: tl.constexpr, BITS: tl.constexpr, DTYPE: tl.constexpr):
    """magic + the code at bit SHIFT of every word."""
    if INTERPRETED:
        codes = (words.to(tl.int32) >> SHIFT) & (2**BITS - 1)
        return (codes + _magic(DTYPE)).to(tl.float32).to(DTYPE)
    asm: tl.constexpr = _field_asm(SHIFT, BITS, DTYPE)
    return tl.inline_asm_elementwise(asm, "=r,r", [words], dtype=DTYPE.value, is_pure=True, pack=2)


@triton.jit
def _top_bits(first, second, third, DTYPE: tl.constexpr):
    """magic + the code whose three bits are the top bits of three words."""
    if INTERPRETED:
        low = (first.to(tl.int32) >> 15) & 1
        middle = (second.to(tl.int32) >> 14) & 2
        high = (third.to(tl.int32) >> 13) & 4
        return ((low | middle | high) + _magic(DTYPE)).to(tl.float32).to(DTYPE)
    asm: tl.constexpr = _top_bits_asm(DTYPE)
    words = [first, second, third]
    return tl.inline_asm_elementwise(asm, "=r,r,r,r", words, dtype=DTYPE.value, is_pure=True, pack=2)


@triton.jit
def plane(first, second, third, INDEX: tl.constexpr, BITS: tl.constexpr, DTYPE: tl.constexpr):
    """magic + the codes of plane INDEX. `second` and `third` count for 3 bits alone (see `layout`)."""
    if BITS == 3:
        if INDEX < 5:
            codes = _field(first, 3 * INDEX, 3, DTYPE)
        elif INDEX < 10:
            codes = _field(second, 3 * INDEX - 15, 3, DTYPE)
        elif INDEX < 15:
            codes = _field(third, 3 * INDEX - 30, 3, DTYPE)
        else:
            codes = _top_bits(first, second, third, DTYPE)
    else:
        codes = _field(first, BITS * INDEX, BITS, DTYPE)
    return codes


@triton.jit
def grid(packed, DTYPE: tl.constexpr):
    """(scale in fp32, offset in the activations' type) of packed grids."""
    scale = (packed & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    offset = (packed >> 16).to(tl.int16).to(DTYPE, bitcast=True)
    return scale, offset


@triton.jit
def centred(codes, offset, DTYPE: tl.constexpr):
    """code - zero, exact. The interpreter keeps bf16 as bits and does not calculate with them."""
    if INTERPRETED:
        return (codes.to(tl.float32) - offset.to(tl.float32)[:, None]).to(DTYPE)
    return codes - offset[:, None]


@triton.jit
def product_of_tiles(steps, x, total):
    """steps times x plus total, summed in fp32: products of two 8- or 11-bit significands are exact there."""
    if INTERPRETED:
        return tl.dot(steps.to(tl.float32), x.to(tl.float32), total)
    return tl.dot(steps, x, total)
