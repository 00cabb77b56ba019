"""How a split is laid out on disk: names, schemas, and each layer's tensors there and back.

    DIR/manifest.json           sieve, claim, data seen, sizes, SHA-256 of every file; written last
    DIR/base/base.safetensors   packed codes, scales, zeros of split layers; all other tensors as they were
    DIR/base/base.json          each layer's shape, and the list of base/'s files
    DIR/base/config.json, tokenizer files
    DIR/ortho/ortho.safetensors U and V in int8 with scales, or in fp16; S in rows of columns and values
    DIR/ortho/ortho.json        the digest of base.json, each layer's rank, and the list of ortho/'s files

base/ and ortho/ each carry their own list, so that each can be published and checked alone; base.json's
digest stands for the whole Base.
Shapes: O out features, I in features, G groups, B packed bytes a row, r rank, k kept entries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import IntegrityError, NumericalError
from ..layers.split_linear import OrthoPart
from ..numerics.bits import SUPPORTED_BITS
from ..numerics.finite import all_finite
from ..numerics.lowrank import restore_factor, round_factor
from ..numerics.pack import pack_codes, packed_row_bytes, unpack_codes
from ..numerics.quantize import Quantized
from ..numerics.sparse import SparsePart
from .container import TensorSpecs

MANIFEST, MANIFEST_SCHEMA = "manifest.json", "sixgig.split/1"
BASE, BASE_LIST, BASE_TENSORS, BASE_SCHEMA = "base", "base.json", "base.safetensors", "sixgig.base/1"
ORTHO, ORTHO_LIST, ORTHO_TENSORS, ORTHO_SCHEMA = "ortho", "ortho.json", "ortho.safetensors", "sixgig.ortho/1"
QUANT_METHOD = "sixgig"
FACTOR_BITS = (8, 16)

_MAX_SIDE = 2**24  # far above any layer; keeps a hostile size from being allocated


@dataclass(frozen=True, kw_only=True)
class BaseLayer:
    """One split layer's form in base/."""

    num_out: int
    num_in: int
    bits: int
    group_size: int

    @property
    def num_groups(self) -> int:
        return -(-self.num_in // self.group_size)

    def specs(self, name: str) -> TensorSpecs:
        """Shapes and types of the layer's stored tensors."""
        zero_bytes = packed_row_bytes(self.num_out * self.num_groups, self.bits)
        return {
            f"{name}.packed": ((self.num_out, packed_row_bytes(self.num_in, self.bits)), torch.uint8),
            f"{name}.scales": ((self.num_out, self.num_groups), torch.float16),
            f"{name}.zeros": ((zero_bytes,), torch.uint8),
        }


@dataclass(frozen=True, kw_only=True)
class OrthoLayer:
    """One split layer's form in ortho/; `num_kept` is None where the layer has no sparse part."""

    rank: int
    num_kept: int | None

    def specs(self, name: str, base: BaseLayer, factor_bits: int) -> TensorSpecs:
        """Shapes and types of the layer's stored tensors."""
        factor_type = torch.int8 if factor_bits == 8 else torch.float16
        specs: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
        if self.rank:
            specs[f"{name}.up"] = ((base.num_out, self.rank), factor_type)
            specs[f"{name}.down"] = ((self.rank, base.num_in), factor_type)
        if self.rank and factor_bits == 8:
            specs[f"{name}.up_scales"] = specs[f"{name}.down_scales"] = ((self.rank,), torch.float32)
        if self.num_kept is not None:
            specs[f"{name}.row_offsets"] = ((base.num_out + 1,), torch.int32)
            specs[f"{name}.columns"] = ((self.num_kept,), _column_type(base.num_in))
            specs[f"{name}.values"] = ((self.num_kept,), torch.float16)
        return specs


# ---- Base --------------------------------------------------------------------------------------------


def base_layer(base: Quantized) -> BaseLayer:
    num_out, num_in = base.codes_OI.shape
    return BaseLayer(num_out=num_out, num_in=num_in, bits=base.bits, group_size=base.group_size)


def encode_base(name: str, base: Quantized) -> dict[str, Tensor]:
    """The stored tensors of one layer's Base. Raises NumericalError for scales that are no numbers."""
    if not all_finite(base.scales_OG):
        raise NumericalError("NaN or Inf in a quantisation scale", where=f"layer {name}")
    return {
        f"{name}.packed": pack_codes(base.codes_OI, base.bits),
        f"{name}.scales": base.scales_OG.to(torch.float16),
        # In one row, so that the zeros take `bits` each and are padded once a layer.
        f"{name}.zeros": pack_codes(base.zeros_OG.reshape(1, -1), base.bits)[0],
    }


def decode_base(name: str, layer: BaseLayer, get: Callable[[str], Tensor]) -> Quantized:
    """The inverse of `encode_base`."""
    scales_OG = get(f"{name}.scales")
    if not (scales_OG > 0).all():
        raise IntegrityError("a quantisation scale is not positive", where=f"layer {name}")
    zeros = unpack_codes(get(f"{name}.zeros")[None], layer.bits, layer.num_out * layer.num_groups)
    return Quantized(
        codes_OI=unpack_codes(get(f"{name}.packed"), layer.bits, layer.num_in),
        scales_OG=scales_OG,
        zeros_OG=zeros.view(layer.num_out, layer.num_groups),
        bits=layer.bits,
        group_size=layer.group_size,
    )


# ---- Ortho -------------------------------------------------------------------------------------------


def ortho_layer(ortho: OrthoPart) -> OrthoLayer:
    num_kept = None if ortho.sparse is None else ortho.sparse.positions_k.numel()
    return OrthoLayer(rank=ortho.up_Or.shape[1], num_kept=num_kept)


def encode_ortho(name: str, ortho: OrthoPart, factor_bits: int) -> dict[str, Tensor]:
    """The stored tensors of one layer's Ortho part. Raises NumericalError for what 16 bits cannot hold."""
    tensors: dict[str, Tensor] = {}
    if ortho.up_Or.shape[1]:
        for side, factor, dim in (("up", ortho.up_Or, 1), ("down", ortho.down_rI, 0)):
            if not all_finite(factor):
                raise NumericalError("NaN or Inf in the Ortho part", where=f"layer {name}, factor {side}")
            tensors[f"{name}.{side}"], scales_r = round_factor(factor, factor_bits, dim=dim)
            if factor_bits == 8:
                tensors[f"{name}.{side}_scales"] = scales_r.float()
    if ortho.sparse is not None:
        tensors |= _encode_sparse(name, ortho.sparse)
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not all_finite(tensor):
            raise NumericalError("the Ortho part does not fit 16-bit numbers", where=f"tensor {key}")
    return tensors


def decode_ortho(
    name: str, layer: OrthoLayer, base: BaseLayer, factor_bits: int, get: Callable[[str], Tensor]
) -> OrthoPart:
    """The inverse of `encode_ortho`, factors in fp32."""
    up_Or, down_rI = torch.zeros(base.num_out, 0), torch.zeros(0, base.num_in)
    if layer.rank:
        ones_r = torch.ones(layer.rank)
        scales = {s: get(f"{name}.{s}_scales") if factor_bits == 8 else ones_r for s in ("up", "down")}
        up_Or = restore_factor(get(f"{name}.up"), scales["up"], dim=1)
        down_rI = restore_factor(get(f"{name}.down"), scales["down"], dim=0)
    sparse = None if layer.num_kept is None else _decode_sparse(name, base, get)
    return OrthoPart(up_Or=up_Or, down_rI=down_rI, sparse=sparse)


def _encode_sparse(name: str, sparse: SparsePart) -> dict[str, Tensor]:
    num_out, num_in = sparse.shape
    rows_k, columns_k = sparse.positions_k.long() // num_in, sparse.positions_k.long() % num_in
    counts_O = torch.bincount(rows_k, minlength=num_out)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts_O.cumsum(0)])
    return {
        f"{name}.row_offsets": offsets.to(torch.int32),
        f"{name}.columns": columns_k.to(_column_type(num_in)),
        f"{name}.values": sparse.values_k.to(torch.float16),
    }


def _decode_sparse(name: str, base: BaseLayer, get: Callable[[str], Tensor]) -> SparsePart:
    offsets, columns_k = get(f"{name}.row_offsets").long(), get(f"{name}.columns").to(torch.int64)
    counts_O = offsets.diff()
    is_sound = int(offsets[0]) == 0 and int(offsets[-1]) == len(columns_k) and bool((counts_O >= 0).all())
    if is_sound:
        rows_k = torch.repeat_interleave(torch.arange(base.num_out), counts_O)
        positions_k = rows_k * base.num_in + columns_k
        in_row = bool(((columns_k >= 0) & (columns_k < base.num_in)).all())
        if in_row and bool((positions_k.diff() > 0).all()):
            return SparsePart(
                positions_k=positions_k.to(torch.int32),
                values_k=get(f"{name}.values").float(),
                shape=(base.num_out, base.num_in),
            )
    raise IntegrityError("positions of a sparse part are out of order or range", where=f"layer {name}")


def _column_type(num_in: int) -> torch.dtype:
    return torch.uint16 if num_in <= 2**16 else torch.int32


# ---- From JSON ---------------------------------------------------------------------------------------


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
