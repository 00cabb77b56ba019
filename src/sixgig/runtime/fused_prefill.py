"""Reading a prompt with dense products over a `FusedModel`'s matrices, into the caches of the fused decoder.

Rounds where transformers' own Llama layers round. Legend: T tokens, D hidden size, H heads, K key-value
heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..numerics.kernels.prefill_product import prefill_product
from .fused_model import FusedLayer, FusedModel, Matrix

# Channels are several times as wide as the hidden state; those of a long prompt, all at once, would take more
# memory than a small card has left. Weights are dequantised once for each piece.
PIECE_TOKENS = 1024


@torch.no_grad()
def read_prompt(
    model: FusedModel,
    ids_T: Tensor,
    start: int,
    cos_PD: Tensor,
    sin_PD: Tensor,
    keys: Tensor,
    values: Tensor,
    alpha: Tensor | None,
) -> Tensor:
    """The last token's hidden state after the final norm [D]; fills positions `start` and on of both caches
    [layers, K, positions, head_dim]. Without `alpha` it is the Base's, the same to the bit."""
    x_TD = model.embedding_VD[ids_T.to(model.embedding_VD.device)].to(model.device)
    stop = start + len(ids_T)
    cos, sin = cos_PD[start:stop], sin_PD[start:stop]
    for index, layer in enumerate(model.layers):
        qkv = _times(_normed(x_TD, layer.attention_gain_D, model.eps), layer.qkv, alpha)
        q, k, v = _heads(qkv, model)
        keys[index, :, start:stop] = _rotated(k, cos, sin)
        values[index, :, start:stop] = v
        attended = _attention(_rotated(q, cos, sin), keys[index, :, :stop], values[index, :, :stop], start)
        x_TD = x_TD + _times(attended, layer.out, alpha)
        for piece_TD in x_TD.split(PIECE_TOKENS):
            piece_TD += _channels(layer, piece_TD, model.eps, alpha)
    return _normed(x_TD[-1:], model.final_gain_D, model.eps)[0]


def _channels(layer: FusedLayer, x_TD: Tensor, eps: float, alpha: Tensor | None) -> Tensor:
    """The MLP of tokens [T, D]."""
    both = _times(_normed(x_TD, layer.mlp_gain_D, eps), layer.gate_up, alpha)
    return _times(F.silu(both[:, 0::2]) * both[:, 1::2], layer.down, alpha)


def _times(x_MI: Tensor, matrix: Matrix, alpha: Tensor | None) -> Tensor:
    if matrix.base is None:
        assert matrix.dense_OI is not None
        return F.linear(x_MI, matrix.dense_OI)
    # 0 times an overflow is no number: at alpha 0 nothing of the Ortho part may be touched.
    return prefill_product(x_MI, matrix.base, None if alpha is None else matrix.ortho, alpha)


def _normed(x_TD: Tensor, gain_D: Tensor, eps: float) -> Tensor:
    exact = x_TD.float()
    exact = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + eps)
    return gain_D * exact.to(x_TD.dtype)


def _heads(qkv_TO: Tensor, model: FusedModel) -> tuple[Tensor, Tensor, Tensor]:
    """q [H, T, head_dim], k and v [K, T, head_dim]."""
    sizes = [heads * model.head_dim for heads in (model.num_heads, model.num_kv_heads, model.num_kv_heads)]
    q, k, v = (part.unflatten(1, (-1, model.head_dim)).transpose(0, 1) for part in qkv_TO.split(sizes, dim=1))
    return q, k, v


def _rotated(x_HTd: Tensor, cos_Td: Tensor, sin_Td: Tensor) -> Tensor:
    half = x_HTd.shape[-1] // 2
    turned = torch.cat([-x_HTd[..., half:], x_HTd[..., :half]], dim=-1)
    return x_HTd * cos_Td + turned * sin_Td


def _attention(q_HTd: Tensor, keys_KPd: Tensor, values_KPd: Tensor, start: int) -> Tensor:
    """Causal attention of tokens that begin at position `start`; [T, H * head_dim]."""
    num_new, num_all = q_HTd.shape[1], keys_KPd.shape[1]
    mask = None
    if start:
        mask = torch.ones(num_new, num_all, dtype=torch.bool, device=q_HTd.device).tril(start)
    attended = F.scaled_dot_product_attention(
        q_HTd[None], keys_KPd[None], values_KPd[None], attn_mask=mask, is_causal=mask is None, enable_gqa=True
    )[0]
    return attended.transpose(0, 1).flatten(1)
