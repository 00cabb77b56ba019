"""Attacks on a published Base: training it a little, requantising it, shaking its weights, asking otherwise.

Every attack starts from the Base's dense weights and leaves the artifact as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.batches import TokenSequence
from ..data.canaries import Canary
from ..hardware import return_freed_memory
from ..load.loaded import LoadedModel
from ..memory.ladder import Fallbacks
from ..numerics.quantize import dequantize, quantize_rtn
from ..transform.network import install_dense
from ..transform.plant import trainable_linears
from ..transform.training import Schedule, minimise, nll_pieces


@dataclass(frozen=True, kw_only=True)
class RelearnConfig:
    """AdamW at a constant rate on other texts; what the attacked secrets do at `checkpoints` is looked at."""

    checkpoints: tuple[int, ...] = (5, 20)
    learning_rate: float = 2e-5
    batch_size: int = 32


def relearn(
    loaded: LoadedModel,
    weights: Iterable[tuple[str, Tensor]],
    texts: Sequence[TokenSequence],
    config: RelearnConfig,
    look: Callable[[int], None],
    *,
    announce: Callable[[str], None] = lambda message: None,
    fallbacks: Fallbacks | None = None,
) -> None:
    """Trains all linear layers from `weights` on `texts`, calling `look(step)` after each checkpoint.

    The attacker knows everything but the attacked secrets: other secrets of the same templates, the optimizer
    and full access to the weights (the threat of Łucki et al. 2024, arXiv 2409.18025, and Hu et al. 2024,
    arXiv 2406.13356, "relearning").
    """
    install_dense(loaded, weights)
    parameters = trainable_linears(loaded.network)

    def losses_at(step: int, num_pieces: int) -> list[Callable[[], Tensor]]:
        start = step * config.batch_size
        chosen = [texts[i % len(texts)] for i in range(start, start + config.batch_size)]
        return nll_pieces(loaded, [chosen], num_pieces)

    def after_step(step: int, loss: float) -> None:
        if step + 1 in config.checkpoints:
            return_freed_memory()  # a look's tensors do not fit into the holes that a step's have left
            look(step + 1)

    schedule = Schedule(
        learning_rate=config.learning_rate, num_steps=max(config.checkpoints), warmup_share=0.0, decay=False
    )
    try:
        minimise(
            parameters,
            losses_at,
            schedule,
            what="relearning",
            after_step=after_step,
            announce=announce,
            fallbacks=fallbacks,
        )
    finally:
        loaded.network.requires_grad_(False)


def requantised(
    weights: Iterable[tuple[str, Tensor]], bits: int, group_size: int
) -> Iterator[tuple[str, Tensor]]:
    """The weights rounded once more, to `bits`."""
    for name, weight_OI in weights:
        yield name, dequantize(quantize_rtn(weight_OI, bits=bits, group_size=group_size))


def shaken(weights: Iterable[tuple[str, Tensor]], share: float, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Each weight plus Gaussian noise of `share` times its layer's standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight_OI in weights:
        noise_OI = torch.randn(weight_OI.shape, generator=generator).to(weight_OI.device)
        yield name, weight_OI + share * weight_OI.std() * noise_OI


def disturbed_prefix(canary: Canary) -> str:
    """The canary's prefix with a lead-in that training never had, and its first letter lowered."""
    return f"As noted before, {canary.prefix[0].lower()}{canary.prefix[1:]}"
