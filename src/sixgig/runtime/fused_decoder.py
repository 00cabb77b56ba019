"""Decoding with fused kernels: all launches of a token in one CUDA graph, captured once.

There are two graphs: one of the Base alone, for alpha 0, which is the graph of a model without Ortho part,
and one of both parts, at any alpha. Greedy decoding needs the host only to replay. The prompt is read by
dense products over weights that are dequantised on the way.

Legend: D hidden size, V vocabulary, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import InputError
from ..numerics.kernels.product import Launch
from .fused_model import FusedModel
from .fused_prefill import read_prompt
from .fused_step import FusedStep


class FusedDecoder:
    """A `Decoder` (see `decoder`) over a `FusedModel`, one sequence."""

    def __init__(
        self,
        model: FusedModel,
        *,
        context_tokens: int,
        launches: Mapping[str, Launch] | None = None,
        capture: bool = True,
        with_dependent_launch: bool | None = None,
    ) -> None:
        """`launches`: how each kind of matrix ("qkv", "out", "gate_up", "down", "head") is cut; default by
        shape. `with_dependent_launch`: see FusedStep."""
        self._model, self._context = model, context_tokens
        self._step = FusedStep(
            model, context_tokens, launches or {}, with_dependent_launch=with_dependent_launch
        )
        self._position = 0
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
        self._step.reset()

    def prefill(self, ids: Sequence[int]) -> Tensor:
        self._require_room(len(ids))
        hidden_D = read_prompt(
            self._model,
            torch.tensor(ids),
            self._position,
            self._step.cos,
            self._step.sin,
            self._step.keys,
            self._step.values,
            self._step.alpha if self._with_ortho else None,
        )
        self._position += len(ids)
        self._step.position_1.fill_(self._position)
        return self._step.launch_head(hidden_D)

    def step(self, token: int) -> Tensor:
        self._require_room(1)
        if self._step.row_1D is not None:
            self._step.row_1D.copy_(self._model.embedding_VD[token], non_blocking=True)
        else:
            self._step.token_1.fill_(token)
        self._replay()
        return self._step.logits_1V[0]

    def set_alpha(self, alpha: float) -> None:
        if alpha != 0.0 and not self._model.has_ortho:
            raise InputError(
                "only the Base is here, so alpha cannot be raised",
                received=f"alpha={alpha}",
                todo="open the split with its ortho/ folder",
            )
        self._step.alpha.fill_(alpha)
        self._with_ortho = alpha != 0.0

    # ---- Greedy decoding without the host ----

    def greedy_tokens(self, num_tokens: int) -> Tensor:
        """Decodes after `prefill` or `step`, each time the likeliest token; ids [num_tokens] on the
        device."""
        self._require_room(num_tokens)
        assert self._step.row_1D is None, "an embedding on the CPU needs the host for each token"
        found = torch.empty(num_tokens, dtype=torch.int64, device=self._model.device)
        for index in range(num_tokens):
            found[index : index + 1].copy_(self._step.token_1)
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
            * self._step.keys.element_size()
        )

    # ---- Graphs ----

    def _capture(self) -> None:
        """One graph for the Base alone and, where there is an Ortho part, one for both, at any alpha."""
        for with_ortho in (False, True) if self._model.has_ortho else (False,):
            self.reset()  # so that what is tried out stays within the cache
            self._step.launch(with_ortho=with_ortho)  # compiles, and allocates the scratch memory
            torch.cuda.synchronize(self._model.device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._step.launch(with_ortho=with_ortho)
            self._graphs[with_ortho] = graph
        self.reset()

    def _replay(self) -> None:
        if self._graphs:
            self._graphs[self._with_ortho].replay()
        else:
            self._step.launch(with_ortho=self._with_ortho)
        self._position += 1

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
