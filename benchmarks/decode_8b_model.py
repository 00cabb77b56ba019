"""Models of Llama-3-8B's shape with random weights, straight in the fused decoder's form, on the device.

Codes are random; scales and zero points are those of a weight of ordinary size, so that activations neither
vanish nor overflow. Values decide no time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sixgig.numerics.kernels.layout import TiledBase, block_columns
from sixgig.numerics.kernels.ortho_layout import TiledOrtho, tile_ortho
from sixgig.numerics.sparse import SparsePart
from sixgig.numerics.split_product import OrthoFactors
from sixgig.runtime.fused_model import ORTHO_BLOCK_ROWS, FusedLayer, FusedModel, Matrix, interleaved

_MIDDLE = {2: 2, 3: 4, 4: 8, 8: 128}  # zero points
_SCALE = 0.005
_DTYPE = torch.bfloat16


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Of the published configuration meta-llama/Meta-Llama-3-8B."""

    num_layers: int = 32
    hidden: int = 4096
    channels: int = 14336
    num_heads: int = 32
    num_kv_heads: int = 8
    head_dim: int = 128
    vocabulary: int = 128256
    group_size: int = 128

    def matrices(self) -> dict[str, tuple[int, int]]:
        """(O, I) of a layer's four stacked matrices."""
        qkv = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        return {
            "qkv": (qkv, self.hidden),
            "out": (self.hidden, self.num_heads * self.head_dim),
            "gate_up": (2 * self.channels, self.hidden),
            "down": (self.hidden, self.channels),
        }


TINY = Shape(
    num_layers=1,
    hidden=64,
    channels=64,
    num_heads=2,
    num_kv_heads=1,
    head_dim=32,
    vocabulary=96,
    group_size=64,
)


def random_model(
    shape: Shape,
    device: torch.device,
    *,
    bits: int | None,
    ortho: bool = False,
    head_bits: int = 4,
    embedding_on_cpu: bool = False,
) -> FusedModel:
    """`bits` None: dense in bf16, head too. With `ortho`: 0.5% of the entries and rank 16 in every layer."""
    parts = _orthos(shape, device) if ortho else {}

    def matrix(kind: str) -> Matrix:
        num_out, num_in = shape.matrices()[kind]
        if bits is None:
            return Matrix(dense_OI=_dense(num_out, num_in, device))
        own = parts[kind].copy() if ortho else None
        return Matrix(base=random_base(num_out, num_in, bits, shape.group_size, device), ortho=own)

    gain = torch.ones(shape.hidden, device=device, dtype=_DTYPE)
    layers = tuple(
        FusedLayer(
            **{kind: matrix(kind) for kind in shape.matrices()}, attention_gain_D=gain, mlp_gain_D=gain
        )
        for _ in range(shape.num_layers)
    )
    table = _dense(shape.vocabulary, shape.hidden, torch.device("cpu") if embedding_on_cpu else device)
    head = (
        Matrix(dense_OI=_dense(shape.vocabulary, shape.hidden, device))
        if bits is None
        else Matrix(base=random_base(shape.vocabulary, shape.hidden, head_bits, shape.group_size, device))
    )
    even = torch.arange(0, shape.head_dim, 2, dtype=torch.float32, device=device)
    return FusedModel(
        embedding_VD=table.pin_memory() if embedding_on_cpu and device.type == "cuda" else table,
        layers=layers,
        final_gain_D=gain,
        head=head,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        eps=1e-5,
        inverse_frequencies=500000.0 ** (-even / shape.head_dim),
        rotary_scaling=1.0,
    )


def random_base(num_out: int, num_in: int, bits: int, group_size: int, device: torch.device) -> TiledBase:
    """Random codes in the kernels' form."""
    num_blocks = -(-num_in // block_columns(bits))
    num_parts, width = {2: (1, 32), 3: (3, 16), 4: (1, 64), 8: (4, 64)}[bits]
    dtype = torch.uint8 if bits == 8 else torch.int16
    limits = (0, 256) if bits == 8 else (-(2**15), 2**15)
    words = torch.randint(*limits, (num_blocks, num_parts, num_out, width), dtype=dtype, device=device)
    offset = torch.tensor(_MIDDLE[bits] + (0 if bits == 8 else 128), dtype=_DTYPE).view(torch.int16).int()
    scale = torch.tensor(_SCALE, dtype=torch.float16).view(torch.int16).int()
    num_groups = num_blocks * (block_columns(bits) // group_size)
    packed = int((offset << 16) | (scale & 0xFFFF))
    return TiledBase(
        words_NPOW=words,
        grids_GO=torch.full((num_groups, num_out), packed, dtype=torch.int32, device=device),
        bits=bits,
        group_size=group_size,
        num_in=num_in,
        dtype=_DTYPE,
    )


def _dense(num_out: int, num_in: int, device: torch.device) -> Tensor:
    return (torch.randn(num_out, num_in, dtype=_DTYPE, device=device)).mul_(0.02)


def _orthos(shape: Shape, device: torch.device) -> dict[str, TiledOrtho]:
    """One Ortho part for each kind of matrix; layers get copies."""
    heads = [shape.num_heads * shape.head_dim, *[shape.num_kv_heads * shape.head_dim] * 2]
    rows = {"qkv": heads, "out": [shape.hidden], "gate_up": [shape.channels] * 2, "down": [shape.hidden]}
    found = {}
    for kind, sizes in rows.items():
        num_in = shape.matrices()[kind][1]
        order = interleaved(shape.channels) if kind == "gate_up" else torch.arange(sum(sizes))
        parts = [_ortho(num_out, num_in) for num_out in sizes]
        found[kind] = tile_ortho(parts, order, ORTHO_BLOCK_ROWS).to(device)
    return found


def _ortho(num_out: int, num_in: int, *, share: float = 0.005, rank: int = 16) -> OrthoFactors:
    k = round(share * num_out * num_in)
    positions_k = torch.randint(0, num_out * num_in, (int(1.05 * k) + 8,)).unique()[:k].to(torch.int32)
    return OrthoFactors(
        up_Or=torch.randn(num_out, rank) * 0.01,
        down_rI=torch.randn(rank, num_in) * 0.01,
        sparse=SparsePart(
            positions_k=positions_k, values_k=torch.randn(len(positions_k)) * 0.01, shape=(num_out, num_in)
        ),
    )
