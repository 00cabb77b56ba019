"""Tokens as text while they come, whole characters only.

A character may take several tokens, and a tokenizer may write a space differently once the next word is
there. transformers' TextStreamer waits for the end of a word, or of a Chinese character; this hands its
pieces to whoever iterates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch


def stream_text(tokens: Iterable[int], tokenizer: Any) -> Iterator[str]:
    """Pieces of text, none empty, whose sum is the decoded answer; special tokens are left out."""
    from transformers import TextStreamer

    pieces: list[str] = []

    class Streamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if text:
                pieces.append(text)

    streamer = Streamer(tokenizer, skip_special_tokens=True)
    for token in tokens:
        streamer.put(torch.tensor([token]))
        yield from pieces
        pieces.clear()
    streamer.end()
    yield from pieces
