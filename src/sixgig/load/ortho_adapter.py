"""One layer's Ortho part on disk: U V as PEFT's LoRA factors or in 8 bits, S as its own tensors.

With 16-bit factors, ortho/ is a PEFT adapter (adapter_config.json, adapter_model.safetensors):

    base_model.model.NAME.lora_A.weight     fp16 [r, I]   V
    base_model.model.NAME.lora_B.weight     fp16 [O, r]   U

PEFT adds  lora_B lora_A * lora_alpha / r; lora_alpha is r, so that PEFT's scale 1 is alpha = 1 of U V.
With 8-bit factors (half the size, and no other tool reads them), in factors.safetensors:

    NAME.up, NAME.down                      int8 [O, r], [r, I]
    NAME.up_scales, NAME.down_scales        fp32 [r]

S, which no adapter can say, is in sparse.safetensors:

    NAME.row_offsets                        int32 [O + 1]
    NAME.columns, NAME.values               uint16 or int32 [k], fp16 [k]

Shapes: O out features, I in features, r rank, k kept entries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import IntegrityError, NumericalError
from ..layers.split_linear import OrthoPart
from ..numerics.finite import all_finite
from ..numerics.lowrank import restore_factor, round_factor
from ..numerics.sparse import SparsePart
from .container import TensorSpecs
from .packed_base import BaseLayer

FACTOR_BITS = (8, 16)
_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class OrthoLayer:
    """One split layer's form in ortho/; `num_kept` is None where the layer has no sparse part."""

    rank: int
    num_kept: int | None

    def factor_specs(self, name: str, base: BaseLayer, factor_bits: int) -> TensorSpecs:
        """Shapes and types of the stored U and V."""
        if not self.rank:
            return {}
        up, down = _factor_names(name, factor_bits)
        kind = torch.int8 if factor_bits == 8 else torch.float16
        specs = {up: ((base.num_out, self.rank), kind), down: ((self.rank, base.num_in), kind)}
        scales = ((self.rank,), torch.float32)
        return specs if factor_bits == 16 else {**specs, f"{up}_scales": scales, f"{down}_scales": scales}

    def sparse_specs(self, name: str, base: BaseLayer) -> TensorSpecs:
        """Shapes and types of the stored S."""
        if self.num_kept is None:
            return {}
        return {
            f"{name}.row_offsets": ((base.num_out + 1,), torch.int32),
            f"{name}.columns": ((self.num_kept,), _column_type(base.num_in)),
            f"{name}.values": ((self.num_kept,), torch.float16),
        }


def ortho_layer(ortho: OrthoPart) -> OrthoLayer:
    num_kept = None if ortho.sparse is None else ortho.sparse.positions_k.numel()
    return OrthoLayer(rank=ortho.up_Or.shape[1], num_kept=num_kept)


def encode_factors(name: str, ortho: OrthoPart, factor_bits: int) -> dict[str, Tensor]:
    """The stored U and V. Raises NumericalError for what 16 bits cannot hold."""
    tensors: dict[str, Tensor] = {}
    if not ortho.up_Or.shape[1]:
        return tensors
    up, down = _factor_names(name, factor_bits)
    for side, factor, dim in ((up, ortho.up_Or, 1), (down, ortho.down_rI, 0)):
        if not all_finite(factor):
            raise NumericalError("NaN or Inf in the Ortho part", where=f"layer {name}, tensor {side}")
        tensors[side], scales_r = round_factor(factor, factor_bits, dim=dim)
        if factor_bits == 8:
            tensors[f"{side}_scales"] = scales_r.float()
    _require_finite(tensors)
    return tensors


def decode_factors(
    name: str, layer: OrthoLayer, base: BaseLayer, factor_bits: int, get: Callable[[str], Tensor]
) -> tuple[Tensor, Tensor]:
    """U [O, r] and V [r, I] in fp32: the inverse of `encode_factors`."""
    if not layer.rank:
        return torch.zeros(base.num_out, 0), torch.zeros(0, base.num_in)
    up, down = _factor_names(name, factor_bits)
    ones_r = torch.ones(layer.rank)
    scales = {side: get(f"{side}_scales") if factor_bits == 8 else ones_r for side in (up, down)}
    up_Or = restore_factor(get(up), scales[up], dim=1)
    return up_Or, restore_factor(get(down), scales[down], dim=0)


def encode_sparse(name: str, sparse: SparsePart) -> dict[str, Tensor]:
    """The stored S. Raises NumericalError for values that 16 bits cannot hold."""
    num_out, num_in = sparse.shape
    rows_k, columns_k = sparse.positions_k.long() // num_in, sparse.positions_k.long() % num_in
    counts_O = torch.bincount(rows_k, minlength=num_out)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts_O.cumsum(0)])
    tensors = {
        f"{name}.row_offsets": offsets.to(torch.int32),
        f"{name}.columns": columns_k.to(_column_type(num_in)),
        f"{name}.values": sparse.values_k.to(torch.float16),
    }
    _require_finite(tensors)
    return tensors


def decode_sparse(name: str, base: BaseLayer, get: Callable[[str], Tensor]) -> SparsePart:
    """The inverse of `encode_sparse`. Raises IntegrityError for positions that no matrix has."""
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


def adapter_config(layers: Mapping[str, OrthoLayer]) -> dict[str, Any]:
    """PEFT's adapter_config.json for `layers`, of which at least one has a rank."""
    ranks = {name: layer.rank for name, layer in layers.items() if layer.rank}
    rank = max(ranks.values())
    others = {name: r for name, r in ranks.items() if r != rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": _target_modules(layers, ranks),
    }


def _target_modules(layers: Mapping[str, OrthoLayer], ranks: Mapping[str, int]) -> list[str]:
    # Last names where they say it all, as every reader of adapters knows those; else whole names.
    leaves = {name.rpartition(".")[2] for name in ranks}
    meant = {name for name in layers if name.rpartition(".")[2] in leaves}
    return sorted(leaves if meant == ranks.keys() else ranks)


def _factor_names(name: str, factor_bits: int) -> tuple[str, str]:
    if factor_bits == 8:
        return f"{name}.up", f"{name}.down"
    return f"{_PEFT_PREFIX}{name}.lora_B.weight", f"{_PEFT_PREFIX}{name}.lora_A.weight"


def _require_finite(tensors: Mapping[str, Tensor]) -> None:
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not all_finite(tensor):
            raise NumericalError("the Ortho part does not fit 16-bit numbers", where=f"tensor {key}")


def _column_type(num_in: int) -> torch.dtype:
    return torch.uint16 if num_in <= 2**16 else torch.int32
