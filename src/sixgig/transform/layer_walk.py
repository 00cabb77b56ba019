"""Walks a model that lies on disk: each decoder layer's weights are read when it is its turn, and let go.

Beside one layer, the device holds what that layer's texts need at the moment; the texts' activations wait in
the processor's memory between layers. The numbers are those of `streaming.stream_moments` over the whole
model: linear layers run in bf16 under autocast, everything else in fp32.

Shapes: B sequences, T positions, D hidden, I in features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batches import TokenBatch
from ..load.loaded import LoadedModel, linear_layers, load_tokenizer
from ..load.skeleton import empty_network, put_parameter
from ..load.tensor_reader import TensorReader
from ..units import GIB
from .streaming import Flow, Tap, decoder_layers, enter, first_output
from .training import mixed_precision

EMBEDDING = "model.embed_tokens.weight"
MOST_WIDE_BYTES = 1 * GIB  # of activations between two layers; beyond it they wait in bf16


@dataclass(kw_only=True)
class WalkedLayer:
    """One decoder layer: its linear layers' weights as stored, on the CPU, and its inputs' moments.

    `groups`: (names of linear layers that share an input, text set's name -> A [I, I]), in the model's order.
    Take each out when it is its turn, and its matrices go with it.
    """

    weights: Mapping[str, Tensor]
    groups: list[tuple[tuple[str, ...], dict[str, Tensor]]]


def empty_model(folder: Path, device: torch.device) -> LoadedModel:
    """The model in `folder` with its tokenizer and without weights; they are to be used on `device`."""
    weight_bytes = sum(path.stat().st_size for path in TensorReader(folder).paths)
    network = empty_network(folder, weight_bytes=weight_bytes)
    _move_buffers(network, device)
    return LoadedModel(network=network, tokenizer=load_tokenizer(folder), folder=folder, device=device)


class LayerWalk:
    """The texts on their way through a model; go layer by layer with `walk` or `skip`."""

    def __init__(self, model: LoadedModel, text_sets: Mapping[str, Sequence[TokenBatch]]) -> None:
        """`model`: as `empty_model` gives it. Raises what `TensorReader` does for a damaged folder."""
        self.tensors = TensorReader(model.folder)
        self.model, self._device = model, model.device
        self.layers = decoder_layers(model.network)
        self._linears = set(linear_layers(model.network))
        self._prefix = {id(module): name for name, module in model.network.named_modules()}
        self.dtype = _waiting_dtype(text_sets, model.network.config.hidden_size)
        self.flows = self._entered(text_sets)
        self._at = 0

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def linear_names(self, index: int) -> list[str]:
        """The full names of a layer's linear layers, in its order."""
        prefix = self._prefix[id(self.layers[index])] + "."
        return [name for name in self._linears_in_order() if name.startswith(prefix)]

    def walk(self, index: int) -> WalkedLayer:
        """Runs layer `index`, the next one, on all texts; `flows` move on to its output.

        Raises NumericalError naming the tensor, or the layer whose inputs hold NaN or Inf.
        """
        weights = self._fill(index)
        taps = {key: self._run(index, key, counts=True) for key in self.flows}
        self._empty(index)
        groups: list[tuple[tuple[str, ...], dict[str, Tensor]]] = []
        for names in next(iter(taps.values())).groups():
            leader = names[0]
            groups.append(
                (names, {key: tap.moments.pop(leader).become_mean(leader) for key, tap in taps.items()})
            )
        return WalkedLayer(weights=weights, groups=groups)

    def skip(self, index: int) -> None:
        """As `walk`, for a layer that was split before: `flows` move on, and nothing is counted."""
        self._fill(index)
        for key in self.flows:
            self._run(index, key, counts=False)
        self._empty(index)

    @torch.no_grad()
    def _run(self, index: int, key: str, *, counts: bool) -> Tap:
        layer, prefix = self.layers[index], self._prefix[id(self.layers[index])]
        linears = {
            name: layer.get_submodule(name.removeprefix(f"{prefix}.")) for name in self.linear_names(index)
        }
        tap = Tap(linears if counts else {}, self._device)
        done = []
        with tap, mixed_precision(self._device):
            for flow in self.flows[key]:
                here = _moved(replace(flow, calls=(flow.calls[index],)), self._device)
                tap.weights_N = here.weights_N
                hidden_BTD = first_output(layer(here.hidden_BTD, **here.calls[0]))
                # A copy also where the device is the CPU: the output may share its storage with more.
                done.append(replace(flow, hidden_BTD=hidden_BTD.to("cpu", self.dtype, copy=True)))
        self.flows[key] = done
        return tap

    def _fill(self, index: int) -> dict[str, Tensor]:
        """Puts layer `index` on the device; returns its linear layers' weights as they are stored."""
        assert index == self._at, "layers are walked in order, each once"
        self._at += 1
        prefix, weights = self._prefix[id(self.layers[index])], {}
        for short, _ in self.layers[index].named_parameters():
            full = f"{prefix}.{short}"
            stored, module = self.tensors.get(full), full.rpartition(".")[0]
            if module in self._linears and full == f"{module}.weight":
                weights[module] = stored
            # Linear layers in the type that autocast gives them anyway.
            dtype = torch.bfloat16 if module in self._linears else torch.float32
            put_parameter(self.model.network, full, stored.to(self._device, dtype))
        return weights

    def _empty(self, index: int) -> None:
        for name, parameter in list(self.layers[index].named_parameters()):
            full = f"{self._prefix[id(self.layers[index])]}.{name}"
            put_parameter(self.model.network, full, torch.empty_like(parameter, device="meta"))

    def _linears_in_order(self) -> list[str]:
        return [name for name in self._prefix.values() if name in self._linears]

    def _entered(self, text_sets: Mapping[str, Sequence[TokenBatch]]) -> dict[str, list[Flow]]:
        """Every batch before the first layer. Of the embedding only the rows that are used are read."""
        used = sorted(
            {token for sets in text_sets.values() for one in sets for token in one.ids_BT.unique().tolist()}
        )
        rows_VD = self.tensors.gather(EMBEDDING, used)
        place_V = torch.zeros(used[-1] + 1, dtype=torch.int64)
        place_V[torch.tensor(used)] = torch.arange(len(used))
        embedding = self.model.network.get_input_embeddings()
        embedding.padding_idx = None  # it is for gradients alone, and may lie beyond a batch's few rows
        empty_VD = embedding.weight
        flows: dict[str, list[Flow]] = {}
        for key, sets in text_sets.items():
            flows[key] = []
            for batch in sets:
                # By the model's own module, since some scale what they look up (Gemma 3).
                ids, places_BT = batch.ids_BT.unique(return_inverse=True)
                used_VD = rows_VD[place_V[ids]].to(self._device, torch.float32)
                put_parameter(self.model.network, EMBEDDING, used_VD)
                flow = enter(self.model, self.layers, batch, places_BT)
                flows[key].append(_moved(flow, torch.device("cpu"), self.dtype))
        put_parameter(self.model.network, EMBEDDING, empty_VD)
        return flows


def _waiting_dtype(text_sets: Mapping[str, Sequence[TokenBatch]], hidden_size: int) -> torch.dtype:
    num_positions = sum(batch.ids_BT.numel() for sets in text_sets.values() for batch in sets)
    return torch.float32 if 4 * num_positions * hidden_size <= MOST_WIDE_BYTES else torch.bfloat16


def _moved(flow: Flow, device: torch.device, dtype: torch.dtype = torch.float32) -> Flow:
    """The flow on `device`, its hidden states in `dtype`."""
    return Flow(
        hidden_BTD=flow.hidden_BTD.to(device, dtype),
        calls=_moved_calls(flow.calls, device),
        weights_N=flow.weights_N.to(device),
    )


def _moved_calls(calls: tuple[dict[str, Any], ...], device: torch.device) -> tuple[dict[str, Any], ...]:
    """Each on `device`; one that several layers share stays one."""
    moved: dict[int, dict[str, Any]] = {}
    for call in calls:
        if id(call) not in moved:
            moved[id(call)] = {name: _anywhere(value, device) for name, value in call.items()}
    return tuple(moved[id(call)] for call in calls)


def _anywhere(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_anywhere(part, device) for part in value)
    return value


def _move_buffers(network: nn.Module, device: torch.device) -> None:
    """Buffers alone: parameters have no storage to move."""
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
