"""A long text as windows to score: those of the quantisation papers, and overlapping ones with context.

The papers (GPTQ, AWQ, SpQR, QuIP, after Frantar et al. 2022, arXiv 2210.17323, section 4) cut the text into
windows that do not overlap and score all predictions within each: the first token of a window is predicted by
nothing, the second by one token, and so on. What is left over at the end is dropped. With a stride, as in
transformers' guide "Perplexity of fixed-length models", each window but the first scores its last `stride`
tokens only, so that all of them see at least `window - stride` tokens; perplexity is lower, and dearer.

Deviation from that guide: it weighs each window by the number of scored tokens less one, although only the
first window has a token that nothing predicts. Here every scored token counts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..data.batches import TokenSequence, secret_only, whole_text
from ..errors import InputError


@dataclass(frozen=True, kw_only=True)
class ScoredWindows:
    """`sequences` for `perplexity.sequence_nlls`, and how many tokens each of them scores."""

    sequences: tuple[TokenSequence, ...]
    num_scored: tuple[int, ...]


def scored_windows(
    ids: Sequence[int], *, window: int, stride: int | None = None, num_windows: int | None = None
) -> ScoredWindows:
    """The first `num_windows` windows of `ids` (all where None); `stride` None or `window`: no overlap.

    Raises:
        InputError: a window of fewer than two tokens, a stride outside 1 to `window`, or too short a text.
    """
    step = window if stride is None else stride
    if window < 2 or not 1 <= step <= window:
        raise InputError(
            "windows that score nothing",
            expected="window of 2 or more tokens, stride from 1 to the window",
            received=f"window {window}, stride {stride}",
        )
    available = 0 if len(ids) < window else 1 + (len(ids) - window) // step
    wanted = available if num_windows is None else num_windows
    if not 1 <= wanted <= available:
        raise InputError(
            "not enough text for the windows asked for",
            expected=f"{max(wanted, 1):,} windows of {window:,} tokens, {step:,} apart",
            received=f"{len(ids):,} tokens, which is {available:,} windows",
            todo="ask for fewer or shorter windows, or give more text",
        )
    sequences = tuple(_sequence(ids, number * step, window, step) for number in range(wanted))
    first = window - 1
    return ScoredWindows(sequences=sequences, num_scored=(first, *(min(step, first),) * (wanted - 1)))


def _sequence(ids: Sequence[int], start: int, window: int, step: int) -> TokenSequence:
    part = [int(token) for token in ids[start : start + window]]
    if start == 0 or step == window:
        return whole_text(part)
    return secret_only(part[: window - step], part[window - step :])
