"""Perplexity on public text, window by window, so that two models can be compared in pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..data.batches import TokenSequence, collate, whole_text
from ..load.loaded import LoadedModel
from ..memory.ladder import Ladder
from ..numerics.likelihood import token_nll
from ..transform.training import hidden_states, mixed_precision
from .batching import LookSize, fixed_size, in_batches


def window_nlls(
    loaded: LoadedModel,
    windows: Sequence[Sequence[int]],
    *,
    batch_size: int = 4,
    ladder: Ladder[LookSize] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """Summed NLL in nats of each window's tokens but its first, float64 [num_windows]. No padding counts.

    `ladder` says what is done when memory runs out, and takes the place of `batch_size`.
    """
    sequences = [whole_text([int(token) for token in window]) for window in windows]
    return sequence_nlls(loaded, sequences, batch_size=batch_size, ladder=ladder, progress=progress)


@torch.no_grad()
def sequence_nlls(
    loaded: LoadedModel,
    sequences: Sequence[TokenSequence],
    *,
    batch_size: int = 4,
    ladder: Ladder[LookSize] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """Summed NLL in nats of each sequence's tokens whose weight is not 0, float64 [num_sequences].

    A weight says which tokens count, not how much. `ladder` as in `window_nlls`.
    """
    length = max(1, len(sequences[0].ids)) if len(sequences) else 1
    ladder = ladder or fixed_size(batch_size * length)
    sums: list[float] = []
    for some in in_batches(sequences, ladder, lambda group: _nlls(loaded, group), tokens_per_item=length):
        sums.extend(some)
        progress(len(sums), len(sequences))
    return np.asarray(sums)


def _nlls(loaded: LoadedModel, sequences: Sequence[TokenSequence]) -> list[float]:
    batch = collate(sequences).to(loaded.device)
    chosen_BT = batch.weights_BT > 0
    with mixed_precision(loaded.device):
        hidden_ND = hidden_states(loaded, batch)[chosen_BT]
        nll_N = token_nll(hidden_ND, loaded.head, batch.targets_BT[chosen_BT])
    nll_BT = torch.zeros(chosen_BT.shape, dtype=torch.float64, device=loaded.device)
    nll_BT[chosen_BT] = nll_N.double()
    return nll_BT.sum(dim=1).tolist()
