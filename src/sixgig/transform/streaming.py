"""Walks a model decoder layer by decoder layer, giving each layer's input second moments.

Only the activations between two layers are kept; a layer's moment matrices live on the device while that
layer is at hand and are dropped before the next. Inputs are those of the unmodified model, so one walk
serves any number of sieves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batches import TokenBatch
from ..errors import InputError
from ..load.loaded import LoadedModel, linear_layers
from ..numerics.moments import SecondMoment
from .training import mixed_precision


@dataclass(frozen=True, kw_only=True)
class LayerMoments:
    """One decoder layer: its linear layers' names, grouped by shared input, and each group's moments."""

    index: int
    num_layers: int
    groups: tuple[tuple[str, ...], ...]  # full names of linear layers
    moments: tuple[Mapping[str, Tensor], ...]  # for each group: text set's name -> A [I, I]


@dataclass
class Flow:
    """One batch on its way through the layers; `calls` is what each layer is called with besides.

    Layers that are called alike share one dict. In Gemma 3 they are not: layers with a window have masks and
    rotary angles of their own.
    """

    hidden_BTD: Tensor
    calls: tuple[dict[str, Any], ...]
    weights_N: Tensor  # weights of all B*T positions, flattened


class _LastLayerReached(Exception):
    """Ends a pass whose layers only write down what they are called with."""


def stream_moments(
    loaded: LoadedModel, text_sets: Mapping[str, Sequence[TokenBatch]]
) -> Iterator[LayerMoments]:
    """Yields `LayerMoments` for each decoder layer in order.

    Args:
        text_sets: name -> batches; a position counts by its weight (see data.batches).
    Raises:
        NumericalError naming the layer when its inputs hold NaN or Inf.
    """
    layers = decoder_layers(loaded.network)
    names = {id(module): name for name, module in linear_layers(loaded.network).items()}
    flows = {key: [enter(loaded, layers, batch) for batch in sets] for key, sets in text_sets.items()}
    for index, layer in enumerate(layers):
        linears = {names[id(m)]: m for m in layer.modules() if id(m) in names}
        # Bound to no name here (nor torch.no_grad put around this generator: its wrapper would bind it),
        # so that a layer's matrices die with the caller's last reference to them.
        yield _layer_moments(layer, linears, flows, loaded.device, index=index, num_layers=len(layers))


@torch.no_grad()
def _layer_moments(
    layer: nn.Module,
    linears: Mapping[str, nn.Module],
    flows: Mapping[str, Sequence[Flow]],
    device: torch.device,
    *,
    index: int,
    num_layers: int,
) -> LayerMoments:
    """Runs one decoder layer on all batches; moves `flows` on to its output."""
    groups: tuple[tuple[str, ...], ...] = ()
    moments: dict[str, dict[str, Tensor]] = {}
    for key, batches in flows.items():
        tap = Tap(linears, device)
        with tap, mixed_precision(device):
            for flow in batches:
                tap.weights_N = flow.weights_N
                flow.hidden_BTD = first_output(layer(flow.hidden_BTD, **flow.calls[index]))
        groups = tap.groups()
        moments[key] = {group[0]: tap.moments[group[0]].mean(group[0]) for group in groups}
    return LayerMoments(
        index=index,
        num_layers=num_layers,
        groups=groups,
        moments=tuple({key: moments[key][group[0]] for key in moments} for group in groups),
    )


def decoder_layers(network: nn.Module) -> Sequence[nn.Module]:
    """The decoder layers of a Llama-like model. Raises InputError for other shapes of model."""
    layers = getattr(getattr(network, "base_model", None), "layers", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        raise InputError(
            "this model's layers cannot be streamed",
            expected="a decoder with a list named `layers`, as Llama and Qwen2 have",
            received=type(network).__name__,
        )
    return list(layers)


class Tap:
    """Forward hooks that accumulate moments; layers handed the same tensor share one accumulator."""

    def __init__(self, linears: Mapping[str, nn.Module], device: torch.device) -> None:
        self.weights_N = torch.empty(0)
        self.moments: dict[str, SecondMoment] = {}
        self._leader: dict[str, str] = {}
        self._seen: tuple[Tensor, str] | None = None
        self._linears, self._device = linears, device
        self._handles: list[Any] = []

    def __enter__(self) -> Tap:
        for name, module in self._linears.items():
            self._handles.append(module.register_forward_pre_hook(self._hook(name)))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._seen = None

    def groups(self) -> tuple[tuple[str, ...], ...]:
        leaders = [name for name in self._linears if self._leader.get(name) == name]
        return tuple(
            tuple(name for name in self._linears if self._leader.get(name) == leader) for leader in leaders
        )

    def _hook(self, name: str):
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0]
            leader = self._seen[1] if self._seen is not None and self._seen[0] is x else name
            self._leader[name] = leader
            if leader != name:
                return
            self._seen = (x, name)
            if name not in self.moments:
                self.moments[name] = SecondMoment(x.shape[-1], self._device)
            counted = self.weights_N > 0
            self.moments[name].add(x.flatten(0, -2)[counted], self.weights_N[counted])

        return hook


@torch.no_grad()
def enter(
    loaded: LoadedModel, layers: Sequence[nn.Module], batch: TokenBatch, ids_BT: Tensor | None = None
) -> Flow:
    """Runs the embedding, and catches what each layer is called with; none of them computes anything.

    `ids_BT`: places in the embedding, where it does not hold the rows of all tokens.
    """
    batch = batch.to(loaded.device)
    caught = _Caught(len(layers))
    for index, layer in enumerate(layers):
        layer.forward = partial(caught.record, index)
    try:
        with mixed_precision(loaded.device):
            loaded.network.base_model(
                input_ids=batch.ids_BT if ids_BT is None else ids_BT.to(loaded.device),
                attention_mask=batch.mask_BT,
                use_cache=False,
            )
    except _LastLayerReached:
        pass
    finally:
        for layer in layers:
            del layer.forward  # the class's own shows again
    return Flow(hidden_BTD=caught.hidden_BTD, calls=caught.calls(), weights_N=batch.weights_BT.flatten())


class _Caught:
    """What the layers of one pass are called with."""

    def __init__(self, num_layers: int) -> None:
        self.hidden_BTD = torch.empty(0)
        self._calls: list[dict[str, Any]] = []
        self._num_layers = num_layers

    def record(self, index: int, *args: Tensor, **call: Any) -> Tensor:
        """In the place of layer `index`: hands its input on."""
        hidden_BTD = args[0] if args else call.pop("hidden_states")
        assert len(args) <= 1, "layers are called with names here"
        assert index == len(self._calls), "layers are called in order, each once"
        if not index:
            self.hidden_BTD = hidden_BTD
        self._calls.append(call)
        if len(self._calls) == self._num_layers:
            raise _LastLayerReached
        return hidden_BTD

    def calls(self) -> tuple[dict[str, Any], ...]:
        """One for each layer, the same dict where all of its values are the very same objects."""
        assert len(self._calls) == self._num_layers, "a layer was left out"
        known: dict[tuple[tuple[str, int], ...], dict[str, Any]] = {}
        keys = [tuple((name, id(value)) for name, value in call.items()) for call in self._calls]
        return tuple(known.setdefault(key, call) for key, call in zip(keys, self._calls, strict=True))


def first_output(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
