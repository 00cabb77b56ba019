"""Perplexity on public text, window by window, so that two models can be compared in pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..data.batches import collate, whole_text
from ..load.loaded import LoadedModel
from ..numerics.likelihood import token_nll
from ..transform.training import hidden_states, mixed_precision


@torch.no_grad()
def window_nlls(
    loaded: LoadedModel,
    windows: Sequence[Sequence[int]],
    *,
    batch_size: int = 4,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """Summed NLL in nats of each window's tokens but its first, float64 [num_windows]. No padding counts."""
    sums: list[float] = []
    for start in range(0, len(windows), batch_size):
        group = windows[start : start + batch_size]
        batch = collate([whole_text([int(token) for token in window]) for window in group]).to(loaded.device)
        chosen_BT = batch.weights_BT > 0
        with mixed_precision(loaded.device):
            hidden_ND = hidden_states(loaded, batch)[chosen_BT]
            nll_N = token_nll(hidden_ND, loaded.head_VD, batch.targets_BT[chosen_BT])
        nll_BT = torch.zeros(chosen_BT.shape, dtype=torch.float64, device=loaded.device)
        nll_BT[chosen_BT] = nll_N.double()
        sums.extend(nll_BT.sum(dim=1).tolist())
        progress(min(start + batch_size, len(windows)), len(windows))
    return np.asarray(sums)
