"""Which decoder a model runs on: the one place that chooses, and says what it chose.

On a CPU split layers run packed on torch's INT4 kernels, in the lean decoder where the architecture has one;
on a GPU in the fused decoder, on kernels of this project. `reference` runs the network's own modules, which
is slow and shows what the others must compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..errors import InputError
from ..layers.cpu_linear import CpuLinear, why_not_packed
from ..layers.split_linear import SplitLinear, split_layers
from ..load.loaded import LoadedModel
from .decoder import Decoder
from .fused_choice import fused_decoder, why_not_fused
from .lean_decoder import LeanDecoder
from .lean_model import lean_model, why_not_lean
from .network_decoder import NetworkDecoder, require_context
from .pack_cpu import (
    HEAD_BITS,
    Packed,
    pack_for_cpu,
    packed_head,
    packed_or_itself,
    require_cpu_bf16,
    why_no_kernel,
)

KERNELS = ("auto", "packed", "reference")


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A decoder, what it runs on in one line, and what a missing fast path costs, a line each."""

    decoder: Decoder
    description: str
    notes: tuple[str, ...] = ()


def make_decoder(
    loaded: LoadedModel,
    *,
    context_tokens: int,
    kernels: str = "auto",
    head_bits: int = 8,
    device: torch.device | str | None = None,
) -> Chosen:
    """The decoder for `loaded`, which it takes over: packed layers leave the network.

    `device` is where it shall run, by default where the model lies; a model that waits on the CPU moves to a
    GPU layer by layer, so that the GPU never holds it in two forms.

    `auto` packs what can be packed and says what could not; `packed` refuses instead; `reference` runs the
    network as it is. `head_bits` (4, 8, 16) counts for packed kernels alone.
    Raises InputError for an unknown choice, a context that the model does not have, or where `packed` is
    asked for and something stands against it.
    """
    if kernels not in KERNELS:
        raise InputError("unknown kernels", expected=f"one of {', '.join(KERNELS)}", received=kernels)
    if head_bits not in HEAD_BITS:
        raise InputError(
            "unsupported bits of the head", expected=f"one of {HEAD_BITS}", received=str(head_bits)
        )
    require_context(loaded.network.config, context_tokens)
    target = torch.device(device or loaded.device)
    against = None if kernels == "reference" else why_not_packed_at_all(loaded, target)
    if kernels == "packed" and against is not None:
        raise InputError("nothing to run packed", received=against, todo="--kernels auto or reference")
    if kernels == "reference" or against is not None:
        notes = () if against is None else (f"{against}: dense weights, several times slower",)
        return _reference(loaded, target, context_tokens, notes)
    if target.type == "cuda":
        decoder, words = fused_decoder(loaded, target, context_tokens=context_tokens, head_bits=head_bits)
        return Chosen(decoder=decoder, description=words)
    chosen = packed_decoder(loaded, context_tokens=context_tokens, head_bits=head_bits)
    if kernels == "packed" and chosen.notes:
        raise InputError("not everything can run packed", received=chosen.notes[0], todo="--kernels auto")
    return chosen


def same_loop(
    models: Sequence[tuple[LoadedModel, int]], *, context_tokens: int, device: torch.device
) -> list[Chosen]:
    """For comparisons: models, split or not, each with the bits of its head, all in one kind of loop.

    That is the one that packed layers run in on `device`, where it is there for all of them, and else the
    networks' own modules; plain layers stay dense in bf16. Takes the models over.
    """
    on_gpu = device.type == "cuda"
    reasons = [why_not_fused(one.network, device) if on_gpu else why_no_kernel() for one, _ in models]
    against = next((reason for reason in reasons if reason), None)
    if against is not None:
        notes = (f"{against}: the networks' own modules run",)
        return [_reference(one, device, context_tokens, notes) for one, _ in models]
    if not on_gpu:
        return [packed_decoder(one, context_tokens=context_tokens, head_bits=bits) for one, bits in models]
    found = []
    for one, bits in models:
        decoder, words = fused_decoder(one, device, context_tokens=context_tokens, head_bits=bits)
        found.append(Chosen(decoder=decoder, description=words))
    return found


def why_not_packed_at_all(loaded: LoadedModel, device: torch.device) -> str | None:
    """What keeps every layer of `loaded` from running packed on `device`; None where nothing does."""
    layers = list(split_layers(loaded.network))
    if not layers:
        return "the model is not split, so nothing in it is packed"
    if device.type == "cuda":
        return why_not_fused(loaded.network, device)
    if device.type != "cpu":
        return f"there are no packed layers for {device.type}"
    reasons = {name: why_not_packed(layer.in_features, layer.group_size) for name, layer in layers}
    if all(reasons.values()):
        name, reason = next(iter(reasons.items()))
        return f"no layer fits the INT4 kernel ({name}: {reason})"
    return why_no_kernel()


def packed_decoder(loaded: LoadedModel, *, context_tokens: int, head_bits: int) -> Chosen:
    """Packed layers on the CPU: lean where the architecture allows it, else the network's own modules.

    Raises InputError as `pack_for_cpu` and `packed_head`.
    """
    require_cpu_bf16(loaded)
    network, reason = loaded.network, why_not_lean(loaded.network.config)
    if head_bits != 16 and why_not_packed(network.get_output_embeddings().in_features, 32):
        head_bits = 16  # and the description says so
    head = packed_head(network, head_bits)
    bits = sorted({layer.bits for _, layer in split_layers(network)})
    codes = f"INT4 kernels of torch ({'-, '.join(map(str, bits))}-bit codes)" if bits else "dense weights"
    words = f"{codes}, bf16 activations, {head_bits}-bit head"
    if reason is None:
        put = _Packing()
        model = lean_model(network, context_tokens=context_tokens, put=put, head=head, release=True)
        decoder, packed = LeanDecoder(model, context_tokens=context_tokens), put.packed
    else:
        packed = pack_for_cpu(loaded)
        if head_bits != 16:
            network.set_output_embeddings(head)
        decoder = NetworkDecoder(network, context_tokens=context_tokens)
    slow = reason and f"no lean decoder: {reason}; the network's own modules run, at a few ms more a token"
    notes = tuple(note for note in (packed.told, slow) if note)
    return Chosen(decoder=decoder, description=words, notes=notes)


def _reference(
    loaded: LoadedModel, device: torch.device, context_tokens: int, notes: tuple[str, ...]
) -> Chosen:
    if loaded.device != device:
        loaded = replace(loaded, network=loaded.network.to(device), device=device)
    dtype = str(loaded.network.get_input_embeddings().weight.dtype).removeprefix("torch.")
    return Chosen(
        decoder=NetworkDecoder(loaded.network, context_tokens=context_tokens),
        description=f"{loaded.computes_on}, {dtype} activations",
        notes=notes,
    )


class _Packing:
    """Packs each layer that it is given, and counts."""

    def __init__(self) -> None:
        self._num_packed = 0
        self._left: dict[str, str] = {}

    def __call__(self, name: str, layer: nn.Module) -> nn.Module:
        put = packed_or_itself(layer)
        if isinstance(put, CpuLinear):
            self._num_packed += 1
        elif isinstance(layer, SplitLinear):
            reason = why_not_packed(layer.in_features, layer.group_size)
            self._left[name] = reason or "it has no packed form"
        return put

    @property
    def packed(self) -> Packed:
        return Packed(num_packed=self._num_packed, left=self._left)
