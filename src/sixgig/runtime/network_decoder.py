"""A Decoder over any transformers network, split layers included: its own forward pass and static cache.

It runs wherever the network runs, and its tokens are those of the network's `generate` on a static cache of
the same length. (In bf16 attention over masked places may round otherwise than over none, so that near ties
turn; in fp32 the default cache gives the same tokens.) It is as slow as the network's Python;
`lean_decoder.py` is the quicker one where the architecture allows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..layers.cpu_linear import CpuLinear
from ..layers.read_bytes import read_bytes
from ..layers.split_linear import SplitLinear, set_alpha

PREFILL_CHUNK_TOKENS = 512


class NetworkDecoder:
    """One sequence through `network`, over a StaticCache that is made once."""

    def __init__(
        self, network: Any, *, context_tokens: int, prefill_chunk_tokens: int = PREFILL_CHUNK_TOKENS
    ) -> None:
        """`network`: a transformers causal language model, on its device, in its type.

        A prompt is read `prefill_chunk_tokens` at a time, which bounds the activations; logits are computed
        for the last position alone.
        """
        from transformers import StaticCache

        require_context(network.config, context_tokens)
        self._network, self._chunk_tokens = network, prefill_chunk_tokens
        self._device = network.get_input_embeddings().weight.device
        self._context_tokens, self._position = context_tokens, 0
        self._cache = StaticCache(config=network.config, max_cache_len=context_tokens)

    @property
    def context_tokens(self) -> int:
        """How many tokens the cache holds at most."""
        return self._context_tokens

    @property
    def position(self) -> int:
        """How many tokens have been read since `reset`."""
        return self._position

    def reset(self) -> None:
        """Forgets the sequence; the cache stays allocated."""
        self._cache.reset()
        self._position = 0

    def read_bytes(self, alpha: float) -> int:
        """Bytes of weights that one step reads with the switch at `alpha`: one row of the embedding, and all
        else."""
        table = self._network.get_input_embeddings().weight
        head = self._network.get_output_embeddings()
        is_tied = not isinstance(head, CpuLinear) and head.weight.data_ptr() == table.data_ptr()
        split = [one for one in self._network.modules() if isinstance(one, SplitLinear | CpuLinear)]
        rest = sum(parameter.nbytes for parameter in self._network.parameters())
        unread = 0 if is_tied else table.nbytes
        return rest - unread + table[0].nbytes + sum(read_bytes(layer, alpha) for layer in split)

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
        set_alpha(self._network, alpha)

    @torch.no_grad()  # not inference_mode: what split layers keep from here may later meet autograd
    def _read(self, ids: Sequence[int]) -> Tensor:
        ids_1T = torch.tensor([ids], device=self._device)
        positions_1T = torch.arange(self._position, self._position + len(ids), device=self._device)[None]
        output = self._network(
            input_ids=ids_1T,
            position_ids=positions_1T,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._position += len(ids)
        return output.logits[0, -1].float()


def require_context(config: Any, context_tokens: int) -> None:
    """Raises InputError where a cache would be longer than the model's positions, or hold nothing."""
    longest = config.max_position_embeddings
    if not 0 < context_tokens <= longest:
        raise InputError(
            "a cache of this length does not suit the model",
            expected=f"1 to {longest} tokens",
            received=f"{context_tokens}",
        )


def require_room(position: int, ids: Sequence[int], context_tokens: int) -> None:
    """Raises InputError where `ids` are none, or more than the cache still holds."""
    if not ids:
        raise InputError("no tokens to read", expected="one at least")
    if position + len(ids) > context_tokens:
        raise InputError(
            "the cache is full",
            expected=f"{context_tokens - position} more tokens at most",
            received=f"{len(ids)}",
            todo="reset, or make the decoder with a longer context",
        )
