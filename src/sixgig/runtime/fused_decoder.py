"""Decoding with fused kernels: five launches a layer, all of a token's in one CUDA graph.

A graph reads the token, its position and alpha from device memory, so it is captured once. There are two:
one of the Base alone, for alpha 0, which is the graph of a model without Ortho part, and one of both parts.
The graph also chooses the likeliest next token and goes on to its position, so that greedy decoding needs
the host only to replay. The prompt is read by dense products over weights that are dequantised on the way.

Legend: D hidden size, V vocabulary, H query heads, K key-value heads, T tokens.
"""

# Triton's own types do not describe its launches.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from ..errors import InputError
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
from .fused_prefill import read_prompt

_ATTENTION_TILE, _ATTENTION_SPLIT = 32, 16
_PEAK_BLOCK = 1024


class FusedDecoder:
    """A `Decoder` (see `decoder`) over a `FusedModel`, one sequence."""

    def __init__(
        self,
        model: FusedModel,
        *,
        context_tokens: int,
        launches: Mapping[str, Launch] | None = None,
        capture: bool = True,
    ) -> None:
        """`launches`: how each kind of matrix ("qkv", "out", "gate_up", "down", "head") is cut; default by
        shape."""
        self._model, self._context = model, context_tokens
        self.alpha = torch.zeros(1, device=model.device)
        self._workspace = Workspace(model.device)
        self._position = 0
        self._make_buffers()
        self._make_products(launches or {})
        self._with_ortho = False
        self._graphs: dict[bool, torch.cuda.CUDAGraph] = {}
        if capture:
            self._capture()

    # ---- The protocol ----

    @property
    def context_tokens(self) -> int:
        return self._context

    @property
    def position(self) -> int:
        return self._position

    def reset(self) -> None:
        self._position = 0
        self._position_1.zero_()
        self._workspace.counters.zero_()  # should a launch ever have been broken off

    def prefill(self, ids: Sequence[int]) -> Tensor:
        self._require_room(len(ids))
        hidden_D = read_prompt(
            self._model,
            torch.tensor(ids),
            self._position,
            self._cos,
            self._sin,
            self._keys,
            self._values,
            self.alpha if self._with_ortho else None,
        )
        self._position += len(ids)
        self._position_1.fill_(self._position)
        return self._head_of(hidden_D)

    def step(self, token: int) -> Tensor:
        self._require_room(1)
        if self._row_1D is not None:
            self._row_1D.copy_(self._model.embedding_VD[token], non_blocking=True)
        else:
            self._token_1.fill_(token)
        self._replay()
        return self._logits_1V[0]

    def set_alpha(self, alpha: float) -> None:
        if alpha != 0.0 and not self._model.has_ortho:
            raise InputError(
                "only the Base is here, so alpha cannot be raised",
                received=f"alpha={alpha}",
                todo="open the split with its ortho/ folder",
            )
        self.alpha.fill_(alpha)
        self._with_ortho = alpha != 0.0

    # ---- Greedy decoding without the host ----

    def greedy_tokens(self, num_tokens: int) -> Tensor:
        """Decodes after `prefill` or `step`, each time the likeliest token; ids [num_tokens] on the
        device."""
        self._require_room(num_tokens)
        assert self._row_1D is None, "an embedding on the CPU needs the host for each token"
        found = torch.empty(num_tokens, dtype=torch.int64, device=self._model.device)
        for index in range(num_tokens):
            found[index : index + 1].copy_(self._token_1)
            self._replay()
        return found

    @property
    def step_bytes(self) -> int:
        """Bytes that one step must read of matrices at alpha 0; the cache's come on top."""
        matrices = [matrix for layer in self._model.layers for matrix in layer.matrices]
        return sum(matrix.num_bytes for matrix in [*matrices, self._model.head])

    def read_bytes(self, alpha: float) -> int:
        """Bytes of weights that one step reads with the switch at `alpha`."""
        parts = [matrix.ortho for layer in self._model.layers for matrix in layer.matrices if matrix.ortho]
        gain = self._model.final_gain_D.nbytes
        vectors = gain * (2 * len(self._model.layers) + 1) + gain
        return self.step_bytes + vectors + (sum(part.num_bytes for part in parts) if alpha else 0)

    @property
    def cache_bytes_per_token(self) -> int:
        return (
            2
            * len(self._model.layers)
            * self._model.num_kv_heads
            * self._model.head_dim
            * self._keys.element_size()
        )

    # ---- Setting up ----

    def _make_buffers(self) -> None:
        model, device = self._model, self._model.device
        hidden = model.embedding_VD.shape[1]
        self._cos, self._sin = model.rotary_tables(self._context)
        cache = (len(model.layers), model.num_kv_heads, self._context, model.head_dim)
        self._keys = torch.zeros(cache, dtype=model.dtype, device=device)
        self._values = torch.zeros(cache, dtype=model.dtype, device=device)
        activations = {"dtype": model.dtype, "device": device}
        self._stream_1D = torch.zeros(1, hidden, **activations)
        self._input_1D = torch.zeros(1, hidden, **activations)
        self._qkv_1O = torch.zeros(1, model.layers[0].qkv.num_out, **activations)
        self._attended_1O = torch.zeros(1, model.layers[0].out.num_in, **activations)
        self._channels_1C = torch.zeros(1, model.layers[0].down.num_in, **activations)
        self._logits_1V = torch.zeros(1, model.head.num_out, dtype=torch.float32, device=device)
        self._token_1 = torch.zeros(1, dtype=torch.int64, device=device)
        self._position_1 = torch.zeros(1, dtype=torch.int32, device=device)
        on_cpu = model.embedding_VD.device.type == "cpu" and device.type != "cpu"
        self._row_1D = torch.zeros(1, hidden, **activations) if on_cpu else None
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

    def _capture(self) -> None:
        """One graph for the Base alone and, where there is an Ortho part, one for both, at any alpha."""
        for with_ortho in (False, True) if self._model.has_ortho else (False,):
            self._with_ortho = with_ortho
            self.reset()  # so that what is tried out stays within the cache
            self._launch_all()  # compiles, and allocates the scratch memory
            torch.cuda.synchronize(self._model.device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._launch_all()
            self._graphs[with_ortho] = graph
        self._with_ortho = False
        self.reset()

    def _replay(self) -> None:
        if self._graphs:
            self._graphs[self._with_ortho].replay()
        else:
            self._launch_all()
        self._position += 1

    # ---- One token ----

    def _launch_all(self) -> None:
        model = self._model
        gains = [*(layer.attention_gain_D for layer in model.layers), model.final_gain_D]
        self._embed(gains[0])
        num_parts = self._products[0][3].num_row_blocks
        for index, (layer, products) in enumerate(zip(model.layers, self._products, strict=True)):
            self._one_layer(index, layer, products, num_parts, gains[index + 1])
        self._head(
            self._input_1D,
            self._logits_1V,
            norm=NormFactor(squares=self._squares[0], num_parts=num_parts, eps=model.eps),
        )
        self._choose(self._position_1)

    def _choose(self, position_1: Tensor) -> None:
        """The likeliest token; `position_1` goes on by one."""
        num_logits = self._logits_1V.shape[1]
        num_parts = len(self._peaks)
        block_peaks_kernel[(num_parts,)](
            self._logits_1V, self._peaks, self._places, num_logits, BLOCK=_PEAK_BLOCK
        )
        next_token_kernel[(1,)](
            self._peaks,
            self._places,
            self._token_1,
            position_1,
            num_parts,
            num_logits,
            PARTS=triton.next_power_of_2(num_parts),
        )

    def _embed(self, gain_D: Tensor) -> None:
        table = self._model.embedding_VD if self._row_1D is None else self._row_1D
        hidden = table.shape[1]
        embed_kernel[(1,)](
            table,
            self._token_1 if self._row_1D is None else self._zero_token(),
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
            self._zero_1 = torch.zeros_like(self._token_1)
        return self._zero_1

    def _one_layer(
        self, index: int, layer: FusedLayer, products: Any, num_parts: int, next_gain_D: Tensor
    ) -> None:
        qkv, out, gate_up, down = products
        before, between = self._squares
        eps = self._model.eps
        ortho = self._with_ortho
        factor = NormFactor(squares=before, num_parts=num_parts, eps=eps)
        qkv(self._input_1D, self._qkv_1O, norm=factor, with_ortho=ortho)
        self._attend(index)
        residual = Residual(stream_MO=self._stream_1D, gain_O=layer.mlp_gain_D, squares=between)
        out(self._attended_1O, self._input_1D, residual=residual, with_ortho=ortho)
        factor = NormFactor(squares=between, num_parts=out.num_row_blocks, eps=eps)
        gate_up(self._input_1D, self._channels_1C, norm=factor, with_ortho=ortho)
        residual = Residual(stream_MO=self._stream_1D, gain_O=next_gain_D, squares=before)
        down(self._channels_1C, self._input_1D, residual=residual, with_ortho=ortho)

    def _attend(self, index: int) -> None:
        model = self._model
        decode_attention_kernel[(model.num_kv_heads, _ATTENTION_SPLIT)](
            self._qkv_1O,
            self._cos,
            self._sin,
            self._keys[index],
            self._values[index],
            self._position_1,
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
        )

    def _head_of(self, hidden_D: Tensor) -> Tensor:
        """Logits of the last token of a prompt, whose final norm is done already."""
        self._head(hidden_D[None].contiguous(), self._logits_1V)
        self._choose(self._unused_1)
        return self._logits_1V[0]

    def _require_room(self, num_tokens: int) -> None:
        if num_tokens < 1:
            raise InputError("nothing to read", expected="one token or more", received="none")
        if num_tokens > self._context - self._position:
            raise InputError(
                "the cache has no room for this",
                expected=f"1 to {self._context - self._position} tokens after {self._position}",
                received=f"{num_tokens} tokens",
                todo="make the decoder with a larger context",
            )
