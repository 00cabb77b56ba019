"""Writes ortho/ layer by layer: a PEFT adapter (or 8-bit factors), S, and the list that binds both to a Base.

Its parts wait in memory until `finish`: at rank 16 they take a hundredth of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import __version__
from ..errors import InputError
from ..files import sha256_file, write_json
from ..layers.split_linear import OrthoPart
from .artifact_format import (
    ADAPTER,
    ADAPTER_CONFIG,
    BASE_LIST,
    FACTORS,
    ORTHO_LIST,
    ORTHO_SCHEMA,
    SPARSE,
    fidelities,
)
from .container import write_listing
from .ortho_adapter import (
    FACTOR_BITS,
    OrthoLayer,
    adapter_config,
    encode_factors,
    encode_sparse,
    ortho_layer,
)
from .shards import save_tensors


class OrthoWriter:
    """`add` every split layer's part once, then `finish`, when base/ is whole.

    Raises InputError for an unknown width, NumericalError for what 16 bits cannot hold.
    """

    def __init__(self, folder: Path, *, factor_bits: int) -> None:
        require_factor_bits(factor_bits)
        self._folder, self._factor_bits = folder, factor_bits
        self._factors: dict[str, Tensor] = {}
        self._sparse: dict[str, Tensor] = {}
        self._layers: dict[str, OrthoLayer] = {}

    def add(self, name: str, ortho: OrthoPart) -> None:
        """Takes one layer's part, in its stored form."""
        assert name not in self._layers, f"{name} comes twice"
        self._factors |= encode_factors(name, ortho, self._factor_bits)
        if ortho.sparse is not None:
            self._sparse |= encode_sparse(name, ortho.sparse)
        self._layers[name] = ortho_layer(ortho)

    def finish(self, base: Path, private_facts: Mapping[str, Any]) -> tuple[str, ...]:
        """Writes everything and names the fidelities; `private_facts` are kept in ortho.json alone."""
        self._folder.mkdir(mode=0o700)  # it holds what was private
        if self._factors:
            name = ADAPTER if self._factor_bits == 16 else FACTORS
            save_tensors(self._folder / name, self._factors)
            if self._factor_bits == 16:
                write_json(self._folder / ADAPTER_CONFIG, adapter_config(self._layers))
        if self._sparse:
            save_tensors(self._folder / SPARSE, self._sparse)
        facts = {
            "sixgig_version": __version__,
            "base_sha256": sha256_file(base / BASE_LIST),
            "factor_bits": self._factor_bits,
            "fidelities": list(fidelities(self._layers)),
            "layers": {name: asdict(layer) for name, layer in self._layers.items()},
            "private": dict(private_facts),
        }
        write_listing(self._folder, ORTHO_LIST, ORTHO_SCHEMA, facts)
        return fidelities(self._layers)


def require_factor_bits(factor_bits: int) -> None:
    """Raises InputError for a width that ortho/ cannot be stored in."""
    if factor_bits not in FACTOR_BITS:
        raise InputError(
            "unsupported factor width", expected=f"one of {FACTOR_BITS}", received=str(factor_bits)
        )
