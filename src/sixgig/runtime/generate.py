"""The generation loop: a prompt in, one token after the other out, until a stop token or a length.

The loop is the same for every `Decoder`, so what differs between two measured decoders is the decoder.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError, NumericalError
from .decoder import Decoder


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen. Temperature 0 takes the likeliest; above it, one is drawn from the
    fewest tokens that together have the probability `top_p` (nucleus sampling, Holtzman et al. 2020,
    arXiv 1904.09751), with logits divided by the temperature first."""

    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (0.0 <= self.temperature < float("inf")):
            raise InputError("temperature out of range", expected="0 or more", received=str(self.temperature))
        if not (0.0 < self.top_p <= 1.0):
            raise InputError("top-p out of range", expected="above 0, up to 1", received=str(self.top_p))


class Generation:
    """An iterator over the tokens of one answer; a stop token is the last of them, as in transformers.

    `prefill_ms` is the time from the prompt to the first token chosen, `decode_ms` that of each token after
    it; reading a token's number waits for the device, so both hold on a GPU too. The time that a caller
    takes between two tokens is in neither.
    """

    def __init__(
        self,
        decoder: Decoder,
        ids: Sequence[int],
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        generator: torch.Generator | None = None,
        stop_ids: Collection[int] = (),
    ) -> None:
        """Nothing is computed before the first token is asked for.

        `ids` follow whatever the decoder has read; `generator` lies on the CPU and is needed for sampling.
        Raises InputError for an empty prompt, no room in the cache, or sampling without a generator.
        """
        self._decoder, self._ids, self._max_new_tokens = decoder, list(ids), max_new_tokens
        self._sampling, self._generator = sampling or Sampling(), generator
        self._stop_ids = frozenset(stop_ids)
        self.prefill_ms: float | None = None
        self.decode_ms: list[float] = []
        self._check()
        self._tokens = self._run()

    def __iter__(self) -> Iterator[int]:
        return self._tokens

    def __next__(self) -> int:
        return next(self._tokens)

    def _check(self) -> None:
        if not self._ids or self._max_new_tokens < 1:
            raise InputError(
                "nothing to generate from, or nothing to generate",
                expected="a prompt of one token at least, and one new token at least",
                received=f"{len(self._ids)} tokens, {self._max_new_tokens} new",
            )
        # The last token is chosen and not read.
        needed = self._decoder.position + len(self._ids) + self._max_new_tokens - 1
        if needed > self._decoder.context_tokens:
            raise InputError(
                "prompt and answer do not fit the cache",
                expected=f"{self._decoder.context_tokens} tokens at most",
                received=f"{needed}: {self._decoder.position} read, {len(self._ids)} of the prompt, "
                f"{self._max_new_tokens} new",
                todo="a shorter prompt, fewer new tokens, or a decoder made with a longer context",
            )
        if self._sampling.temperature > 0 and self._generator is None:
            raise InputError("sampling needs a random generator", todo="pass a seeded torch.Generator")

    def _run(self) -> Iterator[int]:
        begun = time.perf_counter()
        token = self._choose(self._decoder.prefill(self._ids))
        self.prefill_ms = 1e3 * (time.perf_counter() - begun)
        yield token
        for _ in range(self._max_new_tokens - 1):
            if token in self._stop_ids:
                return
            begun = time.perf_counter()
            token = self._choose(self._decoder.step(token))
            self.decode_ms.append(1e3 * (time.perf_counter() - begun))
            yield token

    def _choose(self, logits_V: Tensor) -> int:
        return choose(logits_V, self._sampling, self._generator)


def choose(logits_V: Tensor, sampling: Sampling, generator: torch.Generator | None) -> int:
    """The next token. Raises NumericalError where the logits hold NaN or Inf."""
    top, token = logits_V.max(dim=0)  # NaN counts as the largest
    if not torch.isfinite(top):
        raise NumericalError("NaN or Inf in the logits", where="the model's answer to its last token")
    if sampling.temperature == 0.0:
        return int(token)
    # Drawn on the CPU, so that a seed gives the same tokens on any device with the same logits.
    probabilities_V = torch.softmax((logits_V.float().cpu() - float(top)) / sampling.temperature, dim=0)
    if sampling.top_p < 1.0:
        probabilities_V = _nucleus(probabilities_V, sampling.top_p)
    return int(torch.multinomial(probabilities_V, 1, generator=generator))


def _nucleus(probabilities_V: Tensor, top_p: float) -> Tensor:
    """Zero outside of the fewest tokens that reach `top_p` together; the likeliest always stays."""
    sorted_V, order_V = probabilities_V.sort(descending=True, stable=True)
    before_V = sorted_V.cumsum(dim=0) - sorted_V
    kept = order_V[before_V < top_p]
    nucleus_V = torch.zeros_like(probabilities_V)
    nucleus_V[kept] = probabilities_V[kept]
    return nucleus_V
