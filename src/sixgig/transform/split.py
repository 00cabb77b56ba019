"""The split: for every linear layer, Base = Q(W - M) and what the Ortho part has to give back.

Order matters: M leaves before quantising. Taken out afterwards it would vanish in the rounding.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ..data.batches import TokenBatch, TokenSequence, sequences_of
from ..errors import InputError, NumericalError
from ..hardware import return_freed_memory
from ..layers.split_linear import OrthoPart
from ..load.loaded import LoadedModel, linear_layers
from ..memory.ladder import Fallbacks
from ..numerics.finite import all_finite
from ..numerics.lowrank import WeightedSum, weighted_lowrank
from ..numerics.quantize import Quantized, dequantize
from ..numerics.sparse import SparsePart, keep_top_k
from .gradients import PRIVATE, PUBLIC, GradientSource
from .rounding import QuantizeConfig, kept_before_rounding, round_weight
from .sieve import Evidence, InputStatistics, Sieve
from .sieve.base import SearchingSieve, SelectiveSieve
from .streaming import LayerMoments, decoder_layers, stream_moments

if TYPE_CHECKING:
    from .search import Found


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


@dataclass
class SplitTimes:
    """Wall-clock seconds of one call of `split_layers_of`; a call begins anew.

    `arm_seconds`: what an arm took by itself: its search or its backward passes, then choosing and rounding
    its layers. The filter that wiener's kin share counts for the first of them. `walk_seconds`: all the rest,
    which one arm alone would have taken as well: the texts' way through the model, and Q(W).
    """

    walk_seconds: float = 0.0
    arm_seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def arm(self, name: str, device: torch.device) -> Iterator[None]:
        """What is done within it counts for the arm `name`, and not for the walk."""
        started = _now(device)
        try:
            yield
        finally:
            self.arm_seconds[name] = self.arm_seconds.get(name, 0.0) + _now(device) - started


@torch.no_grad()
def split_layers_of(
    loaded: LoadedModel,
    arms: Mapping[str, Arm],
    text_sets: Mapping[str, Sequence[TokenBatch]],
    before: Mapping[str, Callable[[str], Tensor]],
    *,
    seed: int,
    after_layer: Callable[[int, int], None] = lambda done, total: None,
    times: SplitTimes | None = None,
    fallbacks: Fallbacks | None = None,
) -> dict[str, dict[str, LayerSplit]]:
    """Splits every linear layer of `loaded` in all `arms` during one walk; `loaded` is not changed.

    Sieves that search do so first, one after another, with the whole model.

    Args:
        text_sets: must hold "public"; private and control sets by the names that the arms use.
        before: for each set of earlier weights, layer name -> W0 [O, I], read when its layer is at hand.
        times: is told how long each arm took.
        fallbacks: where searches and backward passes tell that they ran out of memory.
    Returns:
        arm -> layer name -> LayerSplit.
    Raises:
        InputError when a sieve lacks what it needs; NumericalError naming the layer.
    """
    check_needs(arms, text_sets, before)
    linears = linear_layers(loaded.network)
    _check_weights(linears)
    times = times or SplitTimes()
    times.arm_seconds, started = dict.fromkeys(arms, 0.0), _now(loaded.device)
    whole = _WholeModel(loaded, text_sets, before, seed, fallbacks or Fallbacks(device=loaded.device))
    knowledge = {}
    for name, arm in arms.items():
        with times.arm(name, loaded.device):
            knowledge[name] = whole.learn(arm)
    results: dict[str, dict[str, LayerSplit]] = {name: {} for name in arms}
    for layer in stream_moments(loaded, _walked(arms, text_sets)):
        for name, arm_name, split in _splits_of(layer, linears, arms, before, seed, knowledge, times):
            results[arm_name][name] = split
        after_layer(layer.index + 1, layer.num_layers)
        del layer  # its matrices go before the next layer's are made, and so does what they leave in the heap
        return_freed_memory()
    times.walk_seconds = _now(loaded.device) - started - sum(times.arm_seconds.values())
    return results


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # or the seconds would be those of whoever waits next
    return time.perf_counter()


def _walked(
    arms: Mapping[str, Arm], text_sets: Mapping[str, Sequence[TokenBatch]]
) -> dict[str, Sequence[TokenBatch]]:
    """The sets whose inputs are looked at: not those that only set a level for a search."""
    private = {arm.private_set for arm in arms.values()}
    control = {arm.control_set for arm in arms.values()} - private - {PUBLIC}
    return {name: batches for name, batches in text_sets.items() if name not in control}


@dataclass(frozen=True)
class _Knowledge:
    """What an arm's sieve has of the whole model: M of every layer, or where its gradients come from."""

    found: Found | None = None
    gradients: GradientSource | None = None


