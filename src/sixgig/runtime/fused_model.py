"""A Llama-like model in the form that the fused decoder reads: stacked matrices, gains, rotary tables.

q, k and v become one matrix, gate and up another whose rows alternate, so that one program has both numbers
of a channel. A matrix is packed (with or without an Ortho part) or, for comparison, dense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..layers.split_linear import SplitLinear
from ..load.loaded import LoadedModel
from ..numerics.kernels.layout import TiledBase, tile_base
from ..numerics.kernels.ortho_layout import TiledOrtho, tile_ortho
from ..numerics.quantize import Quantized, quantize_in_blocks
from ..numerics.split_product import OrthoFactors

_NORMS = ("input_layernorm", "post_attention_layernorm")
_MODEL_TYPES = ("llama", "mistral")
MAX_GROUP = 16  # query heads of one key-value head: rows of the attention kernel's tile
_MOVING_ROPES = ("dynamic", "longrope")  # whose frequencies change with the length
ORTHO_BLOCK_ROWS = 64  # every launch of a matrix with an Ortho part works on blocks of this many rows


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """[O, I]: packed, perhaps with an Ortho part, or dense in the activations' type."""

    base: TiledBase | None = None
    ortho: TiledOrtho | None = None
    dense_OI: Tensor | None = None

    @property
    def num_out(self) -> int:
        return self.base.num_out if self.base is not None else self._dense.shape[0]

    @property
    def num_in(self) -> int:
        return self.base.num_in if self.base is not None else self._dense.shape[1]

    @property
    def num_bytes(self) -> int:
        """Of the weights alone, without an Ortho part."""
        return self.base.num_bytes if self.base is not None else self._dense.nbytes

    @property
    def _dense(self) -> Tensor:
        assert self.dense_OI is not None
        return self.dense_OI


@dataclass(frozen=True, kw_only=True)
class FusedLayer:
    """One decoder layer."""

    qkv: Matrix
    out: Matrix
    gate_up: Matrix  # rows 2i and 2i + 1 are gate and up of channel i
    down: Matrix
    attention_gain_D: Tensor
    mlp_gain_D: Tensor

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        return self.qkv, self.out, self.gate_up, self.down


@dataclass(frozen=True, kw_only=True)
class FusedModel:
    """All weights, on the device but for an embedding that stays on the CPU."""

    embedding_VD: Tensor
    layers: tuple[FusedLayer, ...]
    final_gain_D: Tensor
    head: Matrix
    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float
    inverse_frequencies: Tensor  # fp32 [head_dim / 2]
    rotary_scaling: float  # what transformers multiplies cosines and sines with; 1 in most models

    @property
    def has_ortho(self) -> bool:
        return any(matrix.ortho is not None for layer in self.layers for matrix in layer.matrices)

    @property
    def dtype(self) -> torch.dtype:
        return self.final_gain_D.dtype

    @property
    def device(self) -> torch.device:
        return self.final_gain_D.device

    def rotary_tables(self, num_positions: int) -> tuple[Tensor, Tensor]:
        """cos and sin [positions, head_dim], made in fp32 and rounded once, as transformers does."""
        positions = torch.arange(num_positions, dtype=torch.float32, device=self.device)
        angles = torch.outer(positions, self.inverse_frequencies.to(self.device))
        angles = torch.cat([angles, angles], dim=1)
        cos, sin = angles.cos() * self.rotary_scaling, angles.sin() * self.rotary_scaling
        return cos.to(self.dtype), sin.to(self.dtype)


def interleaved(num_channels: int) -> Tensor:
    """The order of rows of a gate and up matrix, among gate's rows and then up's."""
    return torch.stack(
        [torch.arange(num_channels), num_channels + torch.arange(num_channels)], dim=1
    ).flatten()


@torch.no_grad()
def fused_model(
    loaded: LoadedModel,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.bfloat16,
    head_bits: int = 4,
    embedding_on_cpu: bool = False,
    release: bool = False,
) -> FusedModel:
    """`loaded`, whose linear layers are split or plain, for the fused decoder on `device` (default: its own).

    The output head is rounded to `head_bits` by itself in groups of 64 (16: kept dense), also where it is
    tied to the embedding, which stays as it is. With `release` each decoder layer of `loaded` is let go once
    it is moved.
    Raises InputError for a model of another make.
    """
    network = loaded.network
    reason = why_unknown(network)
    if reason is not None:
        raise InputError(
            "the fused decoder cannot run this model", received=reason, todo="--kernels reference"
        )
    device = device or loaded.device
    config, decoder = network.config, network.base_model
    layers = []
    for index, layer in enumerate(decoder.layers):
        layers.append(_layer(layer, device, dtype))
        if release:
            decoder.layers[index] = nn.Identity()
    head_VD = network.get_output_embeddings().weight.detach()
    embedding_VD = network.get_input_embeddings().weight.detach().to(dtype)
    return FusedModel(
        embedding_VD=_pinned(embedding_VD.cpu()) if embedding_on_cpu else embedding_VD.to(device),
        layers=tuple(layers),
        final_gain_D=decoder.norm.weight.detach().to(device, dtype),
        head=_head(head_VD, head_bits, device, dtype),
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        eps=config.rms_norm_eps,
        inverse_frequencies=decoder.rotary_emb.inv_freq.float(),
        rotary_scaling=float(decoder.rotary_emb.attention_scaling),
    )


