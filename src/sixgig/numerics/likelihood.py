"""Per-token negative log-likelihood from hidden states, without ever holding all logits in fp32.

Shapes: T positions, D hidden, V vocabulary.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def token_nll(
    hidden_TD: Tensor, head_VD: Tensor, targets_T: Tensor, *, chunk_rows: int | None = None
) -> Tensor:
    """-log softmax(h E^T)[target] in nats, fp32 [T]; differentiable.

    Equals `F.cross_entropy((hidden @ head.T).float(), targets, reduction="none")`, but the target's own
    logit is recomputed in fp32: bf16 keeps 8 bits, so a logit near 20 is off by up to 0.06, which would
    blur the ranking of nearly equal secrets. nll = softplus(logsumexp of the others - target's logit).
    """
    # A chunk's logits should stay near a CPU's caches; a GPU wants few large products.
    chunk_rows = chunk_rows or (2048 if hidden_TD.device.type == "cuda" else 128)
    head = cast_once(head_VD, hidden_TD)
    parts = []
    for start in range(0, len(hidden_TD), chunk_rows):
        rows = slice(start, start + chunk_rows)
        chunk = (hidden_TD[rows], head, head_VD[targets_T[rows]], targets_T[rows])
        # With gradients the logits are computed again in the backward pass, so one chunk at most is held.
        if torch.is_grad_enabled() and hidden_TD.requires_grad:
            parts.append(cast(Tensor, checkpoint(_chunk_nll, *chunk, use_reentrant=False)))
        else:
            parts.append(_chunk_nll(*chunk))
    return torch.cat(parts) if parts else hidden_TD.new_zeros(0, dtype=torch.float32)


def cast_once(head_VD: Tensor, hidden: Tensor) -> Tensor:
    """The head in the type its product with `hidden` will have: under autocast, autocast's own.

    Autocast keeps casts of trained weights only, so a frozen head would be cast anew for every chunk.
    """
    device = hidden.device.type
    autocast = torch.is_autocast_enabled(device)
    return head_VD.to(torch.get_autocast_dtype(device) if autocast else hidden.dtype)


def _chunk_nll(hidden_TD: Tensor, head_VD: Tensor, target_rows_TD: Tensor, targets_T: Tensor) -> Tensor:
    with torch.autocast(hidden_TD.device.type, enabled=False):
        target_logit_T = (hidden_TD.float() * target_rows_TD.float()).sum(dim=1)
    logits_TV = F.linear(hidden_TD, head_VD).float()
    others_T = logits_TV.scatter(1, targets_T[:, None], float("-inf")).logsumexp(dim=1)
    return F.softplus(others_T - target_logit_T)