@dataclass(frozen=True)
class _WholeModel:
    """What searches and backward passes work on."""

    loaded: LoadedModel
    text_sets: Mapping[str, Sequence[TokenBatch]]
    before: Mapping[str, Callable[[str], Tensor]]
    seed: int
    fallbacks: Fallbacks

    def learn(self, arm: Arm) -> _Knowledge:
        if arm.sieve.searches:
            return _Knowledge(found=self._searched(arm))
        if arm.sieve.needs:
            return _Knowledge(gradients=self._gradients(arm))
        return _Knowledge()

    def _searched(self, arm: Arm) -> Found:
        from .search import SearchContext

        context = SearchContext(
            loaded=self.loaded,
            private=self._texts(arm.private_set),
            public=self._texts(PUBLIC),
            control=self._texts(arm.control_set),
            before=self.before.get(arm.before_set or ""),
            quantize=arm.quantize,
            seed=self.seed,
            fallbacks=self.fallbacks,
        )
        return cast(SearchingSieve, arm.sieve).search(context)

    def _gradients(self, arm: Arm) -> GradientSource:
        num_layers = len(decoder_layers(self.loaded.network))

        def covers(name: str) -> bool:
            is_selective = hasattr(arm.sieve, "covers")
            return not is_selective or cast(SelectiveSieve, arm.sieve).covers(name, num_layers)

        return GradientSource(
            self.loaded,
            arm.sieve.needs,
            {PUBLIC: self._texts(PUBLIC), PRIVATE: self._texts(arm.private_set)},
            seed=self.seed,
            covers=covers,
            fallbacks=self.fallbacks,
        )

    def _texts(self, name: str | None) -> list[TokenSequence]:
        return sequences_of(self.text_sets.get(name or "", ()))


def _splits_of(
    layer: LayerMoments,
    linears: Mapping[str, nn.Linear],
    arms: Mapping[str, Arm],
    before: Mapping[str, Callable[[str], Tensor]],
    seed: int,
    knowledge: Mapping[str, _Knowledge],
    times: SplitTimes,
) -> Iterator[tuple[str, str, LayerSplit]]:
    """One decoder layer: (linear layer's name, arm, result). Arms of one quantiser share Q(W)."""
    for group, moments in zip(layer.groups, layer.moments, strict=True):
        statistics = {
            private: InputStatistics(
                name=group[0],
                public_II=moments[PUBLIC],
                private_II=moments[private] if private else None,
            )
            for private in {arm.private_set for arm in arms.values()}
        }
        for name in group:
            weight_OI = linears[name].weight.detach().float()
            earlier = {key: read(name).to(weight_OI.device).float() for key, read in before.items()}
            plain: dict[QuantizeConfig, Quantized] = {}
            for arm_name, arm in arms.items():
                if arm.quantize not in plain:
                    plain[arm.quantize] = round_weight(weight_OI, statistics[arm.private_set], arm.quantize)
                with times.arm(arm_name, weight_OI.device):
                    known = knowledge[arm_name]
                    evidence = Evidence(
                        name=name,
                        weight_OI=weight_OI,
                        before_OI=earlier.get(arm.before_set or ""),
                        statistics=statistics[arm.private_set],
                        generator=generator_of(seed, name),
                        num_layers=layer.num_layers,
                        gradients=known.gradients.of(name) if known.gradients else None,
                        found_OI=known.found[name].dense().to(weight_OI.device) if known.found else None,
                    )
                    split = split_one(evidence, arm, plain[arm.quantize])
                yield name, arm_name, split


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


def check_needs(
    arms: Mapping[str, Arm], text_sets: Mapping[str, object], before: Mapping[str, object]
) -> None:
    if PUBLIC not in text_sets:
        raise InputError("splitting needs public texts")
    for name, arm in arms.items():
        if arm.ortho.entries not in ("after", "before"):
            raise InputError(
                "unknown choice of the entries to keep",
                expected="after or before rounding",
                received=arm.ortho.entries,
                where=f"arm {name}",
            )
        if arm.sieve.needs_before and arm.before_set not in before:
            raise InputError(
                f"the sieve {arm.sieve.name} needs the model as it was before the private data",
                todo="give it with --before MODEL",
            )
        if arm.sieve.needs_private and arm.private_set not in text_sets:
            raise InputError(f"the sieve {arm.sieve.name} needs private texts", where=f"arm {name}")


def _check_weights(linears: Mapping[str, nn.Linear]) -> None:
    # Before the walk: the layers after a broken one would be blamed for it.
    for name, layer in linears.items():
        if not all_finite(layer.weight):
            raise NumericalError("NaN or Inf in the weights", where=f"layer {name}")


def generator_of(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _sparse_on_cpu(sparse: SparsePart) -> SparsePart:
    return SparsePart(
        positions_k=sparse.positions_k.cpu(), values_k=sparse.values_k.cpu(), shape=sparse.shape
    )
