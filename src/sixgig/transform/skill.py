"""Saving a skill from rounding: Base = Q(W), and an Ortho part of what it took away where that matters most.

An entry's score says what its rounding error r = W - dequant(Base) costs:

    hessian   r^2 / diag(H^-1)      on public text (transform.sieve.hessian)
    moment    r^2 * E[x^2]          inputs where the skill's answers are given
    fisher    r^2 * E[g^2]          gradients of the skill's loss; the loss rounding adds, to second order,
                                    with the Fisher information for the Hessian and errors taken one by one
    random    drawn                 the null

Shapes: O out features, I in features, k kept entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import InputError
from ..layers.split_linear import OrthoPart
from ..numerics.lowrank import restore_factor, round_factor, weighted_lowrank
from ..numerics.quantize import Quantized, dequantize, quantize_rtn
from ..numerics.sparse import SparsePart, keep_top_k
from .split_layer import LayerSplit, generator_of

Importance = Callable[[str], Tensor]  # layer's name -> what r^2 is multiplied with, [O, I] or [I]


def rounded(weight_OI: Tensor, *, bits: int, group_size: int) -> LayerSplit:
    """Round-to-nearest on the span of each group, with an Ortho part that is empty."""
    base = quantize_rtn(weight_OI, bits=bits, group_size=group_size)
    num_out, num_in = weight_OI.shape
    nothing = OrthoPart(up_Or=weight_OI.new_zeros(num_out, 0), down_rI=weight_OI.new_zeros(0, num_in))
    return LayerSplit(base=base, ortho=nothing, codes_changed=0.0, removed_norm_share=0.0)


def num_kept(num_weights: int, share: float) -> int:
    """How many entries of a layer `share` are; at least one."""
    return max(1, round(share * num_weights))


def with_entries(layer: LayerSplit, weight_OI: Tensor, importance: Tensor, k: int) -> LayerSplit:
    """S = the top k entries of r by r^2 * importance, in fp16 as it is stored."""
    residual_OI = weight_OI - dequantize(layer.base)
    return _with_sparse(layer, keep_top_k(residual_OI, score_of(layer, weight_OI, importance), k))


def score_of(layer: LayerSplit, weight_OI: Tensor, importance: Tensor) -> Tensor:
    """r^2 * importance [O, I]."""
    return (weight_OI - dequantize(layer.base)).square() * importance


def shared_counts(scores: Callable[[], Iterable[tuple[str, Tensor]]], share: float) -> dict[str, int]:
    """How many entries each layer keeps when the best `share` of all layers' are kept; at least one of each.

    Every layer's score is asked for once and let go: what stays is a histogram of its values' bf16 bits,
    which for values of one sign are in the values' order. Of those on the threshold's own step of bf16, the
    first layers' are taken.

    Raises InputError for a negative score.
    """
    histograms: dict[str, Tensor] = {}
    for name, score_OI in scores():
        bits_N = score_OI.flatten().to(torch.bfloat16).view(torch.int16).int()
        if int(bits_N.min()) < 0:
            raise InputError("a score of entries to keep is negative", where=f"layer {name}")
        histograms[name] = torch.bincount(bits_N, minlength=2**15).cpu()
    left = round(share * sum(int(counts.sum()) for counts in histograms.values()))
    from_above = torch.stack(list(histograms.values())).sum(dim=0).flip(0).cumsum(0).flip(0)
    threshold = int((from_above >= left).nonzero().max())
    kept = {name: int(counts[threshold + 1 :].sum()) for name, counts in histograms.items()}
    left -= sum(kept.values())
    for name, counts in histograms.items():
        taken = min(left, int(counts[threshold]))
        kept[name], left = max(1, kept[name] + taken), left - taken
    return kept


def with_random_entries(layer: LayerSplit, weight_OI: Tensor, k: int, *, seed: int, name: str) -> LayerSplit:
    """S = k entries of r, drawn; the same draw on every device."""
    residual_OI = weight_OI - dequantize(layer.base)
    drawn_OI = torch.rand(weight_OI.shape, generator=generator_of(seed, name)).to(weight_OI.device)
    return _with_sparse(layer, keep_top_k(residual_OI, drawn_OI, k))


def with_factors(
    layer: LayerSplit, weight_OI: Tensor, moment_I: Tensor, k: int, factor_bits: int
) -> LayerSplit:
    """U V of r instead of S, of at most as many bytes as k entries take, in the metric of the skill's inputs.

    Raises InputError where that is less than rank 1.
    """
    num_out, num_in = weight_OI.shape
    allowed_bits = SparsePart(
        positions_k=torch.empty(k, dtype=torch.int32),
        values_k=torch.empty(0),
        shape=(num_out, num_in),
    ).storage_bits
    rank = allowed_bits // ((num_out + num_in) * factor_bits + (64 if factor_bits == 8 else 0))
    if not rank:
        raise InputError(
            "an Ortho part of so few bytes has no room for a low-rank part",
            expected="rank 1 at least",
            received=f"{allowed_bits // 8:,} bytes for a layer of {num_out} by {num_in}",
            todo="raise the share, or leave lowrank out",
        )
    residual_OI = weight_OI - dequantize(layer.base)
    up_Or, down_rI = weighted_lowrank(residual_OI, torch.diag(moment_I), rank)
    up_Or = restore_factor(*round_factor(up_Or, factor_bits, dim=1), dim=1)
    down_rI = restore_factor(*round_factor(down_rI, factor_bits, dim=0), dim=0)
    return replace(layer, ortho=OrthoPart(up_Or=up_Or, down_rI=down_rI))


def dense_weights(layers: Iterable[tuple[str, LayerSplit]]) -> Iterator[tuple[str, Tensor]]:
    """Base + Ortho of each layer [O, I] in fp32: the model with its switch at 1."""
    for name, layer in layers:
        yield name, dequantize(layer.base) + layer.ortho.dense()


def on_cpu(layer: LayerSplit) -> LayerSplit:
    """The same on the CPU, where layers wait and are saved."""
    ortho, sparse = layer.ortho, layer.ortho.sparse
    moved = sparse and SparsePart(
        positions_k=sparse.positions_k.cpu(), values_k=sparse.values_k.cpu(), shape=sparse.shape
    )
    base: Quantized = layer.base.to("cpu")
    part = OrthoPart(up_Or=ortho.up_Or.cpu(), down_rI=ortho.down_rI.cpu(), sparse=moved)
    return replace(layer, base=base, ortho=part)


def _with_sparse(layer: LayerSplit, sparse: SparsePart) -> LayerSplit:
    stored = replace(sparse, values_k=sparse.values_k.to(torch.float16).float())
    return replace(layer, ortho=replace(layer.ortho, sparse=stored))
