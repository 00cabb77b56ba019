"""Sizes of a split and how long it took to make, for the scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..load.container import StoredTensors
from ..transform.split_layer import LayerSplit


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


def with_making_seconds(
    facts: Mapping[str, Mapping[str, float]], seconds: Mapping[str, float], seed: int
) -> dict[str, dict[str, float]]:
    """Each arm's facts, and how long its making took: search and split, scales, Ortho part. Where the walk
    that splits all arms at once did not tell them apart, that is not known and not said.

    `seconds` of the run's stages, by their names.
    """
    found = {}
    for arm, of_arm in facts.items():
        found[arm] = {key: value for key, value in of_arm.items() if key != "split_seconds"}
        if "split_seconds" in of_arm:
            fits = (f"seed{seed}-{stage}-{arm}" for stage in ("fit-scales", "restore"))
            found[arm]["making_seconds"] = of_arm["split_seconds"] + sum(
                seconds.get(fit, 0.0) for fit in fits
            )
    return found
