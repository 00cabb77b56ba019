"""All logits of a short text, to be compared bit by bit; everything else here never holds them together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..data.batches import collate, whole_text
from ..load.loaded import LoadedModel
from ..transform.training import hidden_states, mixed_precision


@torch.no_grad()
def logits_of(loaded: LoadedModel, ids: Sequence[int]) -> Tensor:
    """Logits [T, V] after each token of `ids`, in fp32 on the CPU (computed in bf16, as every look is)."""
    batch = collate([whole_text(ids)]).to(loaded.device)
    with mixed_precision(loaded.device):
        hidden_1TD = hidden_states(loaded, batch)
        return loaded.head.logits(hidden_1TD)[0].float().cpu()


def difference(ours_TV: Tensor, theirs_TV: Tensor) -> float:
    """The largest |ours - theirs|; 0 only where all bits are equal (but for the sign of a zero)."""
    return float((ours_TV - theirs_TV).abs().max())
