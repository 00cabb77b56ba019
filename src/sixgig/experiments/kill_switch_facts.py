"""Sizes of a split, for the scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..load.container import StoredTensors
from ..transform.split import LayerSplit


def base_facts(layers: Mapping[str, LayerSplit], bias_bytes: int = 0) -> dict[str, float]:
    """Size of the Base with its layers' biases, and the share of its codes that the sieve changed."""
    num_weights = sum(layer.base.codes_OI.numel() for layer in layers.values())
    changed = sum(layer.codes_changed * layer.base.codes_OI.numel() for layer in layers.values())
    return {
        "num_linear_weights": num_weights,
        "codes_changed": changed / num_weights,
        "base_bytes": sum(layer.base.storage_bits for layer in layers.values()) // 8 + bias_bytes,
    }


def stored_bias_bytes(tensors: StoredTensors, layer_names: Iterable[str]) -> int:
    """What these layers' biases take in the model's files, and so in a Base, which has copies."""
    biases = (f"{name}.bias" for name in layer_names)
    return sum(tensors.num_bytes(bias) for bias in biases if bias in tensors.names)


def ortho_facts(layers: Mapping[str, LayerSplit], factor_bits: int) -> dict[str, float]:
    """Size of the Ortho part, in bytes and in bits per weight of all linear layers."""
    num_weights = sum(layer.base.codes_OI.numel() for layer in layers.values())
    bits = sum(layer.ortho.storage_bits(factor_bits) for layer in layers.values())
    return {"ortho_bytes": bits // 8, "ortho_bits_per_weight": bits / num_weights}
