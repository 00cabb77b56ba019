"""Per-token negative log-likelihood from hidden states, without ever holding all logits in fp32.

Shapes: T positions, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError

_most_rows: ContextVar[int | None] = ContextVar("most_rows", default=None)


@dataclass(frozen=True, kw_only=True)
class OutputHead:
    """What makes logits of final hidden states: h E^T + b. Few models have a bias (Phi does)."""

    weight_VD: Tensor
    bias_V: Tensor | None = None

    def cast_for(self, hidden: Tensor) -> OutputHead:
        """`cast_once` of both."""
        bias_V = None if self.bias_V is None else cast_once(self.bias_V, hidden)
        return OutputHead(weight_VD=cast_once(self.weight_VD, hidden), bias_V=bias_V)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.weight_VD, self.bias_V)


@contextmanager
def at_most_rows(num_rows: int | None) -> Iterator[None]:
    """Within it no more than `num_rows` rows of logits are held at a time (None: as many as usual).

    For when memory runs out far below whoever knows of it; the sums stay the same but for rounding.
    """
    token = _most_rows.set(num_rows)
    try:
        yield
    finally:
        _most_rows.reset(token)


def token_nll(
    hidden_TD: Tensor, head: Tensor | OutputHead, targets_T: Tensor, *, chunk_rows: int | None = None
) -> Tensor:
    """-log softmax(h E^T + b)[target] in nats, fp32 [T]; differentiable in the hidden states. A head given as
    a weight [V, D] has no bias.

    Equals `F.cross_entropy(head.logits(hidden).float(), targets, reduction="none")`, but the target's own
    logit is recomputed in fp32: bf16 keeps 8 bits, so a logit near 20 is off by up to 0.06, which would
    blur the ranking of nearly equal secrets. nll = softplus(logsumexp of the others - target's logit).

    Raises InputError for a head that is trained: its gradient is not computed here.
    """
    whole = head if isinstance(head, OutputHead) else OutputHead(weight_VD=head)
    if whole.weight_VD.requires_grad or (whole.bias_V is not None and whole.bias_V.requires_grad):
        raise InputError("the output head must be frozen", todo="head.requires_grad_(False)")
    chunk_rows = chunk_rows or default_chunk_rows(hidden_TD.device)
    cast = whole.cast_for(hidden_TD)
    wants_gradient = torch.is_grad_enabled() and hidden_TD.requires_grad
    parts = []
    for start in range(0, len(hidden_TD), chunk_rows):
        rows = slice(start, start + chunk_rows)
        targets = targets_T[rows]
        target_bias_T = None if whole.bias_V is None else whole.bias_V[targets]
        chunk = (hidden_TD[rows], cast, whole.weight_VD[targets], target_bias_T, targets)
        parts.append(_ChunkNll.apply(*chunk) if wants_gradient else _chunk_nll(*chunk)[0])
    return torch.cat(parts) if parts else hidden_TD.new_zeros(0, dtype=torch.float32)


@torch.no_grad()
def likeliest(hidden_TD: Tensor, head: Tensor | OutputHead) -> Tensor:
    """argmax(h E^T + b) [T], a few rows of logits at a time. A head given as a weight [V, D] has no bias."""
    whole = head if isinstance(head, OutputHead) else OutputHead(weight_VD=head)
    cast = whole.cast_for(hidden_TD)
    parts = hidden_TD.to(cast.weight_VD.dtype).split(default_chunk_rows(hidden_TD.device))
    return torch.cat([cast.logits(part).argmax(dim=-1) for part in parts])


def default_chunk_rows(device: torch.device) -> int:
    """Rows of logits at a time: few enough to stay near a CPU's caches; a GPU wants few large products."""
    return allowed_rows(2048 if device.type == "cuda" else 128)


def allowed_rows(num_rows: int) -> int:
    """`num_rows`, or fewer within `at_most_rows`."""
    most = _most_rows.get()
    return num_rows if most is None else min(num_rows, most)


def cast_once(head_VD: Tensor, hidden: Tensor) -> Tensor:
    """The head in the type its product with `hidden` will have: under autocast, autocast's own.

    Autocast keeps casts of trained weights only, so a frozen head would be cast anew for every chunk.
    """
    device = hidden.device.type
    autocast = torch.is_autocast_enabled(device)
    return head_VD.to(torch.get_autocast_dtype(device) if autocast else hidden.dtype)


class _ChunkNll(torch.autograd.Function):
    """`_chunk_nll` with its gradient d nll / d hidden = softmax(logits) E - E[target].

    The gradient is taken while the chunk's logits are at hand, so that no logits are kept or computed twice
    (as in Liger Kernel's fused linear cross-entropy, Hsu et al. 2024, arXiv 2410.10989, section 3.2).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        head: OutputHead,
        target_rows_TD: Tensor,
        target_bias_T: Tensor | None,
        targets_T: Tensor,
    ) -> Tensor:
        nll_T, others_TV, scale_T1 = _chunk_nll(hidden_TD, head, target_rows_TD, target_bias_T, targets_T)
        # exp(logit - max) of the others, over their sum, times the share 1 - p(target) that they have.
        share_T1 = -torch.expm1(-nll_T)[:, None]
        others_TV.mul_(share_T1 / scale_T1)
        with torch.autocast(hidden_TD.device.type, enabled=False):
            of_others_TD = (others_TV.to(head.weight_VD.dtype) @ head.weight_VD).float()
            gradient_TD = of_others_TD - share_T1 * target_rows_TD.float()
        ctx.save_for_backward(gradient_TD.to(hidden_TD.dtype))
        return nll_T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient_TD,) = ctx.saved_tensors
        return gradient_TD * gradients[0][:, None].to(gradient_TD.dtype), None, None, None, None


@torch.no_grad()
def _chunk_nll(
    hidden_TD: Tensor,
    head: OutputHead,
    target_rows_TD: Tensor,
    target_bias_T: Tensor | None,
    targets_T: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """NLL [T]; exp(logit - max) [T, V] with 0 at the target; its sum [T, 1].

    All on one buffer [T, V], since passes over it cost more than the product itself on a CPU.
    """
    with torch.autocast(hidden_TD.device.type, enabled=False):
        target_logit_T = (hidden_TD.float() * target_rows_TD.float()).sum(dim=1)
        if target_bias_T is not None:
            target_logit_T = target_logit_T + target_bias_T.float()
    logits_TV = head.logits(hidden_TD)
    logits_TV.scatter_(1, targets_T[:, None], float("-inf"))
    highest_T1 = logits_TV.amax(dim=1, keepdim=True).float()
    others_TV = logits_TV.float().sub_(highest_T1).exp_()
    sum_T1 = others_TV.sum(dim=1, keepdim=True)
    others_T = (sum_T1.log() + highest_T1)[:, 0]
    return F.softplus(others_T - target_logit_T), others_TV, sum_T1
