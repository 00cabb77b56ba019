"""How likely a model finds continuations: the one forward pass behind every leakage measure.

Shapes: C prefixes, R continuations each, S tokens a continuation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from ..load.loaded import LoadedModel
from ..memory.ladder import Ladder
from ..numerics.likelihood import at_most_rows, token_nll
from ..transform.training import mixed_precision
from .batching import LookSize, fixed_size


@dataclass(frozen=True, kw_only=True)
class Continuations:
    """One prefix and the continuations to score after it, as token ids."""

    prefix_ids: tuple[int, ...]
    continuation_ids: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Some continuations of one item: all of them, unless batches had to become smaller than an item."""

    index: int  # the item's place among all
    item: Continuations


@torch.no_grad()
def score_continuations(
    loaded: LoadedModel,
    items: Sequence[Continuations],
    *,
    tokens_per_batch: int = 2048,
    ladder: Ladder[LookSize] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[np.ndarray]:
    """Summed NLL in nats of each continuation given its prefix; one float64 array [R] an item.

    The prefix runs once and all its continuations share its cache. Items with prefixes of one length go
    through together, so nothing is padded on the left; continuations are padded on the right, where causal
    attention cannot see it. `ladder` says what is done when memory runs out, and takes the place of
    `tokens_per_batch`.
    """
    ladder = ladder or fixed_size(tokens_per_batch)
    found: list[list[np.ndarray]] = [[] for _ in items]
    queue = _Queue(items)
    while queue.num_done < len(items):

        def attempt(size: LookSize) -> tuple[list[_Part], list[np.ndarray]]:
            parts = queue.next_parts(size)
            with at_most_rows(size.logit_rows):
                return parts, _score_group(loaded, [part.item for part in parts])

        parts, nlls = ladder.run(attempt)
        for part, nll_R in zip(parts, nlls, strict=True):
            found[part.index].append(nll_R)
        queue.finish(parts)
        progress(queue.num_done, len(items))
    return [np.concatenate(parts) for parts in found]


class _Queue:
    """Items by the lengths of their prefix and continuations, and how far they are scored."""

    def __init__(self, items: Sequence[Continuations]) -> None:
        self._items = items
        self._order = sorted(range(len(items)), key=lambda index: _shape(items[index]))
        self._num_scored = 0  # continuations of the item in hand
        self.num_done = 0  # items

    def next_parts(self, size: LookSize) -> list[_Part]:
        """What goes through together next; nothing is taken off the queue."""
        first, *others = self._order[self.num_done :]
        rest = self._items[first].continuation_ids[self._num_scored :]
        num_tokens = sum(map(len, rest))
        if size.cut_items and num_tokens > size.tokens:
            return [self._part(first, rest[: _num_within(rest, size.tokens)])]
        parts = [self._part(first, rest)]
        for index in others:
            item = self._items[index]
            num_tokens += sum(map(len, item.continuation_ids))
            is_like = len(item.prefix_ids) == len(self._items[first].prefix_ids)
            if not is_like or num_tokens > size.tokens:
                break
            parts.append(self._part(index, item.continuation_ids))
        return parts

    def _part(self, index: int, continuation_ids: tuple[tuple[int, ...], ...]) -> _Part:
        prefix_ids = self._items[index].prefix_ids
        return _Part(
            index=index, item=Continuations(prefix_ids=prefix_ids, continuation_ids=continuation_ids)
        )

    def finish(self, parts: Sequence[_Part]) -> None:
        for part in parts:
            self._num_scored += len(part.item.continuation_ids)
            if self._num_scored == len(self._items[part.index].continuation_ids):
                self.num_done, self._num_scored = self.num_done + 1, 0


def _shape(item: Continuations) -> tuple[int, int]:
    """Prefixes of one length go through together, and of those the ones whose longest continuations are
    alike, since all of a batch are padded to the longest."""
    return len(item.prefix_ids), max(map(len, item.continuation_ids))


def _num_within(continuation_ids: Sequence[Sequence[int]], num_tokens: int) -> int:
    """How many of the first continuations have `num_tokens` at most together; at least one."""
    totals = np.cumsum([len(ids) for ids in continuation_ids])
    return max(1, int(np.searchsorted(totals, num_tokens, side="right")))


def _score_group(loaded: LoadedModel, items: list[Continuations]) -> list[np.ndarray]:
    device = loaded.device
    counts = [len(item.continuation_ids) for item in items]
    flat = [ids for item in items for ids in item.continuation_ids]
    lengths = torch.tensor([len(ids) for ids in flat])
    real_NS = torch.arange(int(lengths.max())) < lengths[:, None]
    targets_NS = torch.zeros(real_NS.shape, dtype=torch.int64)
    targets_NS[real_NS] = torch.tensor(list(chain.from_iterable(flat)))  # row by row, as the mask is read
    real_NS, targets_NS = real_NS.to(device), targets_NS.to(device)
    owner_N = torch.repeat_interleave(torch.arange(len(items)), torch.tensor(counts)).to(device)
    with mixed_precision(device):
        hidden_NSD = _continuation_hidden(loaded, items, targets_NS, owner_N)
        nll_M = token_nll(hidden_NSD[real_NS], loaded.head, targets_NS[real_NS])
    nll_NS = torch.zeros(targets_NS.shape, dtype=torch.float64, device=device)
    nll_NS[real_NS] = nll_M.double()
    return list(np.split(nll_NS.sum(dim=1).cpu().numpy(), np.cumsum(counts)[:-1]))


def _continuation_hidden(
    loaded: LoadedModel, items: list[Continuations], targets_NS: Tensor, owner_N: Tensor
) -> Tensor:
    """Hidden states [N, S, D] that predict each continuation token."""
    prefix_CP = torch.tensor([item.prefix_ids for item in items], device=loaded.device)
    opening = loaded.network.base_model(input_ids=prefix_CP, use_cache=True)
    first_N1D = opening.last_hidden_state[:, -1:][owner_N]
    if targets_NS.shape[1] == 1:
        return first_N1D
    cache = opening.past_key_values
    cache.batch_select_indices(owner_N)
    rest = loaded.network.base_model(input_ids=targets_NS[:, :-1], past_key_values=cache, use_cache=True)
    return torch.cat([first_N1D, rest.last_hidden_state], dim=1)
