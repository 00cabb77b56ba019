"""From packed words to code - zero in the activations' type, on a whole tile at once.

A pair of neighbouring 16-bit words is one register; a shift and a three-input logic operation turn it into
two numbers that read as  magic + 2^place * code  (magic: 128 in bf16, 1024 in fp16), and one exact packed
operation makes code - zero of them. The significand has room for more than one code (7 bits in bf16, 10 in
fp16), so that a shift serves two or three of them, each at a place of its own. Converting integers instead
takes four times the instructions and would make decoding wait for arithmetic. Triton's interpreter knows no
inline assembly; there the same is said plainly.
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
def shift_of(field, bits, part, dtype):
    """How far a word of a part is shifted to the right for its code at bit `field`.

    3 bits: the last shift of parts 1 and 2 is shorter, and leaves the parts' top bits side by side.
    """
    room = (7 if dtype == tl.bfloat16 else 10) // bits * bits
    shift = field // room * room
    return shift - part if shift == 12 // room * room else shift


@triton.constexpr_function
def excess_of(place, dtype):
    """What a number at a place has too much of the magic once it is divided by 2^place."""
    return _magic(dtype) - _magic(dtype) / 2**place


@triton.constexpr_function
def _mask(bits, place):
    return (2**bits - 1) << place


@triton.constexpr_function
def _masked_asm(operand, shift, mask, last):
    """$0 = last | (operand >> shift & mask), both halves of a register alike."""
    pair = f"0x{mask:04X}{mask:04X}"
    return f"shr.u32 t, {operand}, {shift}; lop3.b32 $0, t, {pair}, {last}, 0xEA; "


@triton.constexpr_function
def field_asm(shift, mask, dtype):
    magic = "0x43004300" if dtype == tl.bfloat16 else "0x64006400"
    return "{ .reg .b32 t; " + _masked_asm("$1", shift, mask, magic) + "}"


@triton.jit
def _field(words, SHIFT: tl.constexpr, MASK: tl.constexpr, DTYPE: tl.constexpr):
    """magic + 2^place * code, the code's bits being those of MASK after the shift."""
    if INTERPRETED:
        return ((words.to(tl.int32) >> SHIFT) & MASK) + _magic(DTYPE)
    asm: tl.constexpr = field_asm(SHIFT, MASK, DTYPE)
    return tl.inline_asm_elementwise(asm, "=r,r", [words], dtype=DTYPE.value, is_pure=True, pack=2)


@triton.constexpr_function
def bit_asm(shift, mask):
    return "{ .reg .b32 t; " + _masked_asm("$2", shift, mask, "$1") + "}"


@triton.jit
def _with_bit(numbers, words, SHIFT: tl.constexpr, MASK: tl.constexpr, DTYPE: tl.constexpr):
    """`numbers`, and one bit more of their code from every word."""
    if INTERPRETED:
        return numbers + ((words.to(tl.int32) >> SHIFT) & MASK)
    asm: tl.constexpr = bit_asm(SHIFT, MASK)
    return tl.inline_asm_elementwise(asm, "=r,r,r", [numbers, words], dtype=DTYPE.value, is_pure=True, pack=2)


@triton.jit
def _centred(numbers, offset, PLACE: tl.constexpr, DTYPE: tl.constexpr):
    """code - zero, exact. The interpreter keeps bf16 as bits and does not calculate with them."""
    if INTERPRETED:
        codes = (numbers - _magic(DTYPE)) >> PLACE
        return ((codes + _magic(DTYPE)).to(tl.float32) - offset.to(tl.float32)[:, None]).to(DTYPE)
    if PLACE == 0:
        return numbers - offset[:, None]
    excess: tl.constexpr = excess_of(PLACE, DTYPE)
    factor = tl.full(numbers.shape, 2.0**-PLACE, DTYPE)
    return tl.fma(numbers, factor, (excess - offset)[:, None].broadcast_to(numbers.shape))


@triton.jit
def grid(packed, DTYPE: tl.constexpr):
    """(scale in fp32, offset in the activations' type) of packed grids."""
    scale = (packed & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    offset = (packed >> 16).to(tl.int16).to(DTYPE, bitcast=True)
    return scale, offset


@triton.jit
def steps_of_plane(
    first, second, third, offset, INDEX: tl.constexpr, BITS: tl.constexpr, DTYPE: tl.constexpr
):  # fmt: skip
    """code - zero of plane INDEX. `second` and `third` count for 3 bits alone (see `layout`)."""
    if BITS == 3 and INDEX == 15:
        SHIFT: tl.constexpr = shift_of(12, 3, 0, DTYPE)
        PLACE: tl.constexpr = 15 - SHIFT
        numbers = _field(first, SHIFT, _mask(1, PLACE), DTYPE)
        numbers = _with_bit(numbers, second, SHIFT - 1, _mask(1, PLACE + 1), DTYPE)
        numbers = _with_bit(numbers, third, SHIFT - 2, _mask(1, PLACE + 2), DTYPE)
    else:
        PART: tl.constexpr = INDEX // 5 if BITS == 3 else 0
        FIELD: tl.constexpr = BITS * INDEX - 15 * PART
        SHIFT: tl.constexpr = shift_of(FIELD, BITS, PART, DTYPE)
        PLACE: tl.constexpr = FIELD - SHIFT
        words = first if PART == 0 else second if PART == 1 else third
        numbers = _field(words, SHIFT, _mask(BITS, PLACE), DTYPE)
    return _centred(numbers, offset, PLACE, DTYPE)


@triton.jit
def _side_by_side(left, right):
    """Two planes as one tile of twice as many columns: a matrix unit's operands stay in their registers."""
    return tl.permute(tl.join(left, right), (0, 2, 1)).reshape(left.shape[0], 2 * left.shape[1])


@triton.jit
def _pair(first, second, third, offset, INDEX: tl.constexpr, BITS: tl.constexpr, DTYPE: tl.constexpr):
    left = steps_of_plane(first, second, third, offset, INDEX, BITS, DTYPE)
    return _side_by_side(left, steps_of_plane(first, second, third, offset, INDEX + 1, BITS, DTYPE))


@triton.jit
def strip(first, second, third, offset, INDEX: tl.constexpr, BITS: tl.constexpr, DTYPE: tl.constexpr):
    """code - zero of 64 columns, [rows, 64]: one plane, two of 32 (2 bits) or four of 16 (3 bits).

    `second` and `third` count for 3 bits alone (see `layout`).
    """
    if BITS == 4:
        steps = steps_of_plane(first, second, third, offset, INDEX, BITS, DTYPE)
    elif BITS == 2:
        steps = _pair(first, second, third, offset, 2 * INDEX, BITS, DTYPE)
    else:
        left = _pair(first, second, third, offset, 4 * INDEX, BITS, DTYPE)
        steps = _side_by_side(left, _pair(first, second, third, offset, 4 * INDEX + 2, BITS, DTYPE))
    return steps


@triton.jit
def product_of_tiles(steps, x, total):
    """steps times x plus total, summed in fp32: products of two 8- or 11-bit significands are exact there."""
    if INTERPRETED:
        return tl.dot(steps.to(tl.float32), x.to(tl.float32), total)
    return tl.dot(steps, x, total)
