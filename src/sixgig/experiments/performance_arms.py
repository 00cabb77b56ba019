"""What the performance experiment times: the model in each form, behind the one interface of a decoder.

This file alone knows how a form is built. All run in the same loop: on a CPU the lean decoder, whose split
layers compute on torch's INT4 kernels; on a GPU the fused decoder. Where a model has neither, all run in
transformers' own network, and the result says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..layers.cpu_linear import why_not_packed
from ..layers.split_linear import SplitLinear, split_layers
from ..load.loaded import LoadedModel, load
from ..runtime.decoder import Decoder
from ..runtime.make_decoder import same_loop
from ..transform.network import install_split
from ..transform.split import LayerSplit

FULL, SPLIT = "fp16", "split"
DTYPE = torch.bfloat16
HEAD_BITS = 8  # of the arms with a packed Base; full precision has a head of 16 bits


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """`weight_bytes` must be read for every token, `cache_bytes` beside them for every token before it;
    `held_bytes` is what the tensors hold, cache included."""

    weight_bytes: int
    cache_bytes: int
    held_bytes: int


@dataclass(frozen=True, kw_only=True)
class SpeedArm:
    """One form at one setting of the switch (None: it has none)."""

    arm: str
    alpha: float | None
    decoder: Decoder
    sizes: Sizes

    @property
    def name(self) -> str:
        return self.arm if self.alpha is None else f"{self.arm}-alpha{self.alpha:g}"

    def turn(self) -> None:
        if self.alpha is not None:
            self.decoder.set_alpha(self.alpha)


@dataclass(frozen=True, kw_only=True)
class Arms:
    """All forms; by arm what it runs on, and what a missing fast path costs."""

    arms: list[SpeedArm]
    forms: dict[str, str]
    notes: list[str]


def build_arms(
    folder: Path,
    layers: Mapping[str, LayerSplit],
    *,
    plain: str,
    device: torch.device,
    context_tokens: int,
) -> Arms:
    """Full precision, the rounded model `plain` without an Ortho part in memory, and the split at 0 and at 1.

    Each has weights and a cache of its own, but the split, whose two settings share them.
    """
    # They wait on the CPU and go to a GPU layer by layer, each in its last form.
    whole, rounded, split = (load(folder, dtype=DTYPE) for _ in range(3))
    install_split(rounded, layers, with_ortho=False)
    install_split(split, layers, with_ortho=True)
    forms = [(FULL, None, whole), (plain, None, rounded), (SPLIT, 0.0, split), (SPLIT, 1.0, split)]
    # Before a decoder has the networks: it puts other modules in the layers' place.
    sizes = [sizes_of(loaded, alpha or 0.0, context_tokens, device) for _, alpha, loaded in forms]
    bits = {id(whole): 16, id(rounded): HEAD_BITS, id(split): HEAD_BITS}
    chosen = {
        id(loaded): same_loop(
            loaded, context_tokens=context_tokens, head_bits=bits[id(loaded)], device=device
        )
        for loaded in (whole, rounded, split)
    }
    return Arms(
        arms=[
            SpeedArm(arm=arm, alpha=alpha, decoder=chosen[id(loaded)].decoder, sizes=size)
            for (arm, alpha, loaded), size in zip(forms, sizes, strict=True)
        ],
        forms={arm: chosen[id(loaded)].description for arm, _, loaded in forms},
        notes=list(dict.fromkeys(note for one in chosen.values() for note in one.notes)),
    )


def sizes_of(loaded: LoadedModel, alpha: float, context_tokens: int, device: torch.device) -> Sizes:
    """One token needs layers, norms and head whole, and one row of the embedding."""
    network, config = loaded.network, loaded.network.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * DTYPE.itemsize
    layers = [layer for _, layer in split_layers(network)]
    embedding, head = network.get_input_embeddings().weight, network.get_output_embeddings().weight
    dense = sum(parameter.numel() for parameter in network.parameters()) * DTYPE.itemsize
    table = embedding.numel() * DTYPE.itemsize
    rest = dense - table - (0 if loaded.is_tied else head.numel() * DTYPE.itemsize)
    packed_head = int(head.numel() * (1 + 4 / 32))  # codes, and scale with zero point for each 32
    head_bytes = packed_head if layers else head.numel() * DTYPE.itemsize
    row = embedding.shape[1] * DTYPE.itemsize
    own_head = 0 if loaded.is_tied and not layers else head_bytes
    return Sizes(
        weight_bytes=rest + head_bytes + row + sum(layer_bytes(one, alpha, device) for one in layers),
        cache_bytes=cache_bytes,
        held_bytes=rest
        + table
        + own_head
        + sum(layer_bytes(one, 1.0, device) for one in layers)
        + cache_bytes * context_tokens,
    )


def layer_bytes(layer: SplitLinear, alpha: float, device: torch.device) -> int:
    """What one split layer reads: packed codes with a scale and a zero point (4 bytes) a group, and at alpha
    other than 0 its Ortho part. A layer that the CPU's kernel does not take is read dense."""
    num_weights = layer.in_features * layer.out_features
    on_gpu = device.type == "cuda"
    if not on_gpu and why_not_packed(layer.in_features, layer.group_size) is not None:
        base_bytes = num_weights * DTYPE.itemsize
    else:
        stored_bits = layer.bits if on_gpu or layer.bits == 8 else 4  # the CPU's kernel has 4 bits alone
        num_groups = layer.out_features * -(-layer.in_features // layer.group_size)
        base_bytes = num_weights * stored_bits // 8 + 4 * num_groups
    if layer.ortho is None or alpha == 0.0:
        return base_bytes
    factor_bytes, entry_bytes = (2, 4) if on_gpu else (4, 8)
    factors = layer.ortho.up_Or.numel() + layer.ortho.down_rI.numel()
    num_kept = 0 if layer.ortho.sparse is None else layer.ortho.sparse.positions_k.numel()
    return base_bytes + factors * factor_bytes + num_kept * entry_bytes
