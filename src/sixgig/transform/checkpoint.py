"""Split layers and dense weights as intermediate files of a run; what is published is load.artifact's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import IntegrityError
from ..files import atomic_path
from ..layers.split_linear import OrthoPart
from ..numerics.pack import pack_codes, unpack_codes
from ..numerics.quantize import Quantized, dequantize
from ..numerics.sparse import SparsePart
from .split_layer import LayerSplit


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Dense weights by layer name."""
    with atomic_path(path) as temporary:
        save_file({name: weight.contiguous() for name, weight in weights.items()}, temporary)


def weight_reader(path: Path, suffix: str = "") -> Callable[[str], Tensor]:
    """layer name -> its tensor, read from `path` when asked for."""

    def read(name: str) -> Tensor:
        # Opened anew and copied out: a mapped file keeps every page that was read in memory.
        with safe_open(path, framework="pt") as handle:
            return handle.get_tensor(name + suffix).clone()

    return read


def save_layers(path: Path, layers: Mapping[str, LayerSplit]) -> None:
    """Split layers, Base packed, Ortho part in fp32 as fitted."""
    tensors: dict[str, Tensor] = {}
    facts: dict[str, dict[str, float | int]] = {}
    for name, layer in layers.items():
        base, ortho = layer.base, layer.ortho
        tensors |= {
            f"{name}.packed": pack_codes(base.codes_OI, base.bits),
            f"{name}.scales": base.scales_OG,
            f"{name}.zeros": base.zeros_OG,
            f"{name}.up": ortho.up_Or,
            f"{name}.down": ortho.down_rI,
        }
        if ortho.sparse is not None:
            tensors |= {
                f"{name}.positions": ortho.sparse.positions_k,
                f"{name}.values": ortho.sparse.values_k,
            }
        facts[name] = {
            "bits": base.bits,
            "group_size": base.group_size,
            "num_in": base.codes_OI.shape[1],
            "codes_changed": layer.codes_changed,
            "removed_norm_share": layer.removed_norm_share,
        }
    with atomic_path(path) as temporary:
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, temporary, metadata={"layers": json.dumps(facts)})


def read_layers(path: Path) -> dict[str, LayerSplit]:
    """The inverse of `save_layers`. Raises IntegrityError for a file of another kind."""
    with safe_open(path, framework="pt") as handle:
        facts = _facts(handle, path)
        names = set(handle.keys())
        return {name: _read_layer(handle.get_tensor, names, name, fact) for name, fact in facts.items()}


def read_bases(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Each layer's name and dequantised Base [O, I] in fp32, one layer in memory at a time."""
    with safe_open(path, framework="pt") as handle:
        for name, fact in _facts(handle, path).items():
            yield name, dequantize(_read_base(handle.get_tensor, name, fact))


def _facts(handle: Any, path: Path) -> dict[str, Any]:
    metadata = handle.metadata() or {}
    if "layers" not in metadata:
        raise IntegrityError("not a file of split layers", where=str(path))
    return json.loads(metadata["layers"])


def _read_base(get: Callable[[str], Tensor], name: str, fact: Mapping[str, Any]) -> Quantized:
    return Quantized(
        codes_OI=unpack_codes(get(f"{name}.packed"), fact["bits"], fact["num_in"]),
        scales_OG=get(f"{name}.scales"),
        zeros_OG=get(f"{name}.zeros"),
        bits=fact["bits"],
        group_size=fact["group_size"],
    )


def _read_layer(get: Callable[[str], Tensor], names: set[str], name: str, fact: dict) -> LayerSplit:
    base = _read_base(get, name, fact)
    sparse = None
    if f"{name}.positions" in names:
        sparse = SparsePart(
            positions_k=get(f"{name}.positions"),
            values_k=get(f"{name}.values"),
            shape=(base.codes_OI.shape[0], base.codes_OI.shape[1]),
        )
    return LayerSplit(
        base=base,
        ortho=OrthoPart(up_Or=get(f"{name}.up"), down_rI=get(f"{name}.down"), sparse=sparse),
        codes_changed=fact["codes_changed"],
        removed_norm_share=fact["removed_norm_share"],
    )
