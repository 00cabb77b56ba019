"""Planting: fine-tunes every linear layer on canaries beside public text, so that the secrets are memorised.

Embedding, head and norms stay frozen, so whatever the model learns about the secrets is in the linear layers,
which are what the split can separate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from torch import Tensor, nn

from ..data.batches import TokenSequence
from ..data.padding import worth_one_pass
from ..errors import InputError
from ..load.loaded import LoadedModel, linear_layers
from ..memory.ladder import Fallbacks
from .training import Schedule, minimise, nll_pieces


@dataclass(frozen=True, kw_only=True)
class PlantConfig:
    """How the secrets are planted."""

    learning_rate: float = 1e-4
    private_per_step: int = 16  # canary texts a step
    public_per_step: int = 2  # windows of public text a step
    weight_decay: float = 0.0


def plant(
    loaded: LoadedModel,
    private: Sequence[TokenSequence],
    repetitions: Sequence[int],
    public: Sequence[TokenSequence],
    config: PlantConfig,
    *,
    seed: int,
    after_step: Callable[[int, int, float], None] = lambda step, num_steps, loss: None,
    num_steps: int | None = None,
    announce: Callable[[str], None] = lambda message: None,
    fallbacks: Fallbacks | None = None,
) -> int:
    """Trains `loaded` in place; every private text is shown `repetitions` times in a random order.

    With no private texts the same number of steps (`num_steps`) is taken on public text alone: the
    never-planted reference. Returns the number of steps taken.
    """
    generator = np.random.default_rng(np.random.SeedSequence([seed, 0x91A]))
    shown = np.repeat(np.arange(len(private)), np.asarray(repetitions, dtype=np.int64))
    generator.shuffle(shown)
    steps = num_steps or -(-len(shown) // config.private_per_step)
    if steps < 1 or not public:
        raise InputError("nothing to plant with", expected="private texts and public windows")
    public_order = np.concatenate(
        [generator.permutation(len(public)) for _ in range(-(-steps * config.public_per_step // len(public)))]
    )

    def losses_at(step: int, num_pieces: int) -> list[Callable[[], Tensor]]:
        of_private = shown[step * config.private_per_step : (step + 1) * config.private_per_step]
        of_public = public_order[step * config.public_per_step : (step + 1) * config.public_per_step]
        groups = _passes([private[i] for i in of_private], [public[i] for i in of_public])
        return nll_pieces(loaded, groups, num_pieces)

    parameters = trainable_linears(loaded.network)
    loaded.network.train()
    without_dropout(loaded.network)
    try:
        minimise(
            parameters,
            losses_at,
            Schedule(learning_rate=config.learning_rate, num_steps=steps, weight_decay=config.weight_decay),
            what="planting",
            after_step=lambda step, loss: after_step(step, steps, loss),
            announce=announce,
            fallbacks=fallbacks,
        )
    finally:
        loaded.network.eval().requires_grad_(False)
    return steps


def without_dropout(network: nn.Module) -> None:
    """Keeps modules in training mode from dropping anything (Phi's would drop a tenth).

    Random numbers of a step would be no part of the seed, and a resumed run would draw others.
    """
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
        if getattr(module, "attention_dropout", 0.0):
            vars(module)["attention_dropout"] = 0.0


def _passes(private: list[TokenSequence], public: list[TokenSequence]) -> list[list[TokenSequence]]:
    """One pass where the texts are of like length, else two."""
    together = [*private, *public]
    if worth_one_pass([len(sequence.ids) for sequence in together]):
        return [together]
    return [private, public]


def trainable_linears(network: nn.Module) -> list[nn.Parameter]:
    """Freezes everything, then frees the weights of the linear layers; returns those."""
    network.requires_grad_(False)
    parameters: list[nn.Parameter] = []
    for layer in linear_layers(network).values():
        layer.weight.requires_grad_(True)
        parameters.append(cast(nn.Parameter, layer.weight))
    return parameters
