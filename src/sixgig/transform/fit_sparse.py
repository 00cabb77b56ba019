"""Fits the values of a sparse Ortho part on the frozen Base, its positions fixed.

loss = KL(whole model || Base + S) on public text + private_weight * NLL of the skill's calibration texts.
What rounding took away at one entry need not be the best that S can hold there: the entries that are left out
can be made up for by those that are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.batches import TokenSequence
from ..errors import InputError
from ..layers.split_linear import OrthoPart
from ..load.loaded import LoadedModel
from ..memory.ladder import Fallbacks
from ..numerics.quantize import dequantize
from ..numerics.sparse import SparsePart
from .distil import Lesson, endless_order, lesson_pieces
from .network import bias_of, install
from .restore import FitConfig
from .split_layer import LayerSplit
from .training import Schedule, minimise, nll_pieces


class _SparseFit(nn.Module):
    """x (Base + S)^T + bias with the values of S trainable; `bias` is the model's own, or None."""

    bias: Tensor | None

    def __init__(
        self, layer: LayerSplit, sparse: SparsePart, device: torch.device, bias: Tensor | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("bias", bias)
        base_OI = dequantize(layer.base)
        self.positions_k = sparse.positions_k.to(device, torch.int64)
        self.base_k = base_OI.flatten()[sparse.positions_k.long()].to(device)
        self.base_OI = base_OI.to(device, torch.bfloat16)
        self.values_k = nn.Parameter(sparse.values_k.to(device, torch.float32, copy=True))

    def forward(self, x: Tensor) -> Tensor:
        # Summed in fp32 and rounded once, as the finished layer is.
        whole_k = (self.base_k + self.values_k).to(torch.bfloat16)
        weight_OI = self.base_OI.flatten().index_copy(0, self.positions_k, whole_k).view(self.base_OI.shape)
        return F.linear(x, weight_OI, self.bias)


def fit_sparse(
    loaded: LoadedModel,
    layers: Mapping[str, LayerSplit],
    lessons: Sequence[Lesson],
    private: Sequence[Sequence[TokenSequence]],
    config: FitConfig,
    *,
    seed: int,
    after_step: Callable[[int, int, float], None] = lambda step, num_steps, loss: None,
    fallbacks: Fallbacks | None = None,
) -> dict[str, LayerSplit]:
    """The same layers with fitted values in S, rounded to fp16 as they are stored.

    Replaces the linear layers of `loaded`; the caller installs what it needs next.

    Raises InputError where a layer has no S to fit, or a low-rank part, which would be left out here.
    """
    modules = {
        name: _SparseFit(layer, _sparse(name, layer), loaded.device, bias_of(loaded.network, name))
        for name, layer in layers.items()
    }
    install(loaded.network, modules)
    generator = np.random.default_rng(np.random.SeedSequence([seed, 0xF175]))
    lesson_order = endless_order(generator, len(lessons), config.num_steps)
    private_order = endless_order(generator, len(private), config.num_steps)

    def losses_at(step: int, num_pieces: int) -> list[Callable[[], Tensor]]:
        found = lesson_pieces(loaded, lessons[lesson_order[step]], num_pieces) if lessons else []
        if private:
            texts = [private[private_order[step]]]
            found += nll_pieces(loaded, texts, num_pieces, factor=config.private_weight)
        return found

    minimise(
        [module.values_k for module in modules.values()],
        losses_at,
        Schedule(learning_rate=config.learning_rate, num_steps=config.num_steps),
        what="fitting the sparse Ortho part",
        after_step=lambda step, loss: after_step(step, config.num_steps, loss),
        fallbacks=fallbacks,
    )
    return {
        name: replace(layers[name], ortho=_fitted(module, layers[name])) for name, module in modules.items()
    }


def _sparse(name: str, layer: LayerSplit) -> SparsePart:
    sparse = layer.ortho.sparse
    if sparse is None or layer.ortho.up_Or.shape[1]:
        raise InputError(
            "only a sparse Ortho part can be fitted here",
            expected="S, and no U V",
            received=f"rank {layer.ortho.up_Or.shape[1]}, {'no S' if sparse is None else 'S'}",
            where=f"layer {name}",
        )
    return sparse


def _fitted(module: _SparseFit, layer: LayerSplit) -> OrthoPart:
    sparse = layer.ortho.sparse
    assert sparse is not None
    values_k = module.values_k.detach().cpu().to(torch.float16).float()
    return replace(layer.ortho, sparse=replace(sparse, values_k=values_k))
