"""The split of a whole model: every linear layer in all arms, during one walk. One layer: `split_layer`."""

from __future__ import annotations

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
from ..load.loaded import LoadedModel, linear_layers
from ..memory.ladder import Fallbacks
from ..numerics.finite import all_finite
from ..numerics.quantize import Quantized
from .gradients import PRIVATE, PUBLIC, GradientSource
from .rounding import QuantizeConfig, round_weight
from .sieve import Evidence, InputStatistics
from .sieve.base import SearchingSieve, SelectiveSieve
from .split_layer import Arm, LayerSplit, generator_of, split_one
from .streaming import LayerMoments, decoder_layers, stream_moments

if TYPE_CHECKING:
    from .search import Found


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
