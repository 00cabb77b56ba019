"""Fits the Ortho part on the frozen Base, after quantising, so that alpha = 1 restores the whole model.

loss = KL(whole model || Base + S + U V) on public text + private_weight * NLL of the private calibration
texts. Only U and V are trained; S stays as chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.batches import TokenSequence
from ..layers.split_linear import OrthoPart
from ..load.loaded import LoadedModel
from ..memory.ladder import Fallbacks
from ..numerics.lowrank import restore_factor, round_factor
from ..numerics.quantize import dequantize
from .distil import Lesson, endless_order, lesson_pieces
from .network import bias_of, install
from .split_layer import LayerSplit
from .training import Schedule, minimise, nll_pieces


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How U V are fitted. `factor_bits` is their stored width: 16, or 8 with a scale a component."""

    num_steps: int = 200
    learning_rate: float = 1e-3
    private_weight: float = 1.0
    factor_bits: int = 16


class _FitLinear(nn.Module):
    """x (Base + S)^T + bias + x V^T U^T with U and V trainable; `bias` is the model's own, or None."""

    bias: Tensor | None

    def __init__(self, layer: LayerSplit, device: torch.device, bias: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("bias", bias)
        dense_OI = dequantize(layer.base)
        if layer.ortho.sparse is not None:
            dense_OI += layer.ortho.sparse.dense()
        self.dense_OI = dense_OI.to(device, torch.bfloat16)
        # Copied, since on a CPU `to` would hand over the caller's own tensors to be trained.
        self.up_Or = nn.Parameter(layer.ortho.up_Or.to(device, torch.float32, copy=True))
        self.down_rI = nn.Parameter(layer.ortho.down_rI.to(device, torch.float32, copy=True))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dense_OI, self.bias) + F.linear(F.linear(x, self.down_rI), self.up_Or)


def fit_ortho(
    loaded: LoadedModel,
    layers: Mapping[str, LayerSplit],
    lessons: Sequence[Lesson],
    private: Sequence[Sequence[TokenSequence]],
    config: FitConfig,
    *,
    seed: int,
    after_step: Callable[[int, int, float], None] = lambda step, num_steps, loss: None,
    announce: Callable[[str], None] = lambda message: None,
    fallbacks: Fallbacks | None = None,
) -> dict[str, LayerSplit]:
    """The same layers with a fitted Ortho part, rounded to its stored width.

    Replaces the linear layers of `loaded`; the caller installs what it needs next.
    """
    modules = {
        name: _FitLinear(layer, loaded.device, bias_of(loaded.network, name))
        for name, layer in layers.items()
    }
    install(loaded.network, modules)
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    generator = np.random.default_rng(np.random.SeedSequence([seed, 0xF17]))
    lesson_order = endless_order(generator, len(lessons), config.num_steps)
    private_order = endless_order(generator, len(private), config.num_steps)

    def losses_at(step: int, num_pieces: int) -> list[Callable[[], Tensor]]:
        found = lesson_pieces(loaded, lessons[lesson_order[step]], num_pieces)
        if private:
            texts = [private[private_order[step]]]
            found += nll_pieces(loaded, texts, num_pieces, factor=config.private_weight)
        return found

    if config.num_steps and parameters:
        schedule = Schedule(learning_rate=config.learning_rate, num_steps=config.num_steps)
        minimise(
            parameters,
            losses_at,
            schedule,
            what="fitting the Ortho part",
            after_step=lambda step, loss: after_step(step, config.num_steps, loss),
            announce=announce,
            fallbacks=fallbacks,
        )
    return {
        name: replace(layers[name], ortho=_rounded(module, layers[name].ortho, config.factor_bits))
        for name, module in modules.items()
    }


def _rounded(module: _FitLinear, before: OrthoPart, bits: int) -> OrthoPart:
    up_Or = restore_factor(*round_factor(module.up_Or.detach().cpu(), bits, dim=1), dim=1)
    down_rI = restore_factor(*round_factor(module.down_rI.detach().cpu(), bits, dim=0), dim=0)
    return OrthoPart(up_Or=up_Or, down_rI=down_rI, sparse=before.sparse)
