"""x (Base + alpha (S + U V))^T for many rows of activations: dequantise a chunk of rows, multiply densely,
go on."""

# Triton's own types do not describe its launches.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .dequantize_tiles import add_slots_kernel, dequantize_tiles_kernel
from .layout import TiledBase, block_columns
from .ortho_layout import SLOT_ENTRIES, TiledOrtho
from .product import TRITON_TYPES

CHUNK_BYTES = 256 * 2**20  # of dense weights at a time; smaller chunks leave the dense product too little
_BLOCK_ROWS = 32


def prefill_product(
    x_MI: Tensor,
    base: TiledBase,
    ortho: TiledOrtho | None,
    alpha: Tensor | None,
    *,
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """y [M, O] in the activations' type. `alpha`: fp32 [1] on the device, never read by the host."""
    rows = max(_BLOCK_ROWS, chunk_bytes // (2 * base.num_in) // _BLOCK_ROWS * _BLOCK_ROWS)
    rows = min(rows, base.num_out)
    dense_CI = x_MI.new_empty(rows, base.num_in)
    y_MO = x_MI.new_empty(len(x_MI), base.num_out)
    for first in range(0, base.num_out, rows):
        count = min(rows, base.num_out - first)
        dense_rows(base, ortho, alpha, first, dense_CI[:count])
        torch.mm(x_MI, dense_CI[:count].T, out=y_MO[:, first : first + count])
    if ortho is not None and ortho.width:
        assert alpha is not None
        inner_MR = F.linear(x_MI, ortho.down_RI.to(x_MI.dtype)) * alpha.to(x_MI.dtype)
        y_MO += lowrank_out(inner_MR, ortho)
    return y_MO


def dense_rows(
    base: TiledBase, ortho: TiledOrtho | None, alpha: Tensor | None, first: int, out_CI: Tensor
) -> None:
    """Writes rows `first` and on of Base + alpha S into `out_CI` [C, I]."""
    count = len(out_CI)
    grid = (-(-count // _BLOCK_ROWS), -(-base.num_in // block_columns(base.bits)))
    dequantize_tiles_kernel[grid](
        base.words_NPOW,
        base.grids_GO,
        out_CI,
        first,
        count,
        base.num_in,
        base.num_out,
        BITS=base.bits,
        GROUP=base.group_size,
        BLOCK_O=_BLOCK_ROWS,
        DTYPE=TRITON_TYPES[base.dtype],
        num_warps=2 if base.bits == 3 else 4,  # so that a thread writes 16 bytes of a plane
    )
    if ortho is not None and ortho.num_slots:
        add_slots_kernel[(count,)](
            out_CI,
            alpha,
            ortho.starts_O,
            ortho.columns_Te,
            ortho.values_Te,
            first,
            base.num_in,
            ENTRIES=SLOT_ENTRIES,
            TILE=128,
            num_warps=1,
        )


def lowrank_out(inner_MR: Tensor, ortho: TiledOrtho) -> Tensor:
    """U inner [M, O], each block of rows with its own layer's components."""
    bounds = ortho.segment_bounds
    if len(bounds) == 1:
        return F.linear(inner_MR[:, : ortho.width], ortho.up_Ow.to(inner_MR.dtype))
    parts = [
        F.linear(inner_MR[:, component : component + ortho.width], ortho.up_Ow[start:stop].to(inner_MR.dtype))
        for start, stop, component in bounds
    ]
    return torch.cat(parts, dim=1)
