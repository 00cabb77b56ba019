"""How likely a model finds continuations: the one forward pass behind every leakage measure.

Shapes: C prefixes, R continuations each, S tokens a continuation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby

import numpy as np
import torch
from torch import Tensor

from ..load.loaded import LoadedModel
from ..numerics.likelihood import token_nll
from ..transform.training import mixed_precision


@dataclass(frozen=True, kw_only=True)
class Continuations:
    """One prefix and the continuations to score after it, as token ids."""

    prefix_ids: tuple[int, ...]
    continuation_ids: tuple[tuple[int, ...], ...]


@torch.no_grad()
def score_continuations(
    loaded: LoadedModel,
    items: Sequence[Continuations],
    *,
    tokens_per_batch: int = 2048,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[np.ndarray]:
    """Summed NLL in nats of each continuation given its prefix; one float64 array [R] an item.

    The prefix runs once and all its continuations share its cache. Items with prefixes of one length go
    through together, so nothing is padded on the left; continuations are padded on the right, where causal
    attention cannot see it.
    """
    results: list[np.ndarray] = [np.empty(0)] * len(items)
    order = sorted(range(len(items)), key=lambda index: len(items[index].prefix_ids))
    done = 0
    for _, same_length in groupby(order, key=lambda index: len(items[index].prefix_ids)):
        for group in _packs(list(same_length), items, tokens_per_batch):
            nlls = _score_group(loaded, [items[index] for index in group])
            for index, nll_R in zip(group, nlls, strict=True):
                results[index] = nll_R
            done += len(group)
            progress(done, len(items))
    return results


def _packs(indices: list[int], items: Sequence[Continuations], tokens_per_batch: int) -> list[list[int]]:
    packs: list[list[int]] = [[]]
    size = 0
    for index in indices:
        cost = sum(len(ids) for ids in items[index].continuation_ids)
        if packs[-1] and size + cost > tokens_per_batch:
            packs.append([])
            size = 0
        packs[-1].append(index)
        size += cost
    return packs


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
        nll_M = token_nll(hidden_NSD[real_NS], loaded.head_VD, targets_NS[real_NS])
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
