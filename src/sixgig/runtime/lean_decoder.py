"""A Decoder for Llama-like models that asks as little of the host as plain torch allows.

On a small model the Python of transformers costs as much as reading the weights. Here a token takes some
twenty operations a layer: stacked products, one cache for keys and values, attention over what the cache
holds and no more. Each operation rounds where transformers' does, so the tokens are those of `generate`. In
fp32 they are the same ones; in bf16 torch's attention now and then rounds several rows otherwise than one (in
7 of 1,000 random cases), which can turn two tokens whose logits lie within a bf16 step or two.

Shapes: N tokens read at once, D hidden size, V vocabulary, T positions, H head size, Q query heads, K heads
of keys, the same number of values, R query heads a key head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..layers.read_bytes import read_bytes
from ..layers.split_linear import AlphaSwitch
from .lean_model import LeanLayer, LeanModel
from .network_decoder import PREFILL_CHUNK_TOKENS, require_room


class LeanDecoder:
    """One sequence through a LeanModel. Its type and device are the embedding's."""

    def __init__(
        self, model: LeanModel, *, context_tokens: int, prefill_chunk_tokens: int = PREFILL_CHUNK_TOKENS
    ) -> None:
        """Raises InputError where the model was made for fewer positions."""
        if not 0 < context_tokens <= len(model.cos_TH):
            raise InputError(
                "a cache of this length does not suit the model",
                expected=f"1 to {len(model.cos_TH)} tokens",
                received=str(context_tokens),
            )
        self._model, self._context_tokens, self._position = model, context_tokens, 0
        self._chunk_tokens = prefill_chunk_tokens
        shape = (2 * model.num_kv_heads, context_tokens, model.head_size)
        self._caches = [model.embedding_VD.new_zeros(shape) for _ in model.layers]
        self._switches, self._has_ortho = _switches(model)

    @property
    def context_tokens(self) -> int:
        """How many tokens the cache holds at most."""
        return self._context_tokens

    @property
    def position(self) -> int:
        """How many tokens have been read since `reset`."""
        return self._position

    def reset(self) -> None:
        """Forgets the sequence; the cache stays allocated, and what lies beyond the position is not read."""
        self._position = 0

    def read_bytes(self, alpha: float) -> int:
        """Bytes of weights that one step reads with the switch at `alpha`."""
        model = self._model
        modules = [model.head, *_modules(model)]
        norms = sum(layer.input_norm_D.nbytes + layer.mlp_norm_D.nbytes for layer in model.layers)
        row = model.embedding_VD[0].nbytes + model.final_norm_D.nbytes
        return sum(read_bytes(module, alpha) for module in modules) + norms + row

    def prefill(self, ids: Sequence[int]) -> Tensor:
        """fp32 logits [V] after `ids`. Raises InputError where they do not fit, or are none."""
        require_room(self._position, ids, self._context_tokens)
        logits_V = torch.empty(0)
        for start in range(0, len(ids), self._chunk_tokens):
            logits_V = self._read(ids[start : start + self._chunk_tokens])
        return logits_V

    def step(self, token: int) -> Tensor:
        """fp32 logits [V] after `token`. Raises InputError where the cache is full."""
        return self.prefill([token])

    def set_alpha(self, alpha: float) -> None:
        """Turns the switch. Raises InputError where only the Base is here, or nothing is split."""
        if not self._switches or (alpha != 0.0 and not self._has_ortho):
            raise InputError(
                "only the Base is here, so alpha cannot be raised" if self._switches else "nothing is split",
                received=f"alpha={alpha}",
                todo="open the split with its ortho/ folder",
            )
        for switch in self._switches:
            switch.value = alpha

    @torch.no_grad()  # not inference_mode: what split layers keep from here may later meet autograd
    def _read(self, ids: Sequence[int]) -> Tensor:
        model, begin, end = self._model, self._position, self._position + len(ids)
        rotation = (model.cos_TH[begin:end, None], model.sin_TH[begin:end, None])
        mask_NT = _mask(begin, end, model.cos_TH.device)
        hidden_ND = F.embedding(torch.tensor(ids, device=model.embedding_VD.device), model.embedding_VD)
        for layer, cache in zip(model.layers, self._caches, strict=True):
            hidden_ND = hidden_ND + self._attention(layer, cache, hidden_ND, rotation, mask_NT)
            hidden_ND = hidden_ND + self._mlp(layer, hidden_ND)
        self._position = end
        return model.head(self._norm(hidden_ND[-1:], model.final_norm_D))[0].float()

    def _attention(
        self,
        layer: LeanLayer,
        cache: Tensor,
        hidden_ND: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask_NT: Tensor | None,
    ) -> Tensor:
        model, num = self._model, len(hidden_ND)
        num_q, num_kv = model.num_heads, model.num_kv_heads
        heads_NAH = layer.query_key_value(self._norm(hidden_ND, layer.input_norm_D))
        heads_NAH = heads_NAH.view(num, num_q + 2 * num_kv, model.head_size)
        turning = heads_NAH[:, : num_q + num_kv]
        if layer.query_norm_H is not None and layer.key_norm_H is not None:
            turning[:, :num_q] = self._norm(turning[:, :num_q], layer.query_norm_H)
            turning[:, num_q:] = self._norm(turning[:, num_q:], layer.key_norm_H)
        cos, sin = rotation
        torch.add(turning * cos, turning.roll(model.head_size // 2, dims=-1) * sin, out=turning)
        end = self._position + num
        cache[:, self._position : end] = heads_NAH[:, num_q:].transpose(0, 1)
        mixed = _attend(heads_NAH[:, :num_q], cache[:num_kv, :end], cache[num_kv:, :end], mask_NT)
        return layer.attention_output(mixed)

    def _mlp(self, layer: LeanLayer, hidden_ND: Tensor) -> Tensor:
        gate, up = layer.gate_up(self._norm(hidden_ND, layer.mlp_norm_D)).chunk(2, dim=-1)
        return layer.down(F.silu(gate) * up)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        # transformers rounds before the weight; given the weight, torch's function would round after it.
        return F.rms_norm(x, weight.shape, eps=self._model.norm_epsilon) * weight


def _attend(query_NQH: Tensor, key_KTH: Tensor, value_KTH: Tensor, mask_NT: Tensor | None) -> Tensor:
    """Attention of N tokens over T; [N, Q * H]."""
    num, num_q, head_size = query_NQH.shape
    num_kv = len(key_KTH)
    if num == 1:
        # The R heads that share keys are as R tokens of one head: no key is copied for each of them, which
        # at 1,024 tokens takes a fifth of the time.
        query_KRH = query_NQH.view(1, num_kv, num_q // num_kv, head_size)
        return F.scaled_dot_product_attention(query_KRH, key_KTH[None], value_KTH[None]).view(1, -1)
    query_QNH = query_NQH.transpose(0, 1)[None]
    mixed_QNH = F.scaled_dot_product_attention(
        query_QNH, key_KTH[None], value_KTH[None], attn_mask=mask_NT, enable_gqa=True
    )
    return mixed_QNH[0].transpose(0, 1).reshape(num, -1)


def _mask(begin: int, end: int, device: torch.device) -> Tensor | None:
    """True where a token from `begin` on sees one of the first `end`; None where it sees all of them."""
    if end - begin == 1:
        return None
    everything = torch.ones(end - begin, end, dtype=torch.bool, device=device)
    return everything.tril(diagonal=begin)


def _switches(model: LeanModel) -> tuple[list[AlphaSwitch], bool]:
    """The switches that the model's layers read, and whether any layer has an Ortho part."""
    modules = _modules(model)
    switches = {id(s): s for m in modules if isinstance(s := getattr(m, "switch", None), AlphaSwitch)}
    return list(switches.values()), any(getattr(module, "ortho", None) is not None for module in modules)


def _modules(model: LeanModel) -> list[nn.Module]:
    return [
        module
        for layer in model.layers
        for module in (layer.query_key_value, layer.attention_output, layer.gate_up, layer.down)
    ]
