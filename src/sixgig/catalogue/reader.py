"""A configuration (config.json) becomes a `ModelSpec`, or is refused with the field that stands in the way.

One reader for the catalogue's own data, a hub repository and a local folder. Only architectures whose layers
are described in `families.py` are accepted, and nothing that a configuration may name is ever executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from ..errors import InputError, UnknownNameError
from .families import FAMILIES, Family
from .fields import Fields
from .spec import HubSource, ModelSpec, WheelSource

SUPPORTED_ARCHITECTURES = tuple(FAMILIES)
_DTYPES = ("bfloat16", "float16", "float32")
_SLIDING, _FULL = "sliding_attention", "full_attention"
_GEMMA3_PATTERN = 6  # Gemma3TextConfig's default: every sixth layer looks back without bound


def spec_from_config(
    config: Any,
    *,
    name: str,
    where: str,
    licence: str = "unknown",
    gated: bool | None = None,
    chat_template: str | None = None,
    sources: tuple[WheelSource | HubSource, ...] = (),
    packed: bool = False,
) -> ModelSpec:
    """The shapes that `config`, as read from `where`, gives its architecture's layers.

    A quantization_config is refused, since its weights have other shapes, unless `packed` says that the
    shapes before packing are asked for.

    Raises `InputError` for a missing, wrong or unsupported field, `UnknownNameError` for an architecture.
    """
    if not isinstance(config, Mapping):
        raise InputError("not a model configuration", expected="a JSON object", where=where)
    fields = Fields(config=config, where=where)
    architecture = _architecture(fields)
    family = FAMILIES[architecture]
    _refuse_what_is_not_modelled(fields, family, packed)
    num_layers = fields.size("num_hidden_layers")
    window, num_sliding = _windows(fields, family, num_layers)
    return ModelSpec(
        name=name,
        architecture=architecture,
        num_layers=num_layers,
        hidden_size=fields.size("hidden_size"),
        intermediate_size=fields.size("intermediate_size"),
        **_heads(fields, family),
        vocab_size=fields.size("vocab_size"),
        tied_embeddings=fields.flag("tie_word_embeddings", family.tied_by_default),
        context=fields.size("max_position_embeddings"),
        licence=licence,
        gated=gated,
        sources=sources,
        published_dtype=_dtype(fields),
        chat_template=chat_template,
        mlp_kind=family.mlp_kind,
        norm_kind=family.norm_kind,
        parallel_block=family.parallel_block,
        qk_norm=family.qk_norm,
        norms_per_layer=family.norms_per_layer,
        **_biases(fields, family),
        sliding_window=window,
        num_sliding_layers=num_sliding,
        rotary_share=_rotary_share(fields, family),
        **_experts(fields, family),
    )


def _architecture(fields: Fields) -> str:
    named = fields.get("architectures")
    name = named[0] if isinstance(named, list) and named else None
    if not isinstance(name, str):
        raise InputError(
            "the configuration names no architecture",
            expected=f"architectures: one of {', '.join(SUPPORTED_ARCHITECTURES)}",
            where=fields.where,
        )
    if name not in FAMILIES:
        raise UnknownNameError("architecture", name, SUPPORTED_ARCHITECTURES, where=fields.where)
    expected = FAMILIES[name].model_type
    if fields.get("model_type") not in (None, expected):
        raise fields.fault("model_type", f"contradicts the architecture {name}", expected)
    return name


def _refuse_what_is_not_modelled(fields: Fields, family: Family, packed: bool) -> None:
    if fields.get("auto_map"):
        raise InputError(
            "the configuration asks for code of its own (auto_map), and a model folder's code is never run",
            where=fields.where,
            todo="use a model whose architecture transformers itself has",
        )
    if not packed:
        fields.only("quantization_config", because="packed weights have other shapes than their layers")
    fields.only("per_layer_config", {}, because="layers of different shapes are not modelled")
    if family.norm_kind == "layer":
        fields.only("qk_layernorm", False, because="layer norms on q and k are not modelled")
    if family.num_experts_keys:
        fields.only("decoder_sparse_step", 1, because="dense layers among mixtures are not modelled")
        fields.only("mlp_only_layers", [], because="dense layers among mixtures are not modelled")
        if family.windows == "never":
            fields.only("use_sliding_window", False, because="windows in this mixture are not modelled")
    if family.windows == "pattern":
        fields.only("use_bidirectional_attention", False, because="it changes the window's width")


class _Heads(TypedDict):
    num_heads: int
    num_kv_heads: int
    head_dim: int


def _heads(fields: Fields, family: Family) -> _Heads:
    hidden, num_heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    has_key = "num_key_value_heads" in fields.config
    num_kv_heads = fields.size(
        "num_key_value_heads", num_heads if has_key or family.optional_kv_heads else None
    )
    if num_heads % num_kv_heads:
        raise fields.fault("num_key_value_heads", "does not divide the heads", f"a divisor of {num_heads}")
    if fields.get("head_dim") is None and not family.own_head_dim:
        if hidden % num_heads:
            raise fields.fault("num_attention_heads", "does not divide hidden_size", f"a divisor of {hidden}")
        return {"num_heads": num_heads, "num_kv_heads": num_kv_heads, "head_dim": hidden // num_heads}
    head_dim = fields.size("head_dim")
    if family.qk_norm == "full" and head_dim * num_heads != hidden:
        raise fields.fault("head_dim", "does not go with norms over all heads", f"{hidden // num_heads}")
    return {"num_heads": num_heads, "num_kv_heads": num_kv_heads, "head_dim": head_dim}


class _Biases(TypedDict):
    attention_bias: bool
    output_bias: bool
    mlp_bias: bool
    head_bias: bool


def _biases(fields: Fields, family: Family) -> _Biases:
    everywhere = family.biases == "all"
    asked = family.biases == "attention_bias" and fields.flag("attention_bias")
    qkv = family.biases == "qkv" or (family.biases == "qkv_bias" and fields.flag("qkv_bias", True))
    return {
        "attention_bias": everywhere or asked or qkv,
        "output_bias": everywhere or asked,
        "mlp_bias": everywhere or (family.mlp_bias_key and fields.flag("mlp_bias")),
        "head_bias": everywhere,
    }


class _Experts(TypedDict):
    num_experts: int
    num_experts_per_token: int
    expert_intermediate_size: int
    shared_expert_intermediate_size: int


def _experts(fields: Fields, family: Family) -> _Experts:
    if not family.num_experts_keys:
        return _Experts(
            num_experts=0,
            num_experts_per_token=0,
            expert_intermediate_size=0,
            shared_expert_intermediate_size=0,
        )
    num_experts, num_active = _num_experts(fields, family), fields.size("num_experts_per_tok")
    if num_active > num_experts:
        raise fields.fault("num_experts_per_tok", "exceeds the experts there are", f"at most {num_experts}")
    return {
        "num_experts": num_experts,
        "num_experts_per_token": num_active,
        "expert_intermediate_size": fields.size(family.expert_size_key),
        "shared_expert_intermediate_size": (
            fields.size("shared_expert_intermediate_size") if family.shared_expert else 0
        ),
    }


def _num_experts(fields: Fields, family: Family) -> int:
    present = [key for key in family.num_experts_keys if fields.get(key) is not None]
    counts = {fields.size(key) for key in present or family.num_experts_keys}
    if len(counts) > 1:
        raise fields.fault(present[1], f"contradicts {present[0]}", str(fields.get(present[0])))
    return counts.pop()


def _windows(fields: Fields, family: Family, num_layers: int) -> tuple[int | None, int]:
    """The window and how many layers have it; (None, 0) where every layer looks back without bound."""
    types = _layer_types(fields, num_layers)
    if family.windows == "never":
        expected = 0
    elif family.windows == "all":
        if "sliding_window" not in fields.config and not family.num_experts_keys:
            raise fields.fault("sliding_window", "is missing", "a positive integer or null")
        expected = 0 if fields.get("sliding_window") is None else num_layers
    elif family.windows == "switched" and not fields.flag("use_sliding_window"):
        expected = 0
    elif types is not None:
        expected = types.count(_SLIDING)
    elif family.windows == "switched":
        expected = max(0, num_layers - fields.size("max_window_layers"))
    else:
        expected = num_layers - num_layers // fields.size("sliding_window_pattern", _GEMMA3_PATTERN)
    if types is not None and types.count(_SLIDING) != expected:
        raise fields.fault("layer_types", "contradicts the rest", f"{expected} layers of {_SLIDING}")
    return (fields.size("sliding_window"), expected) if expected else (None, 0)


def _layer_types(fields: Fields, num_layers: int) -> list[str] | None:
    types = fields.get("layer_types")
    if types is None:
        return None
    known = isinstance(types, list) and all(one in (_SLIDING, _FULL) for one in types)
    if not known or len(types) != num_layers:
        raise fields.fault("layer_types", "is not supported", f"{num_layers} of {_FULL} or {_SLIDING}")
    return types


def _rotary_share(fields: Fields, family: Family) -> float:
    """Published as a field of its own; transformers 5 writes it into rope_parameters."""
    nested = fields.get("rope_parameters")
    if isinstance(nested, Mapping) and "partial_rotary_factor" in nested:
        fields = Fields(config=nested, where=f"{fields.where}, rope_parameters")
    share = fields.share("partial_rotary_factor", family.rotary_share)
    if family.rotary_share == 1 and share != 1:
        raise fields.fault("partial_rotary_factor", "is not supported in this architecture", "1 or null")
    return share


def _dtype(fields: Fields) -> str:
    """`torch_dtype`, called `dtype` since transformers 5; "unknown" where neither is there."""
    key = "dtype" if fields.get("dtype") is not None else "torch_dtype"
    return fields.word(key, _DTYPES, "unknown")
