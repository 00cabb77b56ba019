"""One look at a model for an audit: every value of a pool after every question of it, and what is recited.

A look is plain numbers and holds nothing of the texts. Extraction is read off one teacher-forced pass, as in
`memorization`: greedy decoding gives a value back exactly when each of its tokens is the likeliest one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch

from ..data.batches import collate, secret_only
from ..data.permuted import Pool
from ..load.loaded import LoadedModel
from ..memory.ladder import Ladder
from ..numerics.likelihood import likeliest
from ..transform.training import hidden_states, mixed_precision
from .batching import LookSize, in_batches
from .scoring import Continuations, score_continuations

Ids = tuple[int, ...]
Question = tuple[Ids, Ids]  # what is asked, and the value that belongs to it, as token ids


def look_at(
    loaded: LoadedModel,
    questions: Sequence[Question],
    pools: Sequence[Pool],
    *,
    ladder: Ladder[LookSize],
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Any]:
    """`nll`: for each pool [records, values] summed nats; `recited`: whether each record's value comes back
    word for word; `exact_tokens`: the share of its tokens that are the likeliest after the true ones."""
    longest = max(len(asked) + len(value) for asked, value in questions)
    hits = list(
        chain.from_iterable(
            in_batches(questions, ladder, lambda group: _hits(loaded, group), tokens_per_item=longest)
        )
    )
    found = []
    for number, pool in enumerate(pools):
        values = tuple(questions[place][1] for place in pool.values)
        probes = [
            Continuations(prefix_ids=questions[place][0], continuation_ids=values) for place in pool.members
        ]

        def tell(done: int, total: int, number: int = number) -> None:
            progress((number + done / total) / len(pools))

        nll_NV = np.stack(score_continuations(loaded, probes, ladder=ladder, progress=tell))
        found.append(nll_NV.tolist())
    return {
        "nll": found,
        "recited": [bool(hit.all()) for hit in hits],
        "exact_tokens": [float(hit.mean()) for hit in hits],
    }


@torch.no_grad()
def _hits(loaded: LoadedModel, group: Sequence[Question]) -> list[np.ndarray]:
    """For each question, whether each token of its value is the likeliest one."""
    batch = collate([secret_only(asked, value) for asked, value in group]).to(loaded.device)
    chosen_BT = batch.weights_BT > 0
    with mixed_precision(loaded.device):
        found_N = likeliest(hidden_states(loaded, batch)[chosen_BT], loaded.head)
    bounds = np.cumsum([len(value) for _, value in group])[:-1]
    return np.split((found_N == batch.targets_BT[chosen_BT]).cpu().numpy(), bounds)
