"""Every parameter of a model by name and shape, as transformers 5 instantiates it; nothing is built.

A tied head is the embedding and appears once. Routed experts are fused: one [E, 2 I, D] and one [E, D, I]
tensor a layer. Buffers (rotary frequencies) are not parameters.

Shape suffixes: V vocabulary, D hidden, I intermediate, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

from .families import FAMILIES

if TYPE_CHECKING:
    from .spec import ModelSpec

Part = Literal["embedding", "head", "linear", "expert", "router", "norm", "bias"]
_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


@dataclass(frozen=True)
class TensorShape:
    """One parameter; the gate of a shared expert counts as a router."""

    name: str
    shape: tuple[int, ...]
    part: Part

    @property
    def num_elements(self) -> int:
        return prod(self.shape)


def all_tensors(spec: ModelSpec) -> tuple[TensorShape, ...]:
    """Embedding, layers in order, final norm, head."""
    outer = outer_tensors(spec)
    layers = [tensor for index in range(spec.num_layers) for tensor in layer_tensors(spec, index)]
    return (outer[0], *layers, *outer[1:])


def outer_tensors(spec: ModelSpec) -> tuple[TensorShape, ...]:
    """Those outside the layers, the embedding first."""
    shape_VD = (spec.vocab_size, spec.hidden_size)
    final_norm = f"model.{FAMILIES[spec.architecture].final_norm_name}"
    outer = [
        TensorShape("model.embed_tokens.weight", shape_VD, "embedding"),
        *_norm(spec, final_norm, spec.hidden_size),
    ]
    if not spec.tied_embeddings:
        outer.append(TensorShape("lm_head.weight", shape_VD, "head"))
    if spec.head_bias:
        outer.append(TensorShape("lm_head.bias", (spec.vocab_size,), "bias"))
    return tuple(outer)


def layer_tensors(spec: ModelSpec, index: int) -> tuple[TensorShape, ...]:
    """Those of one layer; every layer has the same."""
    prefix = f"model.layers.{index}"
    norms = (
        tensor
        for name in _NORMS[: spec.norms_per_layer]
        for tensor in _norm(spec, f"{prefix}.{name}", spec.hidden_size)
    )
    mlp = _mixture(spec, prefix) if spec.num_experts else _mlp(spec, f"{prefix}.mlp", spec.intermediate_size)
    return (*_attention(spec, f"{prefix}.self_attn"), *mlp, *norms)


def _attention(spec: ModelSpec, prefix: str) -> Iterator[TensorShape]:
    hidden, query = spec.hidden_size, spec.num_heads * spec.head_dim
    key = spec.num_kv_heads * spec.head_dim
    yield from _linear(f"{prefix}.q_proj", hidden, query, spec.attention_bias)
    yield from _linear(f"{prefix}.k_proj", hidden, key, spec.attention_bias)
    yield from _linear(f"{prefix}.v_proj", hidden, key, spec.attention_bias)
    output_name = FAMILIES[spec.architecture].output_name
    yield from _linear(f"{prefix}.{output_name}", query, hidden, spec.output_bias)
    if spec.qk_norm != "none":
        one_head = spec.qk_norm == "head"
        yield from _norm(spec, f"{prefix}.q_norm", spec.head_dim if one_head else query)
        yield from _norm(spec, f"{prefix}.k_norm", spec.head_dim if one_head else key)


def _mlp(spec: ModelSpec, prefix: str, width: int) -> Iterator[TensorShape]:
    if spec.mlp_kind == "plain":
        yield from _linear(f"{prefix}.fc1", spec.hidden_size, width, spec.mlp_bias)
        yield from _linear(f"{prefix}.fc2", width, spec.hidden_size, spec.mlp_bias)
        return
    yield from _linear(f"{prefix}.gate_proj", spec.hidden_size, width, spec.mlp_bias)
    yield from _linear(f"{prefix}.up_proj", spec.hidden_size, width, spec.mlp_bias)
    yield from _linear(f"{prefix}.down_proj", width, spec.hidden_size, spec.mlp_bias)


def _mixture(spec: ModelSpec, layer: str) -> Iterator[TensorShape]:
    family = FAMILIES[spec.architecture]
    prefix, num_experts = f"{layer}.{family.mixture_name}", spec.num_experts
    hidden, width = spec.hidden_size, spec.expert_intermediate_size
    yield TensorShape(f"{prefix}.{family.router_name}.weight", (num_experts, hidden), "router")
    yield TensorShape(f"{prefix}.experts.gate_up_proj", (num_experts, 2 * width, hidden), "expert")
    yield TensorShape(f"{prefix}.experts.down_proj", (num_experts, hidden, width), "expert")
    if spec.shared_expert_intermediate_size:
        yield from _mlp(spec, f"{prefix}.shared_expert", spec.shared_expert_intermediate_size)
        yield TensorShape(f"{prefix}.shared_expert_gate.weight", (1, hidden), "router")


def _linear(name: str, inputs: int, outputs: int, bias: bool) -> Iterator[TensorShape]:
    yield TensorShape(f"{name}.weight", (outputs, inputs), "linear")
    if bias:
        yield TensorShape(f"{name}.bias", (outputs,), "bias")


def _norm(spec: ModelSpec, name: str, width: int) -> Iterator[TensorShape]:
    """A layer norm has a bias; it belongs to the norm, not to a linear layer."""
    yield TensorShape(f"{name}.weight", (width,), "norm")
    if spec.norm_kind == "layer":
        yield TensorShape(f"{name}.bias", (width,), "norm")
