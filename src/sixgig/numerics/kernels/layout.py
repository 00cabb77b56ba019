"""How weights lie in memory for the decoding kernels, and back.

A row of codes is cut into blocks of columns. A block is kept as words of 16 bits, of which each holds one
code of every *plane*: plane j is `width` consecutive columns, and word w holds column  width * j + w  of
each. So one shift and one mask of a pair of words give two neighbouring columns of a plane, which is how a
matrix unit wants them, and a plane's activations lie side by side.

    bits  columns a block  parts of words  planes
    2     256              1 of 32         8 of 32
    3     256              3 of 16         16 of 16   five codes a word, and the 16th plane from its top bit
    4     256              1 of 64         4 of 64
    8     256              4 of 64 bytes   4 of 64    plain bytes, a part for each plane

Blocks come first, then parts, then rows: what a program reads of a part is one run of memory. Each group of
each row has one 32-bit grid: the fp16 scale below, the offset above, in the activations' type: what a code's
bits read as plus the zero point, so that one exact operation gives code - zero (see `codes`).

Shapes: O out features, I in features, N blocks, P parts, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InputError
from ..quantize import Quantized

KERNEL_BITS = (2, 3, 4, 8)
KERNEL_GROUPS = (64, 128)
KERNEL_DTYPES = (torch.bfloat16, torch.float16)
_PLANES = {2: (32, 8), 3: (16, 16), 4: (64, 4), 8: (64, 4)}  # width and number


@dataclass(frozen=True, kw_only=True)
class TiledBase:
    """A Base as the kernels read it."""

    words_NPOW: Tensor  # int16; 8 bits: uint8
    grids_GO: Tensor  # int32
    bits: int
    group_size: int
    num_in: int
    dtype: torch.dtype  # of the activations that it is multiplied with

    @property
    def num_out(self) -> int:
        return self.words_NPOW.shape[2]

    @property
    def num_blocks(self) -> int:
        return len(self.words_NPOW)

    @property
    def num_bytes(self) -> int:
        return self.words_NPOW.nbytes + self.grids_GO.nbytes

    def to(self, device: torch.device | str) -> TiledBase:
        return TiledBase(
            words_NPOW=self.words_NPOW.to(device),
            grids_GO=self.grids_GO.to(device),
            bits=self.bits,
            group_size=self.group_size,
            num_in=self.num_in,
            dtype=self.dtype,
        )


def block_columns(bits: int) -> int:
    """Columns of one block."""
    width, num_planes = _PLANES[bits]
    return width * num_planes


def tile_base(base: Quantized, dtype: torch.dtype) -> TiledBase:
    """The kernels' form of a Base; exact, whatever `dtype` the activations have.

    Raises InputError for a width, group or type that the kernels do not take.
    """
    _check(base, dtype)
    num_out, num_in = base.codes_OI.shape
    columns = block_columns(base.bits)
    padded = F.pad(base.codes_OI, (0, -num_in % columns))
    codes_NOC = padded.view(num_out, -1, columns).transpose(0, 1)
    num_groups = codes_NOC.shape[0] * (columns // base.group_size)
    missing = num_groups - base.scales_OG.shape[1]
    scales_GO = F.pad(base.scales_OG, (0, missing)).T.contiguous()
    zeros_GO = F.pad(base.zeros_OG, (0, missing)).T
    offsets_GO = (zeros_GO.float() + _read_as(base.bits, dtype)).to(dtype).contiguous()
    grids_GO = (scales_GO.view(torch.int16).int() & 0xFFFF) | (offsets_GO.view(torch.int16).int() << 16)
    return TiledBase(
        words_NPOW=_words(codes_NOC, base.bits),
        grids_GO=grids_GO.contiguous(),
        bits=base.bits,
        group_size=base.group_size,
        num_in=num_in,
        dtype=dtype,
    )


def untile_base(tiled: TiledBase) -> Quantized:
    """The inverse of `tile_base`."""
    num_groups = -(-tiled.num_in // tiled.group_size)
    grids_OG = tiled.grids_GO.T[:, :num_groups]
    scales_OG = grids_OG.to(torch.int16).contiguous().view(torch.float16)
    offsets_OG = (grids_OG >> 16).to(torch.int16).contiguous().view(tiled.dtype)
    codes_NOC = _codes(tiled.words_NPOW, tiled.bits)
    return Quantized(
        codes_OI=codes_NOC.transpose(0, 1).flatten(1)[:, : tiled.num_in].contiguous(),
        scales_OG=scales_OG,
        zeros_OG=(offsets_OG.float() - _read_as(tiled.bits, tiled.dtype)).to(torch.uint8),
        bits=tiled.bits,
        group_size=tiled.group_size,
    )


def _words(codes_NOC: Tensor, bits: int) -> Tensor:
    planes_NJOW = codes_NOC.unflatten(2, _PLANES[bits][::-1]).transpose(1, 2).to(torch.int32)
    if bits == 8:
        return planes_NJOW.to(torch.uint8).contiguous()
    if bits == 3:
        parts = [_joined(planes_NJOW[:, 5 * part : 5 * part + 5], 3) for part in range(3)]
        words = torch.stack(
            [part | ((planes_NJOW[:, 15] >> i & 1) << 15) for i, part in enumerate(parts)], dim=1
        )
    else:
        words = _joined(planes_NJOW, bits)[:, None]
    return words.to(torch.int16).contiguous()  # keeps the lower 16 bits


def _joined(planes_NJOW: Tensor, bits: int) -> Tensor:
    word = torch.zeros_like(planes_NJOW[:, 0])
    for index in range(planes_NJOW.shape[1]):
        word |= planes_NJOW[:, index] << (bits * index)
    return word


def _codes(words_NPOW: Tensor, bits: int) -> Tensor:
    """[N, O, columns] uint8."""
    parts = words_NPOW.int() & 0xFFFF
    if bits == 8:
        planes = list(parts.unbind(1))
    elif bits == 3:
        planes = [parts[:, index // 5] >> (3 * (index % 5)) & 7 for index in range(15)]
        planes.append((parts[:, 0] >> 15) | (parts[:, 1] >> 15) << 1 | (parts[:, 2] >> 15) << 2)
    else:
        planes = [parts[:, 0] >> (bits * index) & (2**bits - 1) for index in range(16 // bits)]
    return torch.cat(planes, dim=2).to(torch.uint8)


def _read_as(bits: int, dtype: torch.dtype) -> float:
    # A code's bits put into the lowest bits of 128 (bf16) or 1024 (fp16) read as that number plus the code.
    return 0.0 if bits == 8 else 128.0 if dtype == torch.bfloat16 else 1024.0


def _check(base: Quantized, dtype: torch.dtype) -> None:
    for what, found, known in (
        ("bits", base.bits, KERNEL_BITS),
        ("group size", base.group_size, KERNEL_GROUPS),
        ("type of activations", dtype, KERNEL_DTYPES),
    ):
        if found not in known:
            raise InputError(
                f"the kernels do not take this {what}", expected=f"one of {known}", received=str(found)
            )
