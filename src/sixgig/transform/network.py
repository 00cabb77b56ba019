"""Putting other modules in the place of a network's linear layers, and taking them out again."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..hardware import return_freed_memory
from ..layers.split_linear import AlphaSwitch, SplitLinear
from ..load.loaded import LoadedModel
from .split_layer import LayerSplit


def install(network: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Replaces submodules by name; what was there before is let go."""
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, module)


def install_dense(
    loaded: LoadedModel, weights: Iterable[tuple[str, Tensor]], *, dtype: torch.dtype = torch.float32
) -> None:
    """Puts plain linear layers with these weights [O, I] in place, on the model's device.

    One layer at a time: its old module is let go before the next weight is asked for. `dtype` bf16 is for
    looking at a model under autocast, which then need not cast them for every pass; no number changes. A
    layer keeps the bias that is there.
    """
    for name, weight_OI in weights:
        bias_O = bias_of(loaded.network, name)
        install(loaded.network, {name: dense_linear(weight_OI.to(loaded.device), dtype, bias_O)})
    _let_go()


def install_split(loaded: LoadedModel, layers: Mapping[str, LayerSplit], *, with_ortho: bool) -> AlphaSwitch:
    """Puts split layers in place, each with the bias that is there; returns their common switch, at 0."""
    switch = AlphaSwitch()
    modules = {}
    for name, layer in layers.items():
        module = SplitLinear(layer.base, bias_of(loaded.network, name), switch)
        if with_ortho:
            module.attach(layer.ortho)
        modules[name] = module.to(loaded.device)
    install(loaded.network, modules)
    _let_go()
    return switch


def _let_go() -> None:
    gc.collect()  # what hangs together in cycles would keep its weights until some later collection
    return_freed_memory()


def bias_of(network: nn.Module, name: str) -> Tensor | None:
    """The bias of the layer that stands at `name`, whatever its kind; None where it has none.

    No experiment changes biases: they belong to the Base as they are in the model, so whatever takes a
    layer's place takes its bias over.
    """
    bias_O: Any = network.get_submodule(name).bias
    return None if bias_O is None else bias_O.detach()


def dense_linear(
    weight_OI: Tensor, dtype: torch.dtype = torch.float32, bias_O: Tensor | None = None
) -> nn.Linear:
    """A frozen nn.Linear that holds exactly this weight, in `dtype`, and this bias, in its own type."""
    linear = nn.Linear(weight_OI.shape[1], weight_OI.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight_OI.to(dtype), requires_grad=False)
    if bias_O is not None:
        linear.bias = nn.Parameter(bias_O, requires_grad=False)
    return linear
