"""A Llama-like network as the few tensors that decoding reads, its rows stacked where they share an input.

Query, key and value become one linear layer, gate and up another (`layers/stack.py`). Which form a layer
takes then, dense, split or packed, is the caller's choice.

Shapes: D hidden size, V vocabulary, T positions, H head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.stack import stack_linears

LEAN_TYPES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True, kw_only=True)
class LeanLayer:
    """One decoder layer; each linear layer takes and gives [tokens, features]."""

    input_norm_D: Tensor
    query_key_value: nn.Module
    query_norm_H: Tensor | None
    key_norm_H: Tensor | None
    attention_output: nn.Module
    mlp_norm_D: Tensor
    gate_up: nn.Module
    down: nn.Module


@dataclass(frozen=True, kw_only=True)
class LeanModel:
    """A whole model. `sin_TH` has its first half negated, so that rotating is a roll and two products."""

    embedding_VD: Tensor
    layers: list[LeanLayer]
    final_norm_D: Tensor
    head: nn.Module
    cos_TH: Tensor
    sin_TH: Tensor
    num_heads: int
    num_kv_heads: int
    head_size: int
    norm_epsilon: float


def why_not_lean(config: Any) -> str | None:
    """Why a model of this configuration has no lean form; None where it has one."""
    if config.model_type not in LEAN_TYPES:
        return f"the architecture {config.model_type} is not among {', '.join(LEAN_TYPES)}"
    if config.hidden_act not in ("silu", "swish"):
        return f"its activation is {config.hidden_act}, not silu"
    # Mistral's window has no switch beside it; Qwen's configurations drop theirs where it is off.
    windows = {kind for kind in getattr(config, "layer_types", None) or () if kind != "full_attention"}
    if windows or getattr(config, "sliding_window", None) is not None:
        return "its attention looks back through a sliding window"
    if config.rope_parameters["rope_type"] in ("dynamic", "longrope"):
        return "its rotary frequencies change with the length of the text"
    return None


def lean_model(
    network: Any,
    *,
    context_tokens: int,
    put: Callable[[str, nn.Module], nn.Module],
    head: nn.Module,
    release: bool = False,
) -> LeanModel:
    """The lean form of `network`, which must have one (`why_not_lean`).

    `put(name, layer)` is given each stacked layer, named as the first of its parts, and returns what runs in
    its place. With `release` the network gives up each of its layers once it is stacked, so that no more
    than one lies in memory twice, and runs no more itself.
    """
    config, body = network.config, network.model
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cos_TH, sin_TH = _rotations(body, context_tokens)
    layers = []
    for index, layer in enumerate(body.layers):
        layers.append(_lean_layer(layer, f"model.layers.{index}", put))
        if release:
            body.layers[index] = nn.Identity()
    return LeanModel(
        embedding_VD=body.embed_tokens.weight,
        layers=layers,
        final_norm_D=body.norm.weight,
        head=head,
        cos_TH=cos_TH,
        sin_TH=sin_TH,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_size=head_size,
        norm_epsilon=config.rms_norm_eps,
    )


def _lean_layer(layer: Any, name: str, put: Callable[[str, nn.Module], nn.Module]) -> LeanLayer:
    attention, mlp = layer.self_attn, layer.mlp
    q_norm, k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    query_key_value = stack_linears([attention.q_proj, attention.k_proj, attention.v_proj])
    gate_up = stack_linears([mlp.gate_proj, mlp.up_proj])
    return LeanLayer(
        input_norm_D=layer.input_layernorm.weight,
        query_key_value=put(f"{name}.self_attn.q_proj", query_key_value),
        query_norm_H=None if q_norm is None else q_norm.weight,
        key_norm_H=None if k_norm is None else k_norm.weight,
        attention_output=put(f"{name}.self_attn.o_proj", attention.o_proj),
        mlp_norm_D=layer.post_attention_layernorm.weight,
        gate_up=put(f"{name}.mlp.gate_proj", gate_up),
        down=put(f"{name}.mlp.down_proj", mlp.down_proj),
    )


@torch.no_grad()
def _rotations(body: Any, context_tokens: int) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines of all positions [T, H], as the network's own module gives them."""
    weight = body.embed_tokens.weight
    positions_1T = torch.arange(context_tokens, device=weight.device)[None]
    cos_1TH, sin_1TH = body.rotary_emb(weight[:1], positions_1T)
    half = sin_1TH.shape[-1] // 2
    sign_H = torch.ones(2 * half, dtype=weight.dtype, device=weight.device)
    sign_H[:half] = -1
    return cos_1TH[0], sin_1TH[0] * sign_H
