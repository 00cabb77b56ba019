"""A quantised weight in GGUF's own blocks of 32, or as plain numbers; and what each costs in exactness.

    q8_0    d * q, q in int8           exact: d is our scale, q = code - zero; up to 4 bits a weight
    q4_1    d * q + m, q in 4 bits     d is our scale; m = -scale * zero is rounded to fp16
    f16     every weight rounded to fp16
    f32     exact

Blocks need groups and rows of whole blocks. llama.cpp turns pairs of rows of Llama's q and k; `turned` does.

Shapes: O out features, I in features, G groups of a row, B bytes of a row in blocks, N blocks of a row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..load.packed_base import BaseLayer
from ..numerics.quantize import Quantized, centred_codes, dequantize

BLOCK = 32
KINDS = ("auto", "q8_0", "q4_1", "f16", "f32")


def choose_kind(wanted: str, layers: dict[str, BaseLayer]) -> str:
    """`wanted`, or for "auto" the smallest exact one, f16 where blocks cannot be. Raises InputError."""
    if wanted not in KINDS:
        raise InputError("unknown kind of GGUF weights", expected=", ".join(KINDS), received=repr(wanted))
    fault = {name: _fault(wanted if wanted != "auto" else "q8_0", layer) for name, layer in layers.items()}
    faults = [f"{name}: {why}" for name, why in fault.items() if why]
    if wanted == "auto":
        return "f16" if faults else "q8_0"
    if faults:
        raise InputError(
            f"this Base cannot be written as {wanted}",
            received=f"{faults[0]} ({len(faults)} layers)",
            todo="use --weights f16 or f32",
        )
    return wanted


def encode(base: Quantized, kind: str) -> tuple[np.ndarray, Any]:
    """The stored array and its gguf type: bytes [O, B] for blocks, numbers [O, I] else."""
    from gguf import GGMLQuantizationType as Kind

    if kind == "q8_0":
        return _rows(_halves(base.scales_OG, base), centred_codes(base).to(torch.int8).numpy()), Kind.Q8_0
    if kind == "q4_1":
        least_OG = -base.scales_OG.float() * base.zeros_OG.float()
        ends = np.concatenate([_halves(base.scales_OG, base), _halves(least_OG.half(), base)], axis=-1)
        return _rows(ends, _nibbles(base.codes_OI)), Kind.Q4_1
    dtype, stored = (torch.float16, Kind.F16) if kind == "f16" else (torch.float32, Kind.F32)
    return dequantize(base, dtype).numpy(), stored


def stored_shape(layer: BaseLayer, kind: str) -> tuple[tuple[int, int], Any]:
    """Shape and numpy type of what `encode` gives."""
    num_blocks = layer.num_in // BLOCK
    if kind in ("q8_0", "q4_1"):
        return (layer.num_out, num_blocks * (2 + BLOCK if kind == "q8_0" else 4 + BLOCK // 2)), np.uint8
    return (layer.num_out, layer.num_in), np.float16 if kind == "f16" else np.float32


def turned(weight_OI: Tensor, num_heads: int) -> Tensor:
    """Rows of a q or k projection, or the numbers of its bias [O], as llama.cpp's rotary code wants them:
    pairs (j, j + half) side by side."""
    rows = weight_OI.reshape(num_heads, 2, len(weight_OI) // num_heads // 2, *weight_OI.shape[1:])
    return rows.transpose(1, 2).reshape(weight_OI.shape)


def turned_base(base: Quantized, num_heads: int) -> Quantized:
    """`turned` of the weight: rows are independent, so codes, scales and zero points turn alike."""
    return Quantized(
        codes_OI=turned(base.codes_OI, num_heads),
        scales_OG=turned(base.scales_OG, num_heads),
        zeros_OG=turned(base.zeros_OG, num_heads),
        bits=base.bits,
        group_size=base.group_size,
    )


def _fault(kind: str, layer: BaseLayer) -> str | None:
    if kind in ("f16", "f32"):
        return None
    if layer.num_in % BLOCK or layer.group_size % BLOCK:
        return f"rows of {layer.num_in} in groups of {layer.group_size} are no whole blocks of {BLOCK}"
    if layer.bits > 4:
        return f"{layer.bits} bits do not fit its codes"
    return None


def _halves(values_OG: Tensor, base: Quantized) -> np.ndarray:
    """fp16 values of each group, spread to its blocks, as bytes [O, N, 2]."""
    num_blocks = base.codes_OI.shape[1] // BLOCK
    spread_ON = values_OG.repeat_interleave(base.group_size // BLOCK, dim=1)[:, :num_blocks]
    return spread_ON.contiguous().numpy().view(np.uint8).reshape(len(spread_ON), num_blocks, 2)


def _rows(heads: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Blocks of heads [O, N, h] and codes [O, c * N], in bytes [O, B]."""
    num_out, num_blocks, _ = heads.shape
    blocks = codes.view(np.uint8).reshape(num_out, num_blocks, -1)
    return np.ascontiguousarray(np.concatenate([heads, blocks], axis=-1).reshape(num_out, -1))


def _nibbles(codes_OI: Tensor) -> np.ndarray:
    """Two codes a byte: the block's first half low, its second half high."""
    halves = codes_OI.numpy().reshape(len(codes_OI), -1, 2, BLOCK // 2)
    return (halves[:, :, 0] | (halves[:, :, 1] << 4)).reshape(len(codes_OI), -1)
