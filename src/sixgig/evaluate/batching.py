"""Batches of a look that fit: what is finished stays, and what ran out of memory is cut anew, smaller."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ..memory.ladder import Fallbacks, Ladder, Move, fixed
from ..numerics.likelihood import at_most_rows

T = TypeVar("T")
R = TypeVar("R")

LEAST_TOKENS = 64  # a batch of fewer holds single short texts
FEWER_LOGIT_ROWS = (256, 64)
TEXT_TOKENS = 64  # that one canary's text counts for, at most


@dataclass(frozen=True, kw_only=True)
class LookSize:
    """How a look is cut. `cut_items`: the continuations of one prefix may go through in several batches, its
    prefix each time anew. `logit_rows` None: as many as usual."""

    tokens: int
    cut_items: bool = False
    logit_rows: int | None = None

    def texts(self, tokens_per_text: int) -> int:
        """How many texts of that length go through at once; at least one."""
        return max(1, self.tokens // tokens_per_text)


def look_ladder(tokens_per_batch: int, fallbacks: Fallbacks, *, where: str = "") -> Ladder[LookSize]:
    """Half as many tokens a batch, then fewer rows of logits, then one continuation at a time."""
    moves = [
        Move(lower=_fewer_tokens, says=lambda size: f"batches of {size.tokens} tokens now"),
        Move(lower=_fewer_rows, says=lambda size: f"{size.logit_rows} rows of logits at a time now"),
        Move(lower=_one_by_one, says=lambda size: "one continuation at a time now"),
    ]
    todo = "use a smaller model, or --device cpu"
    return fallbacks.ladder("measuring", LookSize(tokens=tokens_per_batch), moves, where=where, todo=todo)


def fixed_size(tokens: int) -> Ladder[LookSize]:
    """For a caller that wants batches of this size or none."""
    return fixed(LookSize(tokens=tokens))


def in_batches(
    items: Sequence[T],
    ladder: Ladder[LookSize],
    work: Callable[[Sequence[T]], Sequence[R]],
    *,
    tokens_per_item: int,
) -> Iterator[Sequence[R]]:
    """`work` over consecutive batches: each one's results, one an item, in order."""
    done = 0
    while done < len(items):

        def attempt(size: LookSize, start: int = done) -> Sequence[R]:
            with at_most_rows(size.logit_rows):
                return work(items[start : start + size.texts(tokens_per_item)])

        results = ladder.run(attempt)
        done += len(results)
        yield results


def _fewer_tokens(size: LookSize) -> LookSize | None:
    half = size.tokens // 2
    return replace(size, tokens=half, cut_items=True) if half >= LEAST_TOKENS else None


def _fewer_rows(size: LookSize) -> LookSize | None:
    fewer = [rows for rows in FEWER_LOGIT_ROWS if size.logit_rows is None or rows < size.logit_rows]
    return replace(size, logit_rows=fewer[0]) if fewer else None


def _one_by_one(size: LookSize) -> LookSize | None:
    return replace(size, tokens=1, cut_items=True) if size.tokens > 1 else None
