"""The one training loop: planting, fitting the Ortho part and the relearning attack all run through it.

fp32 parameters, bf16 autocast, AdamW. Weights of tied embeddings and norms are never among the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data.batches import TokenBatch
from ..errors import NumericalError
from ..load.loaded import LoadedModel
from ..numerics.likelihood import token_nll


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """AdamW's settings. The rate rises linearly over `warmup_share`, then falls by a cosine to a tenth."""

    learning_rate: float
    num_steps: int
    warmup_share: float = 0.1
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    decay: bool = True

    def rate(self, step: int) -> float:
        """Learning rate at `step`, counted from 0."""
        warmup_steps = max(1, round(self.warmup_share * self.num_steps))
        if step < warmup_steps:
            return self.learning_rate * (step + 1) / warmup_steps
        if not self.decay:
            return self.learning_rate
        done = (step - warmup_steps) / max(1, self.num_steps - warmup_steps)
        return self.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def minimise(
    parameters: Sequence[nn.Parameter],
    loss_at: Callable[[int], Tensor],
    schedule: Schedule,
    *,
    what: str,
    after_step: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Takes `num_steps` AdamW steps on `loss_at(step)`; changes `parameters` in place.

    Raises NumericalError naming `what` and the step when the loss is NaN or Inf; the step is not taken.
    """
    fused = all(parameter.is_floating_point() for parameter in parameters)
    optimizer = torch.optim.AdamW(
        parameters, lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=fused
    )
    for step in range(schedule.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        loss = loss_at(step)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NumericalError(
                f"the loss became {value} while {what}",
                where=f"step {step + 1} of {schedule.num_steps}",
                todo="lower the learning rate",
            )
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, schedule.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        after_step(step, value)


def mixed_precision(device: torch.device) -> torch.autocast:
    """bf16 autocast. Enter it anew for every step: on leaving, it drops the weights it has cast."""
    return torch.autocast(device.type, dtype=torch.bfloat16)


def hidden_states(loaded: LoadedModel, batch: TokenBatch) -> Tensor:
    """Final hidden states [B, T, D], after the last norm, before the head."""
    return loaded.network.base_model(
        input_ids=batch.ids_BT, attention_mask=batch.mask_BT, use_cache=False
    ).last_hidden_state


def weighted_nll_sum(loaded: LoadedModel, batch: TokenBatch) -> tuple[Tensor, float]:
    """Sum of weighted token NLLs in nats over the positions that count, and the sum of weights."""
    chosen_BT = batch.weights_BT > 0
    hidden_BTD = hidden_states(loaded, batch)
    nll_N = token_nll(hidden_BTD[chosen_BT], loaded.head_VD, batch.targets_BT[chosen_BT], chunk_rows=512)
    weights_N = batch.weights_BT[chosen_BT]
    return (nll_N * weights_N).sum(), float(weights_N.sum())
