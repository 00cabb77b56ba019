"""One linear layer split: Base = Q(W - M), and what the Ortho part has to give back.

Order matters: M leaves before quantising. Taken out afterwards it would vanish in the rounding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import NumericalError
from ..layers.split_linear import OrthoPart
from ..numerics.finite import all_finite
from ..numerics.lowrank import WeightedSum, weighted_lowrank
from ..numerics.quantize import Quantized, dequantize
from ..numerics.sparse import SparsePart, keep_top_k
from .rounding import QuantizeConfig, kept_before_rounding, round_weight
from .sieve import Evidence, InputStatistics, Sieve


@dataclass(frozen=True, kw_only=True)
class OrthoConfig:
    """The size of the Ortho part, and where its first guess looks."""

    rank: int = 16
    sparse_share: float = 0.0  # share of a layer's entries kept in S
    private_share: float = 0.5  # weight of the private inputs in the metric of the first guess
    entries: str = "after"  # rounding are S's chosen | "before", for sieves that keep entries alone


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to split: a sieve, the private texts it is calibrated on, and the form of both parts.

    `keep_unrounded` keeps W - M too, 2 bytes a weight on the CPU, for fitting the Base's scales to it.
    """

    sieve: Sieve
    private_set: str | None = None  # a key of the text sets
    control_set: str | None = (
        None  # a key of the text sets: never trained, for sieves that search for a level
    )
    before_set: str | None = None  # a key of the earlier weights
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    ortho: OrthoConfig = OrthoConfig()
    keep_unrounded: bool = False


@dataclass(frozen=True, kw_only=True)
class LayerSplit:
    """One layer's result, on the CPU. `codes_changed`: share of Base codes that differ from Q(W)'s
    as they were rounded; a fit that trains codes comes after that and leaves it.

    `unrounded_OI` is W - M in bf16, the teacher that `fit_scales` needs; None unless the arm asked for it.
    """

    base: Quantized
    ortho: OrthoPart
    codes_changed: float
    removed_norm_share: float  # |M| / |W|, Frobenius
    unrounded_OI: Tensor | None = None


def split_one(evidence: Evidence, arm: Arm, plain: Quantized) -> LayerSplit:
    """One layer: remove, quantise, then look at what is missing on the quantised Base. `plain` is Q(W)."""
    removed_OI = removed_from(evidence, arm)
    return split_removed(evidence, arm, removed_OI, plain)


def removed_from(evidence: Evidence, arm: Arm) -> Tensor:
    """M [O, I]. Raises NumericalError naming the layer where it holds NaN or Inf."""
    removed_OI = arm.sieve.removed(evidence)
    if not all_finite(removed_OI):
        raise NumericalError(f"the sieve {arm.sieve.name} gave NaN or Inf", where=f"layer {evidence.name}")
    return removed_OI


def split_removed(evidence: Evidence, arm: Arm, removed_OI: Tensor, plain: Quantized) -> LayerSplit:
    """One layer without its M: quantised, and what is missing then. `plain` is Q(W)."""
    if arm.sieve.keeps_before:
        assert evidence.before_OI is not None  # or the sieve would have refused
        # W - (W - W0) is W0 but for rounding, and that rounding would carry traces of W into the Base.
        unrounded_OI = evidence.before_OI
    else:
        unrounded_OI = evidence.weight_OI - removed_OI
    is_plain = not arm.sieve.keeps_before and not removed_OI.any()
    kept_OI = _kept_before(evidence, unrounded_OI, arm)
    if is_plain and kept_OI is None:
        base = plain
    else:
        base = round_weight(unrounded_OI, evidence.statistics, arm.quantize, kept_OI)
    return LayerSplit(
        base=base.to("cpu"),
        ortho=_first_guess(evidence, base, arm, kept_OI),
        codes_changed=float((base.codes_OI != plain.codes_OI).float().mean()),
        removed_norm_share=float(removed_OI.norm() / evidence.weight_OI.norm()),
        unrounded_OI=unrounded_OI.to("cpu", torch.bfloat16) if arm.keep_unrounded else None,
    )


def _kept_before(evidence: Evidence, unrounded_OI: Tensor, arm: Arm) -> Tensor | None:
    if arm.ortho.entries == "after":
        return None
    k = round(arm.ortho.sparse_share * unrounded_OI.numel())
    return kept_before_rounding(unrounded_OI, evidence.statistics, arm.sieve, arm.quantize, k)


def _first_guess(evidence: Evidence, base: Quantized, arm: Arm, kept_OI: Tensor | None) -> OrthoPart:
    """What W - Base would need: top entries for a residual-ranking sieve, else U V (+ S) in the metric."""
    num_out, num_in = evidence.weight_OI.shape
    k = round(arm.ortho.sparse_share * evidence.weight_OI.numel())
    if not arm.ortho.rank and not k:
        return OrthoPart(up_Or=torch.zeros(num_out, 0), down_rI=torch.zeros(0, num_in))
    residual_OI, statistics = evidence.weight_OI - dequantize(base), evidence.statistics
    score_OI = arm.sieve.residual_score(residual_OI, statistics) if kept_OI is None else kept_OI.float()
    if score_OI is not None:
        return OrthoPart(
            up_Or=torch.zeros(num_out, 0),
            down_rI=torch.zeros(0, num_in),
            sparse=_sparse_on_cpu(keep_top_k(residual_OI, score_OI, k)),
        )
    metric_II = _metric(statistics, arm.ortho.private_share)
    up_Or, down_rI = weighted_lowrank(residual_OI, metric_II, arm.ortho.rank)
    sparse = None
    if k:
        rest_OI = residual_OI - up_Or @ down_rI
        score_OI = rest_OI.square() * metric_II.diagonal()
        sparse = _sparse_on_cpu(keep_top_k(rest_OI, score_OI, k))
    return OrthoPart(up_Or=up_Or.cpu(), down_rI=down_rI.cpu(), sparse=sparse)


def _metric(statistics: InputStatistics, private_share: float) -> Tensor | WeightedSum:
    # Both moments are brought to one trace, so that the share means what it says.
    if statistics.in_blocks:
        return WeightedSum(tuple(_shares(statistics, private_share)))
    public_II = statistics.public_II / statistics.public_II.diagonal().mean()
    if statistics.private_II is None:
        return public_II
    private_II = statistics.private_II / statistics.private_II.diagonal().mean()
    return (1 - private_share) * public_II + private_share * private_II


def _shares(statistics: InputStatistics, private_share: float) -> Iterator[tuple[float, Tensor]]:
    """`_metric`'s terms, with no matrix made for them."""
    is_alone = statistics.private_II is None
    yield (1 if is_alone else 1 - private_share) / _mean_size(statistics.public_II), statistics.public_II
    if statistics.private_II is not None:
        yield private_share / _mean_size(statistics.private_II), statistics.private_II


def _mean_size(moment_II: Tensor) -> float:
    return float(moment_II.diagonal().mean())


def generator_of(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _sparse_on_cpu(sparse: SparsePart) -> SparsePart:
    return SparsePart(
        positions_k=sparse.positions_k.cpu(), values_k=sparse.values_k.cpu(), shape=sparse.shape
    )
