"""What the generation loop asks of a model: a prompt, then one token at a time, over a cache of fixed size.

Kinds of it: a transformers network with its own static cache, which runs anywhere; a lean one for models like
Llama; and fused kernels under a CUDA graph. Each holds one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Decoder(Protocol):
    """One sequence on its way through one model.

    Logits are those after the last token read, fp32 [V]; the tensor may be overwritten by the next call.
    """

    @property
    def context_tokens(self) -> int:
        """How many tokens the cache holds at most."""
        ...

    @property
    def position(self) -> int:
        """How many tokens have been read since `reset`."""
        ...

    def reset(self) -> None:
        """Forgets the sequence; what was captured or allocated stays."""
        ...

    def prefill(self, ids: Sequence[int]) -> Tensor:
        """Reads a prompt, after whatever was read before. Raises InputError where the cache is too small."""
        ...

    def step(self, token: int) -> Tensor:
        """Reads one token. Raises InputError where the cache is full."""
        ...

    def read_bytes(self, alpha: float) -> int:
        """Bytes of weights that one step reads with the switch at `alpha`, in the form that they have here;
        the cache comes on top."""
        ...

    def set_alpha(self, alpha: float) -> None:
        """Turns the switch; takes effect at the next call, and nothing is captured again. What is in the
        cache was computed with the earlier alpha. Raises InputError where only the Base is here."""
        ...
