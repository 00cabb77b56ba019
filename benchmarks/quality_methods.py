"""What is compared, as one table: each row turns a layer's weight into the weight that it computes with.

A row of this project's goes the way of `sixgig split`: `split_layers_of` with the sieve `none`, or `hessian`
where entries are kept, then `fit_scales`. What comes out is put in place densely, so that every row is scored
by the same code. Bits a weight count codes, scales, zero points and entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sixgig.data.batches import TokenSequence, batches
from sixgig.load.loaded import LoadedModel
from sixgig.numerics.grids import searched_grid
from sixgig.numerics.quantize import dequantize, quantize_rtn
from sixgig.transform.fit_scales import ScaleFitConfig, fit_scales, unrounded_weights
from sixgig.transform.rounding import QuantizeConfig
from sixgig.transform.sieve import make_sieve
from sixgig.transform.split import PUBLIC, split_layers_of
from sixgig.transform.split_layer import Arm, LayerSplit, OrthoConfig

SPARSE_SHARE = 0.005


@dataclass(frozen=True, kw_only=True)
class Ours:
    """One row. `fit`: none, scales, or codes (and scales); `aim`: whether Base + S is fitted, or the Base."""

    quantize: QuantizeConfig
    sparse_share: float = 0.0
    entries: str = "after"
    fit: str = "none"
    aim: str = "base"
    head_bits: int | None = None


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Public windows: for the input moments, and for the fits; no article is in both."""

    calibration: Sequence[TokenSequence]
    fit: Sequence[TokenSequence]


@dataclass(frozen=True, kw_only=True)
class FitSizes:
    num_steps: int
    windows_per_step: int
    learning_rate: float
    codes_learning_rate: float


def our_methods() -> dict[str, Ours]:
    """Rows by name, "BITS-GROUP-METHOD-GRID" and what is done beside; the plain ones first."""
    rows: dict[str, Ours] = {}
    for bits in (4, 3):
        for method in ("rtn", "gptq"):
            for grid in ("minmax", "searched"):
                config = QuantizeConfig(bits=bits, group_size=64, method=method, grid=grid)
                rows[f"int{bits}-g64-{method}-{grid}"] = Ours(quantize=config)
    best4 = QuantizeConfig(bits=4, group_size=64, method="gptq", grid="searched")
    wide4 = QuantizeConfig(bits=4, group_size=128, method="gptq", grid="searched")
    best3 = QuantizeConfig(bits=3, group_size=64, method="gptq", grid="searched")
    rows["int4-g64-rtn-minmax-scales"] = Ours(quantize=QuantizeConfig(bits=4, group_size=64), fit="scales")
    for fit in ("none", "scales", "codes"):
        end = "" if fit == "none" else f"-{fit}"
        if fit != "none":
            rows[f"int4-g64-gptq-searched{end}"] = Ours(quantize=best4, fit=fit)
            rows[f"int3-g64-gptq-searched{end}"] = Ours(quantize=best3, fit=fit)
        rows[f"int4-g128-gptq-searched{end}"] = Ours(quantize=wide4, fit=fit)
        kept = Ours(quantize=best3, sparse_share=SPARSE_SHARE, fit=fit)
        rows[f"int3-g64-gptq-searched{end}-sparse-after"] = kept
        before = replace(kept, entries="before", aim="base" if fit == "none" else "both")
        rows[f"int3-g64-gptq-searched{end}-sparse-before"] = before
    for head in (8, 4):
        rows[f"int4-g64-gptq-searched-codes-head{head}"] = Ours(quantize=best4, fit="codes", head_bits=head)
    return rows


def split_as(
    method: Ours, loaded: LoadedModel, texts: Texts, sizes: FitSizes, seed: int
) -> dict[str, LayerSplit]:
    """The layers of one row; changes the linear layers of `loaded` where it fits."""
    arm = Arm(
        sieve=make_sieve("hessian" if method.sparse_share else "none"),
        quantize=method.quantize,
        ortho=OrthoConfig(rank=0, sparse_share=method.sparse_share, entries=method.entries),
        keep_unrounded=method.fit != "none",
    )
    public = {PUBLIC: list(batches(texts.calibration, 4))}
    layers = split_layers_of(loaded, {"arm": arm}, public, {}, seed=seed)["arm"]
    if method.fit == "none":
        return layers
    config = ScaleFitConfig(
        num_steps=sizes.num_steps,
        learning_rate=sizes.codes_learning_rate if method.fit == "codes" else sizes.learning_rate,
        codes_too=method.fit == "codes",
        with_entries=method.aim == "both",
    )
    lessons = list(batches(texts.fit, sizes.windows_per_step))
    fitted = fit_scales(loaded, layers, unrounded_weights(layers).items(), lessons, config, seed=seed)
    return fitted if method.aim == "both" else {n: _rechosen(layers[n], one) for n, one in fitted.items()}


def dense_weights(layers: Mapping[str, LayerSplit], *, alpha: float) -> dict[str, Tensor]:
    """Base + alpha S [O, I] of every layer, fp32 on the CPU; S's values as they are stored, in fp16."""
    return {name: _dense(layer, alpha) for name, layer in layers.items()}


def bits_per_weight(layers: Mapping[str, LayerSplit]) -> float:
    """Stored bits of codes, scales, zero points and kept entries, over the number of split weights."""
    num_bits = sum(
        one.base.storage_bits + (one.ortho.sparse.storage_bits if one.ortho.sparse is not None else 0)
        for one in layers.values()
    )
    return num_bits / sum(one.base.codes_OI.numel() for one in layers.values())


def rounded_head(head_VD: Tensor, bits: int) -> Tensor:
    """The output head as a rounded copy of its own, on searched grids of 64; the embedding stays."""
    importance_D = torch.ones(head_VD.shape[1], device=head_VD.device)
    grid = searched_grid(head_VD.float(), importance_D, bits=bits, group_size=64)
    return dequantize(quantize_rtn(head_VD.float(), bits=bits, group_size=64, grid=grid))


def _dense(layer: LayerSplit, alpha: float) -> Tensor:
    base_OI = dequantize(layer.base)
    if not alpha or layer.ortho.sparse is None:
        return base_OI
    sparse = layer.ortho.sparse
    return base_OI + alpha * sparse.dense().to(torch.float16).float()


def _rechosen(rounded: LayerSplit, fitted: LayerSplit) -> LayerSplit:
    """S's entries made whole on a Base that was fitted by itself."""
    sparse = rounded.ortho.sparse
    if sparse is None:
        return fitted
    positions_k = sparse.positions_k.long()
    moved_k = (dequantize(fitted.base) - dequantize(rounded.base)).flatten()[positions_k]
    mended = replace(sparse, values_k=sparse.values_k - moved_k)
    return replace(fitted, ortho=replace(fitted.ortho, sparse=mended))
