"""What a model does with the rest of a passage: for every token, is it the likeliest one, and how likely.

A passage is continued word for word by greedy decoding exactly where every one of its tokens is the likeliest
after the true ones before it, so one pass over the true text says what free running would do, up to the first
token that is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..data.batches import collate, secret_only
from ..load.loaded import LoadedModel
from ..memory.ladder import Ladder
from ..numerics.likelihood import likeliest, token_nll
from ..transform.training import hidden_states, mixed_precision
from .batching import LookSize, fixed_size, in_batches


@dataclass(frozen=True, kw_only=True)
class Continued:
    """One passage's continuation, token by token."""

    hits: tuple[bool, ...]  # the true token is the likeliest
    nlls: tuple[float, ...]  # nats


@torch.no_grad()
def recite(
    loaded: LoadedModel,
    passages: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    ladder: Ladder[LookSize] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Continued]:
    """For each (prefix, continuation) in token ids. `ladder` says what is done when memory runs out."""
    length = max((len(prefix) + len(rest) for prefix, rest in passages), default=1)
    ladder = ladder or fixed_size(32 * length)
    found: list[Continued] = []
    for some in in_batches(passages, ladder, lambda group: _continued(loaded, group), tokens_per_item=length):
        found.extend(some)
        progress(len(found), len(passages))
    return found


def _continued(loaded: LoadedModel, group: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Continued]:
    batch = collate([secret_only(prefix, rest) for prefix, rest in group]).to(loaded.device)
    chosen_BT = batch.weights_BT > 0
    targets_N = batch.targets_BT[chosen_BT]
    with mixed_precision(loaded.device):
        hidden_ND = hidden_states(loaded, batch)[chosen_BT]
        nlls = token_nll(hidden_ND, loaded.head, targets_N).double().cpu().numpy()
        hits = (likeliest(hidden_ND, loaded.head) == targets_N).cpu().numpy()
    ends = np.cumsum([len(rest) for _, rest in group])[:-1]
    return [
        Continued(hits=tuple(map(bool, hit)), nlls=tuple(map(float, nll)))
        for hit, nll in zip(np.split(hits, ends), np.split(nlls, ends), strict=True)
    ]
