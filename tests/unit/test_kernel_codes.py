"""What the interpreter does not run: the assembly that takes codes out of words, here carried out by hand."""

from __future__ import annotations

import re

import pytest
import torch
from kernel_tools import DTYPES
from torch import Tensor

from sixgig.numerics.kernels import codes
from sixgig.numerics.kernels.layout import tile_base, untile_base
from sixgig.numerics.kernels.product import TRITON_TYPES
from sixgig.numerics.quantize import Quantized

MAGIC = {torch.bfloat16: 128, torch.float16: 1024}


def carried_out(asm: str, operands: dict[str, Tensor]) -> Tensor:
    """$0 of shifts and logic operations on 32-bit registers, kept in int64."""
    values = dict(operands)
    for instruction in re.findall(r"(?:shr|lop3)\S+ [^;]+", asm):
        name, *arguments = re.split(r",? ", instruction)
        target, *sources = arguments
        read = [values[source] if source in values else int(source, 0) for source in sources]
        if name == "shr.u32":
            values[target] = read[0] >> read[1]
        else:
            assert (name, read[3]) == ("lop3.b32", 0xEA)  # (a & b) | c
            values[target] = (read[0] & read[1]) | read[2]
    return values["$0"]


def tiled_words(bits: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(registers [parts, N] of two words each, their codes [planes, 2, N])."""
    generator = torch.Generator().manual_seed(bits)
    base = Quantized(
        codes_OI=torch.randint(0, 2**bits, (3000, 256), generator=generator, dtype=torch.uint8),
        scales_OG=torch.ones(3000, 2, dtype=torch.float16),
        zeros_OG=torch.zeros(3000, 2, dtype=torch.uint8),
        bits=bits,
        group_size=128,
    )
    tiled = tile_base(base, dtype)
    words_PQw = tiled.words_NPOW[0].long().flatten(1).unflatten(1, (-1, 2)) & 0xFFFF
    width = tiled.words_NPOW.shape[-1]
    codes_JQw = untile_base(tiled).codes_OI.unflatten(1, (-1, width)).transpose(0, 1).flatten(1)
    return words_PQw[..., 0] | words_PQw[..., 1] << 16, codes_JQw.unflatten(1, (-1, 2))


def numbers_of(register_Q: Tensor, dtype: torch.dtype) -> Tensor:
    """[Q, 2]: what the halves of registers read as."""
    halves = torch.stack([register_Q & 0xFFFF, register_Q >> 16], dim=1)
    return halves.to(torch.int16).view(dtype).float()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_assembly_finds_every_code_at_its_place(bits: int, dtype: torch.dtype) -> None:
    registers_PQ, codes_JQw = tiled_words(bits, dtype)
    kind = TRITON_TYPES[dtype]
    for index, codes_Qw in enumerate(codes_JQw):
        if bits == 3 and index == 15:
            shift = codes.shift_of(12, 3, 0, kind)
            place = 15 - shift
            found_Q = carried_out(codes.field_asm(shift, 1 << place, kind), {"$1": registers_PQ[0]})
            for part in (1, 2):
                asm = codes.bit_asm(shift - part, 1 << (place + part))
                found_Q = carried_out(asm, {"$1": found_Q, "$2": registers_PQ[part]})
        else:
            part = index // 5 if bits == 3 else 0
            field = bits * index - 15 * part
            shift = codes.shift_of(field, bits, part, kind)
            place = field - shift
            asm = codes.field_asm(shift, (2**bits - 1) << place, kind)
            found_Q = carried_out(asm, {"$1": registers_PQ[part]})
        assert torch.equal(numbers_of(found_Q, dtype), MAGIC[dtype] + 2.0**place * codes_Qw)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_taking_the_zero_point_off_is_exact_at_every_place(bits: int, dtype: torch.dtype) -> None:
    """One rounding, of code - zero itself: the number, the factor and what is added are exact."""
    magic, room = MAGIC[dtype], {torch.bfloat16: 7, torch.float16: 10}[dtype]
    code_CZ = torch.arange(2.0**bits)[:, None]
    zero_CZ = torch.arange(2.0**bits)[None, :]
    offset_CZ = (magic + zero_CZ).to(dtype)
    for place in range(room - bits + 1):
        number_CZ = (magic + 2.0**place * code_CZ).to(dtype)
        added_CZ = codes.excess_of(place, TRITON_TYPES[dtype]) - offset_CZ
        assert added_CZ.dtype == dtype
        assert torch.equal(number_CZ.double() / 2**place + added_CZ.double(), (code_CZ - zero_CZ).double())
