"""Whether the fused GPU decoder can run a model, and making it. Triton is imported only where it does."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from ..layers.split_linear import split_layers
from ..load.loaded import LoadedModel
from ..numerics.kernels.layout import KERNEL_BITS, KERNEL_GROUPS
from .decoder import Decoder
from .fused_model import fused_model, why_unknown

_EMBEDDING_SHARE = 0.05  # of a card's memory; a larger embedding stays with the CPU, a row a token comes over
_LEAST_CAPABILITY = (8, 0)  # bf16 on the matrix units


def why_not_fused(network: Any, device: torch.device) -> str | None:
    """What keeps `network` from the fused decoder on `device`; None where nothing does."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if device.index not in (None, torch.cuda.current_device()):
        return f"{device} is not the current device, where kernels are launched"
    capability = torch.cuda.get_device_capability(device)
    if capability < _LEAST_CAPABILITY:
        return f"the GPU's compute capability is {capability[0]}.{capability[1]}, and the kernels need 8.0"
    for name, layer in split_layers(network):
        if layer.bits not in KERNEL_BITS or layer.group_size not in KERNEL_GROUPS:
            return (
                f"{name} has {layer.bits} bits in groups of {layer.group_size}, which the kernels do not read"
            )
    return why_unknown(network)


def fused_decoder(
    loaded: LoadedModel, device: torch.device, *, context_tokens: int, head_bits: int
) -> tuple[Decoder, str]:
    """The decoder of a model that `why_not_fused` has nothing against, and what it is in one line.

    Takes `loaded` over: its layers are let go one by one as they are moved.
    """
    from .fused_decoder import FusedDecoder

    bits = sorted({layer.bits for _, layer in split_layers(loaded.network)})
    on_cpu = _embedding_share(loaded, device) > _EMBEDDING_SHARE
    model = fused_model(loaded, device=device, head_bits=head_bits, embedding_on_cpu=on_cpu, release=True)
    weights = f"INT{'/'.join(map(str, bits))}" if bits else "dense"
    words = f"fused kernels in a CUDA graph ({weights} weights), bf16 activations, {head_bits}-bit head"
    decoder = FusedDecoder(model, context_tokens=context_tokens)
    return decoder, words + (", embedding on the CPU" if on_cpu else "")


def _embedding_share(loaded: LoadedModel, device: torch.device) -> float:
    table = loaded.network.get_input_embeddings().weight
    return 2 * table.numel() / torch.cuda.get_device_properties(device).total_memory
