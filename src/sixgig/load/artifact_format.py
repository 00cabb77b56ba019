"""How a split is laid out on disk: names, schemas, and what its lists of layers may say.

    DIR/manifest.json           sieve, claim, data seen, sizes, SHA-256 of every file; written last
    DIR/config.json             of a method that transformers knows after `import sixgig.integrations`
    DIR/split.safetensors.index.json    which file of base/ holds which tensor. Transformers alone looks for
                                no file of that name, so it refuses DIR instead of running random weights
    DIR/base/                   a compressed-tensors model folder: config.json, model.safetensors (or shards
                                with model.safetensors.index.json), tokenizer; see `packed_base`
    DIR/base/base.json          each layer's shape, and the list of base/'s files
    DIR/ortho/                  a PEFT adapter and sparse.safetensors, or 8-bit factors; see `ortho_adapter`
    DIR/ortho/ortho.json        the digest of base.json, each layer's rank, and the list of ortho/'s files

base/ and ortho/ each carry their own list, so that each can be published and checked alone; base.json's
digest stands for the whole Base.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, IntegrityError
from ..numerics.bits import SUPPORTED_BITS
from .ortho_adapter import OrthoLayer
from .packed_base import BaseLayer

MANIFEST, MANIFEST_SCHEMA = "manifest.json", "sixgig.split/2"
CONFIG, SPLIT_INDEX, QUANT_METHOD = "config.json", "split.safetensors.index.json", "sixgig"
BASE, BASE_LIST, BASE_SCHEMA = "base", "base.json", "sixgig.base/2"
ORTHO, ORTHO_LIST, ORTHO_SCHEMA = "ortho", "ortho.json", "sixgig.ortho/2"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
FACTORS, SPARSE = "factors.safetensors", "sparse.safetensors"

# What alpha = 1 restores: U V alone, or U V + S. "exact" would be all that splitting took away.
FIDELITIES = ("exact", "compact", "lora")

_MAX_SIDE = 2**24  # far above any layer; keeps a hostile size from being allocated


def fidelities(layers: Mapping[str, OrthoLayer]) -> tuple[str, ...]:
    """Those that an Ortho part of these layers can be opened at, the best first."""
    has_factors = any(layer.rank for layer in layers.values())
    has_sparse = any(layer.num_kept is not None for layer in layers.values())
    return (*(("compact",) if has_sparse else ()), *(("lora",) if has_factors else ()))


def choose_fidelity(wanted: str | None, layers: Mapping[str, OrthoLayer], where: Path) -> str:
    """`wanted`, or the best there is. Raises InputError for one that these layers do not hold."""
    offered = fidelities(layers)
    if wanted is None:
        return offered[0] if offered else "lora"
    if wanted in offered:
        return wanted
    raise InputError(
        "the Ortho part does not hold this fidelity",
        expected=f"one of {', '.join(offered) or 'none: it is empty'}",
        received=repr(wanted),
        where=str(where),
    )


def base_layers_from_json(content: Mapping[str, Any], where: Path) -> dict[str, BaseLayer]:
    """The layers that base.json lists. Raises IntegrityError for what is not a layer's form."""
    layers = {}
    for name, entry in _layers(content, where).items():
        sides = {key: _integer(entry, key, 1, _MAX_SIDE, name, where) for key in ("num_out", "num_in")}
        bits = _integer(entry, "bits", min(SUPPORTED_BITS), max(SUPPORTED_BITS), name, where)
        group_size = _integer(entry, "group_size", 1, _MAX_SIDE, name, where)
        if bits not in SUPPORTED_BITS:
            raise _bad_layer(name, f"{bits} bits", where)
        layers[name] = BaseLayer(**sides, bits=bits, group_size=group_size)
    return layers


def ortho_layers_from_json(content: Mapping[str, Any], where: Path) -> dict[str, OrthoLayer]:
    """The layers that ortho.json lists. Raises IntegrityError for what is not a layer's form."""
    layers = {}
    for name, entry in _layers(content, where).items():
        num_kept = entry.get("num_kept")
        if num_kept is not None:
            num_kept = _integer(entry, "num_kept", 0, 2**31 - 1, name, where)
        layers[name] = OrthoLayer(rank=_integer(entry, "rank", 0, _MAX_SIDE, name, where), num_kept=num_kept)
    return layers


def _layers(content: Mapping[str, Any], where: Path) -> dict[str, dict[str, Any]]:
    layers = content.get("layers")
    if not isinstance(layers, dict) or not all(isinstance(entry, dict) for entry in layers.values()):
        raise IntegrityError("the list of layers is damaged", where=str(where))
    return layers


def _integer(entry: Mapping[str, Any], key: str, low: int, high: int, name: str, where: Path) -> int:
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _bad_layer(name, f"{key} is {value!r}"[:100], where)
    return value


def _bad_layer(name: str, received: str, where: Path) -> IntegrityError:
    return IntegrityError("a layer's form is not possible", received=f"{name}: {received}", where=str(where))
