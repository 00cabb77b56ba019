"""One token through a `FusedModel`: five launches a layer, with everything that they read and write.

What is launched reads the token, its position and alpha from device memory, chooses the likeliest next token
and goes on to its position, so that it can be captured once and replayed.

Legend: D hidden size, V vocabulary, H query heads, K key-value heads.
"""

# Triton's own types do not describe its launches.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import triton
from torch import Tensor

from ..numerics.kernels.decode_attention import decode_attention_kernel
from ..numerics.kernels.dense_product import DenseProduct
from ..numerics.kernels.first_and_dense import (
    block_peaks_kernel,
    embed_kernel,
    next_token_kernel,
)
from ..numerics.kernels.product import (
    TRITON_TYPES,
    DecodeProduct,
    Launch,
    NormFactor,
    Residual,
    Workspace,
)
from .fused_model import FusedLayer, FusedModel, Matrix

_ATTENTION_TILE, _ATTENTION_SPLIT = 32, 32
_PEAK_BLOCK = 1024


class FusedStep:
    """The launches of one token, and the buffers that stay where they are from one to the next."""

    def __init__(
        self,
        model: FusedModel,
        context_tokens: int,
        launches: Mapping[str, Launch],
        *,
        with_dependent_launch: bool | None = None,
    ) -> None:
        """`with_dependent_launch`: attention comes up while q, k and v are made, reads the cache and waits
        for them (programmatic dependent launch, compute capability 9.0); None: where the card can."""
        self._model, self._context = model, context_tokens
        self._early = _can_launch_early(model) if with_dependent_launch is None else with_dependent_launch
        self.alpha = torch.zeros(1, device=model.device)
        self._workspace = Workspace(model.device)
        self._make_buffers()
        self._make_products(launches)

    def reset(self) -> None:
        self.position_1.zero_()
        self._workspace.reset()  # should a launch ever have been broken off
        self._attention_scratch[-1].zero_()

    def launch(self, *, with_ortho: bool) -> None:
        """From the token, or its row of the embedding, to logits, likeliest token and next position."""
        model = self._model
        if with_ortho:
            self._workspace.empty_inner()
        gains = [*(layer.attention_gain_D for layer in model.layers), model.final_gain_D]
        self._embed(gains[0])
        num_parts = self._products[0][3].num_row_blocks
        for index, (layer, products) in enumerate(zip(model.layers, self._products, strict=True)):
            self._one_layer(index, layer, products, num_parts, gains[index + 1], with_ortho)
        self._head(
            self._input_1D,
            self.logits_1V,
            norm=NormFactor(squares=self._squares[0], num_parts=num_parts, eps=model.eps),
        )
        self._choose(self.position_1)

    def launch_head(self, hidden_D: Tensor) -> Tensor:
        """Logits of the last token of a prompt, whose final norm is done already."""
        self._head(hidden_D[None].contiguous(), self.logits_1V)
        self._choose(self._unused_1)
        return self.logits_1V[0]

    def _make_buffers(self) -> None:
        model, device = self._model, self._model.device
        hidden = model.embedding_VD.shape[1]
        self.cos, self.sin = model.rotary_tables(self._context)
        cache = (len(model.layers), model.num_kv_heads, self._context, model.head_dim)
        self.keys = torch.zeros(cache, dtype=model.dtype, device=device)
        self.values = torch.zeros(cache, dtype=model.dtype, device=device)
        activations = {"dtype": model.dtype, "device": device}
        self._stream_1D = torch.zeros(1, hidden, **activations)
        self._input_1D = torch.zeros(1, hidden, **activations)
        self._qkv_1O = torch.zeros(1, model.layers[0].qkv.num_out, **activations)
        self._attended_1O = torch.zeros(1, model.layers[0].out.num_in, **activations)
        self._channels_1C = torch.zeros(1, model.layers[0].down.num_in, **activations)
        self.logits_1V = torch.zeros(1, model.head.num_out, dtype=torch.float32, device=device)
        self.token_1 = torch.zeros(1, dtype=torch.int64, device=device)
        self.position_1 = torch.zeros(1, dtype=torch.int32, device=device)
        on_cpu = model.embedding_VD.device.type == "cpu" and device.type != "cpu"
        self.row_1D = torch.zeros(1, hidden, **activations) if on_cpu else None
        num_peaks = -(-model.head.num_out // _PEAK_BLOCK)
        self._peaks = torch.zeros(num_peaks, device=device)
        self._places = torch.zeros(num_peaks, dtype=torch.int32, device=device)
        self._unused_1 = torch.zeros(1, dtype=torch.int32, device=device)
        part = model.num_kv_heads * _ATTENTION_SPLIT * 16
        self._attention_scratch = (
            torch.zeros(part, device=device),
            torch.zeros(part, device=device),
            torch.zeros(part * triton.next_power_of_2(model.head_dim), device=device),
            torch.zeros(model.num_kv_heads, dtype=torch.int32, device=device),
        )

    def _make_products(self, launches: Mapping[str, Launch]) -> None:
        def product(kind: str, matrix: Matrix, epilogue: str = "plain") -> Any:
            if matrix.base is None:
                return DenseProduct(matrix.dense_OI, epilogue)
            return DecodeProduct(
                matrix.base,
                matrix.ortho,
                None if matrix.ortho is None else self.alpha,
                self._workspace,
                launches.get(kind, Launch.for_shape(matrix.num_out)),
                epilogue=epilogue,
            )

        self._products = [
            (
                product("qkv", layer.qkv),
                product("out", layer.out, "residual"),
                product("gate_up", layer.gate_up, "swiglu"),
                product("down", layer.down, "residual"),
            )
            for layer in self._model.layers
        ]
        self._head = product("head", self._model.head)
        num_parts = max(max(out.num_row_blocks, down.num_row_blocks) for _, out, _, down in self._products)
        make = {"dtype": torch.float32, "device": self._model.device}
        self._squares = (torch.zeros(num_parts, 16, **make), torch.zeros(num_parts, 16, **make))

    def _choose(self, position_1: Tensor) -> None:
        """The likeliest token; `position_1` goes on by one."""
        num_logits = self.logits_1V.shape[1]
        num_parts = len(self._peaks)
        block_peaks_kernel[(num_parts,)](
            self.logits_1V, self._peaks, self._places, num_logits, BLOCK=_PEAK_BLOCK
        )
        next_token_kernel[(1,)](
            self._peaks,
            self._places,
            self.token_1,
            position_1,
            num_parts,
            num_logits,
            PARTS=triton.next_power_of_2(num_parts),
        )

    def _embed(self, gain_D: Tensor) -> None:
        table = self._model.embedding_VD if self.row_1D is None else self.row_1D
        hidden = table.shape[1]
        embed_kernel[(1,)](
            table,
            self.token_1 if self.row_1D is None else self._zero_token(),
            self._stream_1D,
            gain_D,
            self._input_1D,
            self._squares[0],
            hidden,
            len(self._squares[0]),
            BLOCK=triton.next_power_of_2(hidden),
            PARTS=triton.next_power_of_2(len(self._squares[0])),
            DTYPE=TRITON_TYPES[self._model.dtype],
        )

    def _zero_token(self) -> Tensor:
        if not hasattr(self, "_zero_1"):
            self._zero_1 = torch.zeros_like(self.token_1)
        return self._zero_1

    def _one_layer(
        self, index: int, layer: FusedLayer, products: Any, num_parts: int, next_gain_D: Tensor, ortho: bool
    ) -> None:
        qkv, out, gate_up, down = products
        before, between = self._squares
        eps = self._model.eps
        factor = NormFactor(squares=before, num_parts=num_parts, eps=eps)
        qkv(
            self._input_1D,
            self._qkv_1O,
            norm=factor,
            with_ortho=ortho,
            is_emptied=True,
            lets_next_come=self._early,
        )
        self._attend(index)
        residual = Residual(stream_MO=self._stream_1D, gain_O=layer.mlp_gain_D, squares=between)
        out(self._attended_1O, self._input_1D, residual=residual, with_ortho=ortho, is_emptied=True)
        factor = NormFactor(squares=between, num_parts=out.num_row_blocks, eps=eps)
        gate_up(self._input_1D, self._channels_1C, norm=factor, with_ortho=ortho, is_emptied=True)
        residual = Residual(stream_MO=self._stream_1D, gain_O=next_gain_D, squares=before)
        down(self._channels_1C, self._input_1D, residual=residual, with_ortho=ortho, is_emptied=True)

    def _attend(self, index: int) -> None:
        model = self._model
        decode_attention_kernel[(model.num_kv_heads, _ATTENTION_SPLIT)](
            self._qkv_1O,
            self.cos,
            self.sin,
            self.keys[index],
            self.values[index],
            self.position_1,
            self._attended_1O,
            *self._attention_scratch,
            model.num_kv_heads,
            self._context,
            model.head_dim**-0.5,
            GROUP=model.num_heads // model.num_kv_heads,
            HEAD=model.head_dim,
            PADDED=triton.next_power_of_2(model.head_dim),
            DTYPE=TRITON_TYPES[model.dtype],
            TILE=_ATTENTION_TILE,
            SPLIT=_ATTENTION_SPLIT,
            IS_EARLY=self._early,
            **({"launch_pdl": True} if self._early else {}),
        )


def _can_launch_early(model: FusedModel) -> bool:
    return model.device.type == "cuda" and torch.cuda.get_device_capability(model.device) >= (9, 0)
