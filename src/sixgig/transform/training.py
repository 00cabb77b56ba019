"""The one training loop: planting, fitting the Ortho part and the relearning attack all run through it.

fp32 parameters, bf16 autocast, AdamW. Weights of tied embeddings and norms are never among the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..data.batches import TokenBatch
from ..errors import NumericalError, OutOfSpaceError
from ..load.loaded import LoadedModel
from ..numerics.likelihood import token_nll

T = TypeVar("T")

MAX_PIECES = 256  # a step cut finer than this holds single sequences in any use here


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
    losses_at: Callable[[int, int], Iterator[Tensor]],
    schedule: Schedule,
    *,
    what: str,
    after_step: Callable[[int, float], None] = lambda step, loss: None,
    announce: Callable[[str], None] = lambda message: None,
) -> None:
    """Takes `num_steps` AdamW steps; changes `parameters` in place.

    `losses_at(step, num_pieces)` yields losses that sum to the step's loss, one for each of `num_pieces`
    pieces of its batch. When the device runs out of memory the step is begun again in twice as many pieces,
    which is announced and changes no number beyond rounding.

    Raises:
        NumericalError naming `what` and the step when the loss is NaN or Inf; the step is not taken.
        OutOfSpaceError when even single sequences do not fit.
    """
    optimizer = torch.optim.AdamW(
        parameters, lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
    )
    num_pieces = 1
    for step in range(schedule.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        value, num_pieces = _backward(losses_at, step, num_pieces, optimizer, what, announce)
        if not math.isfinite(value):
            raise NumericalError(
                f"the loss became {value} while {what}",
                where=f"step {step + 1} of {schedule.num_steps}",
                todo="lower the learning rate",
            )
        nn.utils.clip_grad_norm_(parameters, schedule.clip_norm)
        optimizer.step()
        # Zeroed, not freed: on a CPU each step would touch every page of the gradients anew.
        optimizer.zero_grad(set_to_none=False)
        after_step(step, value)


def _backward(
    losses_at: Callable[[int, int], Iterator[Tensor]],
    step: int,
    num_pieces: int,
    optimizer: torch.optim.Optimizer,
    what: str,
    announce: Callable[[str], None],
) -> tuple[float, int]:
    while True:
        try:
            value = 0.0
            for loss in losses_at(step, num_pieces):
                loss.backward()
                value += float(loss.detach())
            return value, num_pieces
        except torch.OutOfMemoryError as error:
            optimizer.zero_grad(set_to_none=True)
            num_pieces *= 2
            if num_pieces > MAX_PIECES:
                raise OutOfSpaceError(
                    f"the device's memory is too small for {what}",
                    where=f"step {step + 1}, {num_pieces // 2} pieces a step",
                    todo="use a smaller model, shorter windows, or --device cpu",
                ) from error
        # Outside the except block, so that the failed pass's tensors are let go before the cache is emptied.
        torch.cuda.empty_cache()
        announce(f"out of memory while {what}: each step now runs in {num_pieces} pieces")


def pieces(sequences: Sequence[T], num_pieces: int) -> list[Sequence[T]]:
    """`sequences` in at most `num_pieces` consecutive parts of nearly equal length, none empty."""
    size = -(-len(sequences) // num_pieces) if sequences else 1
    return [sequences[start : start + size] for start in range(0, len(sequences), size)]


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
    nll_N = token_nll(hidden_BTD[chosen_BT], loaded.head_VD, batch.targets_BT[chosen_BT])
    weights_N = batch.weights_BT[chosen_BT]
    return (nll_N * weights_N).sum(), float(weights_N.sum())
