"""The search behind the sieve learned: U V of every layer, trained through the rounding of W - U V.

Shapes: O out features, I in features, r rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.batches import batches
from ..errors import InputError
from ..layers.split_linear import OrthoPart
from ..numerics.quantize import dequantize, quantize_rtn
from .distil import endless_order, lesson_pieces, prepare_lessons
from .rounding import QuantizeConfig
from .search import Found, SearchContext, as_before, replaced
from .split_layer import generator_of
from .training import Schedule, minimise

if TYPE_CHECKING:
    from .sieve.learned import LearnedSieve


def search_learned(sieve: LearnedSieve, context: SearchContext) -> Found:
    """M of every layer, as factors of rank r. Raises InputError without the earlier weights."""
    if context.before is None:
        raise InputError(f"the sieve {sieve.name} needs the model as it was before the private data")
    with torch.enable_grad():
        return _trained(sieve, context)


def _trained(sieve: LearnedSieve, context: SearchContext) -> Found:
    loaded = context.loaded
    with as_before(context):
        private = prepare_lessons(loaded, [*batches(context.private, sieve.texts_per_step)])
    public = prepare_lessons(loaded, [*batches(context.public, sieve.windows_per_step)])
    modules = {
        name: _LearnedLinear(linear, sieve.rank, context.quantize, generator_of(context.seed, name))
        for name, linear in context.linears.items()
    }
    generator = np.random.default_rng(np.random.SeedSequence([context.seed, 0x1EA2]))
    private_order = endless_order(generator, len(private), sieve.num_steps)
    public_order = endless_order(generator, len(public), sieve.num_steps)

    def losses_at(step: int, num_pieces: int) -> list[Callable[[], Tensor]]:
        for module in modules.values():
            module.round_anew()
        found = lesson_pieces(loaded, private[private_order[step]], num_pieces)
        if sieve.public_weight:
            found += _weighted(
                lesson_pieces(loaded, public[public_order[step]], num_pieces), sieve.public_weight
            )
        return found

    with replaced(loaded, modules):
        minimise(
            [parameter for module in modules.values() for parameter in module.trained()],
            losses_at,
            Schedule(learning_rate=sieve.learning_rate, num_steps=sieve.num_steps),
            what="learning what to remove",
            fallbacks=context.fallbacks,
        )
    return {
        name: OrthoPart(up_Or=module.up_Or.detach().cpu(), down_rI=module.down_rI.detach().cpu())
        for name, module in modules.items()
    }


def _weighted(parts: list[Callable[[], Tensor]], weight: float) -> list[Callable[[], Tensor]]:
    return [lambda part=part: weight * part() for part in parts]


class _LearnedLinear(nn.Module):
    """x Q(W - U V)^T + bias; U begins at 0, V at random, so that the first Base is Q(W).

    Rounding costs as much as the pass itself, so that a step's pieces, between which nothing moves, share it:
    4 bytes a weight.
    """

    def __init__(
        self, linear: nn.Linear, rank: int, quantize: QuantizeConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        num_out, num_in = linear.weight.shape
        self.weight_OI, self.bias, self.quantize = linear.weight, linear.bias, quantize
        device = linear.weight.device
        self.up_Or = nn.Parameter(torch.zeros(num_out, rank, device=device))
        down_rI = torch.randn(rank, num_in, generator=generator) / num_in**0.5
        self.down_rI = nn.Parameter(down_rI.to(device))
        self._error_OI: Tensor | None = None

    def round_anew(self) -> None:
        self._error_OI = None

    def trained(self) -> list[nn.Parameter]:
        return [self.up_Or, self.down_rI]

    def forward(self, x: Tensor) -> Tensor:
        left_OI = self.weight_OI - self.up_Or @ self.down_rI
        if self._error_OI is None:
            self._error_OI = self._rounding_error(left_OI)
        return F.linear(x, left_OI + self._error_OI, self.bias)

    @torch.no_grad()
    def _rounding_error(self, left_OI: Tensor) -> Tensor:
        with torch.autocast(left_OI.device.type, enabled=False):
            config = self.quantize
            rounded = quantize_rtn(left_OI.float(), bits=config.bits, group_size=config.group_size)
            return dequantize(rounded) - left_OI
