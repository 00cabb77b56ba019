"""What a sieve that looks at the whole model at once is given, and the level that forgetting comes up to.

A sieve that searches finds M of every layer before the walk (`split`). It may put other modules in the place
of the linear layers meanwhile (`replaced`); the model is left as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..data.batches import TokenSequence, collate
from ..errors import InputError
from ..layers.split_linear import OrthoPart
from ..load.loaded import LoadedModel, linear_layers
from ..memory.ladder import Fallbacks, Move
from ..numerics.sparse import SparsePart
from .gradients import POSITIONS_PER_PASS, in_batches
from .network import dense_linear, install
from .rounding import QuantizeConfig
from .training import mixed_precision, weighted_nll_sum

Found = Mapping[str, OrthoPart | SparsePart]  # layer name -> M, on the CPU, as factors or as entries


@dataclass(frozen=True, kw_only=True)
class SearchContext:
    """The whole model with W in it, all texts, and where W0 is read.

    `control` are texts of the private ones' kind that were never trained; empty where there are none.
    """

    loaded: LoadedModel
    private: Sequence[TokenSequence] = field(repr=False)
    public: Sequence[TokenSequence] = field(repr=False)
    control: Sequence[TokenSequence] = field(default=(), repr=False)
    before: Callable[[str], Tensor] | None
    quantize: QuantizeConfig
    seed: int
    fallbacks: Fallbacks

    @property
    def linears(self) -> dict[str, nn.Linear]:
        return linear_layers(self.loaded.network)


@contextmanager
def replaced(loaded: LoadedModel, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Other modules in the place of linear layers; the linear layers come back, whatever happens."""
    before = {name: loaded.network.get_submodule(name) for name in modules}
    install(loaded.network, modules)
    try:
        yield
    finally:
        install(loaded.network, before)


@contextmanager
def as_before(context: SearchContext) -> Iterator[None]:
    """The model with W0 in its linear layers, held in bf16 as autocast uses them. Needs `before`."""
    assert context.before is not None
    read, device = context.before, context.loaded.device
    modules: dict[str, nn.Module] = {}
    for name, linear in context.linears.items():
        modules[name] = dense_linear(read(name).to(device), torch.bfloat16)
        modules[name].bias = linear.bias
    with replaced(context.loaded, modules):
        yield


@torch.no_grad()
def mean_nll(loaded: LoadedModel, texts: Sequence[TokenSequence], fallbacks: Fallbacks) -> float:
    """Mean NLL of a counted token in nats, over all texts' tokens; with the network as it stands."""
    smaller = Move[int](
        lower=lambda positions: positions // 2 if positions > 1 else None,
        says=lambda positions: f"texts now go through in batches of {positions} positions",
    )

    def summed(positions: int) -> float:
        total, weight = 0.0, 0.0
        for sequences in in_batches(texts, positions):
            batch = collate(sequences).to(loaded.device)
            with mixed_precision(loaded.device):
                nll_sum, counted = weighted_nll_sum(loaded, batch)
            total += float(nll_sum)
            weight += counted
        return total / weight

    ladder = fallbacks.ladder("looking at the texts' likelihood", 4 * POSITIONS_PER_PASS, [smaller])
    return ladder.run(summed)


def control_level(context: SearchContext, sieve: str, level: float | None) -> float:
    """The NLL a token, in nats, up to which the private texts' is brought: what untrained ones have.

    In this order: the sieve's own setting `level`; the mean over `context.control` under W; the private
    texts' own under W0. Raises InputError where there is none of them.
    """
    if level is not None:
        return level
    if context.control:
        return mean_nll(context.loaded, context.control, context.fallbacks)
    if context.before is not None:
        with as_before(context):
            return mean_nll(context.loaded, context.private, context.fallbacks)
    raise InputError(
        f"the sieve {sieve} needs to know how likely texts are that were never learnt",
        expected="texts that were never trained, the model before the private texts, or a level",
        todo="give --before MODEL, or -s level=NATS_PER_TOKEN",
    )
