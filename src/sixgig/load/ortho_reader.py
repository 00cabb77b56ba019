"""Reads ortho/: which Base it belongs to, then digests, then shapes, then numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import IntegrityError
from ..files import read_json, sha256_file
from ..layers.split_linear import OrthoPart
from .artifact_format import (
    ADAPTER,
    ADAPTER_CONFIG,
    BASE_LIST,
    FACTORS,
    ORTHO_LIST,
    ORTHO_SCHEMA,
    SPARSE,
    choose_fidelity,
    ortho_layers_from_json,
)
from .container import TensorFile, entries_of, read_schema, verify_listed
from .ortho_adapter import FACTOR_BITS, OrthoLayer, adapter_config, decode_factors, decode_sparse
from .packed_base import BaseLayer


def read_ortho(
    folder: Path, base_folder: Path, shapes: Mapping[str, BaseLayer], *, fidelity: str | None = None
) -> dict[str, OrthoPart]:
    """The Ortho part of the Base in `base_folder`, whose layers have these `shapes`; fp32, on the CPU.

    Raises IntegrityError where it is another Base's, damaged or of another form, NumericalError for NaN or
    Inf, InputError for a fidelity that it does not hold.
    """
    listing = read_schema(folder, ORTHO_LIST, ORTHO_SCHEMA)
    require_pair(base_folder, folder)
    verify_listed(folder, ORTHO_LIST, entries_of(listing, folder / ORTHO_LIST))
    where, factor_bits = folder / ORTHO_LIST, listing.get("factor_bits")
    if factor_bits not in FACTOR_BITS:
        raise IntegrityError("unknown factor width", received=f"{factor_bits!r}"[:100], where=str(where))
    layers = ortho_layers_from_json(listing, where)
    if layers.keys() != shapes.keys():
        raise IntegrityError("the Ortho part has other layers than the Base", where=str(where))
    takes_sparse = choose_fidelity(fidelity, layers, where) == "compact"
    factors, sparse = _ortho_files(folder, listing, layers, shapes, factor_bits)
    parts = {}
    for name, layer in layers.items():
        has_sparse = takes_sparse and sparse is not None and layer.num_kept is not None
        get = factors.get if factors is not None else _no_tensor
        up_Or, down_rI = decode_factors(name, layer, shapes[name], factor_bits, get)
        kept = decode_sparse(name, shapes[name], sparse.get) if has_sparse and sparse else None
        parts[name] = OrthoPart(up_Or=up_Or, down_rI=down_rI, sparse=kept)
    return parts


def require_pair(base_folder: Path, ortho_folder: Path) -> None:
    """Raises IntegrityError where the Ortho part was not made for this Base."""
    named = read_schema(ortho_folder, ORTHO_LIST, ORTHO_SCHEMA).get("base_sha256")
    base_sha256 = sha256_file(base_folder / BASE_LIST)
    if named != base_sha256:
        raise IntegrityError(
            "this Ortho part belongs to another Base",
            expected=f"the Base {named!r}"[:100],
            received=f"the Base {base_sha256}",
            where=str(ortho_folder),
            todo="open it with the Base that it was split from",
        )


def _ortho_files(
    folder: Path,
    listing: dict[str, Any],
    layers: Mapping[str, OrthoLayer],
    shapes: Mapping[str, BaseLayer],
    factor_bits: int,
) -> tuple[TensorFile | None, TensorFile | None]:
    """The files of the factors and of S, every tensor of its form; None for what no layer has."""
    factor_specs: dict[str, Any] = {}
    sparse_specs: dict[str, Any] = {}
    for name, layer in layers.items():
        factor_specs |= layer.factor_specs(name, shapes[name], factor_bits)
        sparse_specs |= layer.sparse_specs(name, shapes[name])
    if factor_specs and factor_bits == 16:
        _check_adapter_config(folder, listing, layers)
    files = []
    for name, specs in ((ADAPTER if factor_bits == 16 else FACTORS, factor_specs), (SPARSE, sparse_specs)):
        file = TensorFile(_required(folder, name, listing)) if specs else None
        if file is not None:
            file.require(specs)
        files.append(file)
    return files[0], files[1]


def _check_adapter_config(folder: Path, listing: dict[str, Any], layers: Mapping[str, OrthoLayer]) -> None:
    # PEFT goes by this one: another rank or scale there would make another alpha = 1.
    path = _required(folder, ADAPTER_CONFIG, listing)
    if read_json(path, max_bytes=2**24) != adapter_config(layers):
        raise IntegrityError(f"{ADAPTER_CONFIG} and {ORTHO_LIST} differ", where=str(path))


def _no_tensor(name: str) -> torch.Tensor:
    raise AssertionError(f"a layer without a rank asks for {name}")


def _required(folder: Path, name: str, listing: dict[str, Any]) -> Path:
    if name not in listing["files"]:
        raise IntegrityError(f"missing file: {name}", where=str(folder), todo="get the whole folder again")
    return folder / name