def why_unknown(network: Any) -> str | None:
    """Why this is no network of Llama's kind, as the fused decoder has it; None where it is one."""
    config = network.config
    # Others name their parts as Llama does and calculate otherwise: Granite with factors, SmolLM3 with layers
    # that lack rotary embeddings, StableLM with other norms.
    if config.model_type not in _MODEL_TYPES:
        return f"its architecture is {config.model_type}, not {' or '.join(_MODEL_TYPES)}"
    if getattr(config, "sliding_window", None):
        return f"its attention has a sliding window of {config.sliding_window} tokens"
    return _why_unknown_layer(network.base_model.layers[0], config) or _why_unknown_attention(network)


def _why_unknown_layer(layer: nn.Module, config: Any) -> str | None:
    attention = [f"self_attn.{one}_proj" for one in ("q", "k", "v", "o")]
    wanted = (*attention, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    names = {name for name, _ in layer.named_modules()}
    missing = sorted(set(wanted) - names)
    if missing:
        return f"its decoder layers have no {missing[0]}"
    biased = [name for name in wanted if layer.get_submodule(name).bias is not None]
    if biased:
        return f"{biased[0]} has a bias, which the fused launches do not add"
    extra = sorted(name for name in names if "norm" in name and name not in _NORMS)
    if extra:
        return f"its decoder layers have a further norm, {extra[0]}"
    return None if config.hidden_act == "silu" else f"its activation is {config.hidden_act}, not silu"


def _why_unknown_attention(network: Any) -> str | None:
    group = network.config.num_attention_heads // network.config.num_key_value_heads
    if group > MAX_GROUP:
        return f"a key-value head serves {group} query heads, and the kernel has room for {MAX_GROUP}"
    rope_type = network.base_model.rotary_emb.rope_type
    return f"its frequencies change with the length ({rope_type})" if rope_type in _MOVING_ROPES else None


def stack(
    layers: Sequence[nn.Module], order_O: Tensor | None, device: torch.device, dtype: torch.dtype
) -> Matrix:
    """Layers that read the same input as one matrix, its rows in `order_O`."""
    if not all(isinstance(layer, SplitLinear) for layer in layers):
        weight_OI = torch.cat([layer.weight.detach() for layer in layers])  # type: ignore[arg-type]
        ordered = weight_OI if order_O is None else weight_OI[order_O.to(weight_OI.device)]
        return Matrix(dense_OI=ordered.to(device, dtype).contiguous())
    split: list[Any] = list(layers)
    bases = [layer.base() for layer in split]
    group_sizes = sorted({base.group_size for base in bases})
    if len(group_sizes) > 1:
        raise InputError(
            "layers that share an input have different groups", received=f"groups of {group_sizes}"
        )
    order = torch.arange(sum(len(base.codes_OI) for base in bases)) if order_O is None else order_O
    whole = Quantized(
        codes_OI=torch.cat([base.codes_OI.cpu() for base in bases])[order],
        scales_OG=torch.cat([base.scales_OG.cpu() for base in bases])[order],
        zeros_OG=torch.cat([base.zeros_OG.cpu() for base in bases])[order],
        bits=max(base.bits for base in bases),  # narrower codes are codes of more bits too
        group_size=bases[0].group_size,
    )
    ortho = None
    if any(layer.ortho is not None for layer in split):
        ortho = tile_ortho([_factors(layer) for layer in split], order, ORTHO_BLOCK_ROWS).to(device)
    return Matrix(base=tile_base(whole, dtype).to(device), ortho=ortho)


def _factors(layer: SplitLinear) -> OrthoFactors:
    if layer.ortho is None:
        return OrthoFactors(
            up_Or=torch.zeros(layer.out_features, 0), down_rI=torch.zeros(0, layer.in_features)
        )
    sparse = layer.ortho.sparse
    if sparse is not None:
        sparse = type(sparse)(
            positions_k=sparse.positions_k.cpu(), values_k=sparse.values_k.cpu(), shape=sparse.shape
        )
    return OrthoFactors(up_Or=layer.ortho.up_Or.cpu(), down_rI=layer.ortho.down_rI.cpu(), sparse=sparse)


def _layer(layer: Any, device: torch.device, dtype: torch.dtype) -> FusedLayer:
    attention, mlp = layer.self_attn, layer.mlp
    channels = interleaved(mlp.gate_proj.out_features)
    return FusedLayer(
        qkv=stack([attention.q_proj, attention.k_proj, attention.v_proj], None, device, dtype),
        out=stack([attention.o_proj], None, device, dtype),
        gate_up=stack([mlp.gate_proj, mlp.up_proj], channels, device, dtype),
        down=stack([mlp.down_proj], None, device, dtype),
        attention_gain_D=layer.input_layernorm.weight.detach().to(device, dtype),
        mlp_gain_D=layer.post_attention_layernorm.weight.detach().to(device, dtype),
    )


def _head(head_VD: Tensor, bits: int, device: torch.device, dtype: torch.dtype) -> Matrix:
    if bits == 16:
        return Matrix(dense_OI=head_VD.to(device, dtype))
    rounded = quantize_in_blocks(head_VD.cpu(), bits=bits, group_size=64)
    return Matrix(base=tile_base(rounded, dtype).to(device))


def _pinned(tensor: Tensor) -> Tensor:
    return tensor.pin_memory() if torch.cuda.is_available() else tensor
