"""What each architecture of transformers fixes about its layers, whatever a configuration says.

Read off the modules in transformers 5 (`models/<model_type>/modeling_<model_type>.py` and the defaults in
`configuration_<model_type>.py`); tests/unit/test_catalogue_shapes.py builds each one and compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MlpKind = Literal["gated", "plain"]
NormKind = Literal["rms", "layer"]
QkNorm = Literal["none", "head", "full"]
# Who decides on biases: nobody has one; the key attention_bias for q, k, v and o; q, k, v always have them;
# the key qkv_bias for q, k, v; every linear layer and the head always has one.
Biases = Literal["none", "attention_bias", "qkv", "qkv_bias", "all"]
# Which layers look back a bounded number of tokens: none; all where sliding_window is set; those that
# layer_types or max_window_layers name where use_sliding_window is set; all but every sixth, or layer_types.
Windows = Literal["never", "all", "switched", "pattern"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture. `num_experts_keys` names the keys that count its experts; none: a dense model.

    `optional_kv_heads`: without num_key_value_heads there are as many as heads; elsewhere the class has a
    default of its own, which is not taken on trust, and the key must be there. `own_head_dim`: the same for
    head_dim, which need not be hidden / heads.
    """

    model_type: str
    mlp_kind: MlpKind = "gated"
    norm_kind: NormKind = "rms"
    parallel_block: bool = False
    qk_norm: QkNorm = "none"
    norms_per_layer: int = 2
    biases: Biases = "none"
    mlp_bias_key: bool = False
    windows: Windows = "never"
    tied_by_default: bool = False
    optional_kv_heads: bool = False
    own_head_dim: bool = False
    rotary_share: float = 1.0
    num_experts_keys: tuple[str, ...] = ()
    expert_size_key: str = "intermediate_size"
    shared_expert: bool = False
    output_name: str = "o_proj"
    mixture_name: str = "mlp"
    router_name: str = "gate"
    final_norm_name: str = "norm"


_EITHER = ("num_experts", "num_local_experts")  # these classes take one for the other

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family(
        model_type="llama", biases="attention_bias", mlp_bias_key=True, optional_kv_heads=True
    ),
    "MistralForCausalLM": Family(model_type="mistral", windows="all"),
    "Qwen2ForCausalLM": Family(model_type="qwen2", biases="qkv", windows="switched"),
    "Qwen3ForCausalLM": Family(
        model_type="qwen3", biases="attention_bias", qk_norm="head", windows="switched", own_head_dim=True
    ),
    "PhiForCausalLM": Family(
        model_type="phi",
        mlp_kind="plain",
        norm_kind="layer",
        parallel_block=True,
        norms_per_layer=1,
        biases="all",
        optional_kv_heads=True,
        rotary_share=0.5,
        output_name="dense",
        final_norm_name="final_layernorm",
    ),
    "Gemma3ForCausalLM": Family(
        model_type="gemma3_text",
        norms_per_layer=4,
        qk_norm="head",
        biases="attention_bias",
        windows="pattern",
        tied_by_default=True,
        own_head_dim=True,
    ),
    "Qwen2MoeForCausalLM": Family(
        model_type="qwen2_moe",
        biases="qkv_bias",
        num_experts_keys=("num_experts",),
        expert_size_key="moe_intermediate_size",
        shared_expert=True,
    ),
    "Qwen3MoeForCausalLM": Family(
        model_type="qwen3_moe",
        biases="attention_bias",
        qk_norm="head",
        own_head_dim=True,
        num_experts_keys=_EITHER,
        expert_size_key="moe_intermediate_size",
    ),
    "MixtralForCausalLM": Family(model_type="mixtral", windows="all", num_experts_keys=_EITHER),
    "OlmoeForCausalLM": Family(
        model_type="olmoe",
        biases="attention_bias",
        qk_norm="full",
        optional_kv_heads=True,
        num_experts_keys=_EITHER,
    ),
    "GraniteMoeForCausalLM": Family(
        model_type="granitemoe",
        biases="attention_bias",
        optional_kv_heads=True,
        num_experts_keys=("num_local_experts",),
        mixture_name="block_sparse_moe",
        router_name="router",
    ),
}
