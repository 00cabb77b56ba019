"""Linear layers that read the same input, as one layer with their rows below each other.

Query, key and value read one vector, and so do gate and up: one product instead of three or two asks less of
the host and of the memory bus. The numbers are those of the single layers.

Shapes: O out features of one layer, I in features, r rank, G groups of a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..numerics.quantize import Quantized
from ..numerics.sparse import SparsePart
from .split_linear import OrthoPart, SplitLinear


def stack_linears(layers: Sequence[nn.Module]) -> nn.Module:
    """One layer with the outputs of all `layers` behind each other: nn.Linear of them, or SplitLinear.

    Raises InputError where they are of different kinds, widths or group sizes, or read different switches.
    """
    if len(layers) == 1:
        return layers[0]
    if all(isinstance(layer, SplitLinear) for layer in layers):
        return stack_splits([layer for layer in layers if isinstance(layer, SplitLinear)])
    dense = [layer for layer in layers if isinstance(layer, nn.Linear)]
    if len(dense) != len(layers) or len({layer.in_features for layer in dense}) != 1:
        raise InputError(
            "only linear layers of one kind and one input can be stacked",
            expected="nn.Linear throughout or SplitLinear throughout",
            received=", ".join(str(layer) for layer in layers),
        )
    rows = [layer.out_features for layer in dense]
    bias = _stack_biases([layer.bias for layer in dense], rows)
    stacked = nn.Linear(dense[0].in_features, sum(rows), bias=bias is not None, device="meta")
    stacked.weight = nn.Parameter(torch.cat([layer.weight for layer in dense]), requires_grad=False)
    if bias is not None:
        stacked.bias = nn.Parameter(bias, requires_grad=False)
    return stacked


def stack_splits(layers: Sequence[SplitLinear]) -> SplitLinear:
    """SplitLinear of `layers`, Ortho parts included. Raises as `stack_linears`."""
    if len({id(layer.switch) for layer in layers}) != 1:
        raise InputError("layers with different switches cannot be stacked")
    rows = [layer.out_features for layer in layers]
    bias = _stack_biases([layer.bias for layer in layers], rows)
    stacked = SplitLinear(stack_bases([layer.base() for layer in layers]), bias, layers[0].switch)
    shapes = [(layer.out_features, layer.in_features) for layer in layers]
    stacked.attach(stack_orthos([layer.ortho for layer in layers], shapes))
    return stacked


def stack_bases(bases: Sequence[Quantized]) -> Quantized:
    """Rows below each other; codes of fewer bits keep their values among those of more."""
    if len({(base.codes_OI.shape[1], base.group_size) for base in bases}) != 1:
        raise InputError(
            "bases of different layout cannot be stacked",
            expected="one input width and one group size",
            received=", ".join(f"[{list(base.codes_OI.shape)}] by {base.group_size}" for base in bases),
        )
    return Quantized(
        codes_OI=torch.cat([base.codes_OI for base in bases]),
        scales_OG=torch.cat([base.scales_OG for base in bases]),
        zeros_OG=torch.cat([base.zeros_OG for base in bases]),
        bits=max(base.bits for base in bases),
        group_size=bases[0].group_size,
    )


def stack_orthos(orthos: Sequence[OrthoPart | None], shapes: Sequence[tuple[int, int]]) -> OrthoPart | None:
    """V below each other, U as a block diagonal, entries of S moved to their rows; None where all are None.

    `shapes` are the layers' [O, I]; a layer without an Ortho part counts as one of rank 0.
    """
    if all(ortho is None for ortho in orthos):
        return None
    example = next(ortho for ortho in orthos if ortho is not None)
    parts = [
        ortho
        or OrthoPart(up_Or=example.up_Or.new_zeros(num_out, 0), down_rI=example.down_rI.new_zeros(0, num_in))
        for ortho, (num_out, num_in) in zip(orthos, shapes, strict=True)
    ]
    return OrthoPart(
        up_Or=torch.block_diag(*(part.up_Or for part in parts)),
        down_rI=torch.cat([part.down_rI for part in parts]),
        sparse=_stack_sparse([part.sparse for part in parts], shapes),
    )


def _stack_sparse(parts: Sequence[SparsePart | None], shapes: Sequence[tuple[int, int]]) -> SparsePart | None:
    positions, values, first_row, num_in = [], [], 0, shapes[0][1]
    for part, (num_out, _) in zip(parts, shapes, strict=True):
        if part is not None:
            positions.append(part.positions_k.long() + first_row * num_in)
            values.append(part.values_k)
        first_row += num_out
    if not positions:
        return None
    # An entry's position is a flat index; int32 holds it up to 2**31 weights a layer, as in one layer.
    return SparsePart(
        positions_k=torch.cat(positions).to(torch.int32),
        values_k=torch.cat(values),
        shape=(first_row, num_in),
    )


def _stack_biases(biases: Sequence[Tensor | None], rows: Sequence[int]) -> Tensor | None:
    example = next((bias for bias in biases if bias is not None), None)
    if example is None:
        return None
    return torch.cat(
        [example.new_zeros(num) if bias is None else bias for bias, num in zip(biases, rows, strict=True)]
    )
