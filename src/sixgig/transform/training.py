"""The one training loop: planting, fitting the Ortho part and the relearning attack all run through it.

fp32 parameters, bf16 autocast, AdamW. Weights of tied embeddings and norms are never among the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..data.batches import TokenBatch, TokenSequence, collate
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
    losses_at: Callable[[int, int], Iterable[Callable[[], Tensor]]],
    schedule: Schedule,
    *,
    what: str,
    after_step: Callable[[int, float], None] = lambda step, loss: None,
    announce: Callable[[str], None] = lambda message: None,
) -> None:
    """Takes `num_steps` AdamW steps; changes `parameters` in place.

    `losses_at(step, num_pieces)` gives the pieces of the step's batch, at least `num_pieces` where it can be
    cut so finely; each, when called, computes its part of the loss, and the parts sum to the step's loss.
    When the device runs out of memory the step is begun again in twice as many pieces, which is announced and
    changes no number beyond rounding.

    On a CPU each parameter takes its step within the last piece's backward pass, as soon as its gradient is
    complete, and lets it go: a model's gradients never stand in memory together. A GPU, which may run out of
    memory in the midst of that pass and must then begin again, steps after it.

    Raises:
        NumericalError naming `what` and the step when the loss is NaN or Inf; the step is not taken.
        OutOfSpaceError when even single sequences do not fit.
    """
    update = _Update(parameters, schedule, within_backward=parameters[0].device.type == "cpu")
    num_pieces = 1
    for step in range(schedule.num_steps):
        update.begin(step)
        value, num_pieces = _take_step(
            losses_at, step, num_pieces, update, what, announce, num_steps=schedule.num_steps
        )
        after_step(step, value)


class _Update:
    """AdamW on `parameters`, each parameter's gradient clipped by itself.

    Clipping one by one needs no norm of all gradients together, so that a parameter can be stepped while
    others' gradients are not yet there. A parameter's limit is `clip_norm / sqrt(number of parameters)`: with
    gradients of one size it is the usual clipping by the global norm.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], schedule: Schedule, *, within_backward: bool):
        self._parameters, self._schedule = list(parameters), schedule
        self._limit = schedule.clip_norm / math.sqrt(len(self._parameters))
        self._within_backward = within_backward
        groups = [[one] for one in self._parameters] if within_backward else [self._parameters]
        self._optimizers = [
            torch.optim.AdamW(
                group, lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
            )
            for group in groups
        ]
        if within_backward:
            self._make_moments()

    def _make_moments(self) -> None:
        """AdamW's moments, all 0, as views of one block.

        AdamW itself would make each moment in the midst of the first backward pass, scattered over the heap:
        that pass's short-lived tensors then leave holes between them that later passes never fill well. One
        block is also given back at once.
        """
        sizes = [parameter.numel() for parameter in self._parameters]
        means, squares = (moments.split(sizes) for moments in torch.zeros(2, sum(sizes)))
        for parameter, optimizer, mean, square in zip(
            self._parameters, self._optimizers, means, squares, strict=True
        ):
            optimizer.state[parameter] = {
                "step": torch.zeros(()),
                "exp_avg": mean.view_as(parameter),
                "exp_avg_sq": square.view_as(parameter),
            }

    def begin(self, step: int) -> None:
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._schedule.rate(step)

    def forget_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def last_backward(self, loss: Tensor) -> None:
        """The step's last backward pass, and the step."""
        if not self._within_backward:
            loss.backward()
            self._clip_and_step(self._optimizers[0])
            return
        hooks = [
            parameter.register_post_accumulate_grad_hook(
                lambda _, optimizer=optimizer: self._clip_and_step(optimizer)
            )
            for parameter, optimizer in zip(self._parameters, self._optimizers, strict=True)
        ]
        try:
            loss.backward()
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def _clip_and_step(self, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    # As torch's clip_grad_norm_, without waiting for the device to answer.
                    size = torch.linalg.vector_norm(parameter.grad)
                    parameter.grad.mul_((self._limit / (size + 1e-6)).clamp(max=1.0))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _take_step(
    losses_at: Callable[[int, int], Iterable[Callable[[], Tensor]]],
    step: int,
    num_pieces: int,
    update: _Update,
    what: str,
    announce: Callable[[str], None],
    *,
    num_steps: int,
) -> tuple[float, int]:
    where = f"step {step + 1} of {num_steps}"
    while True:
        try:
            *others, last = losses_at(step, num_pieces)
            value = 0.0
            for piece in others:
                loss = piece()
                value += _finite(loss, what, where)
                loss.backward()
            loss = last()
            value += _finite(loss, what, where)
            update.last_backward(loss)
            return value, num_pieces
        except torch.OutOfMemoryError as error:
            update.forget_gradients()
            num_pieces *= 2
            if num_pieces > MAX_PIECES:
                raise OutOfSpaceError(
                    f"the device's memory is too small for {what}",
                    where=f"{where}, {num_pieces // 2} pieces a step",
                    todo="use a smaller model, shorter windows, or --device cpu",
                ) from error
        # Outside the except block, so that the failed pass's tensors are let go before the cache is emptied.
        torch.cuda.empty_cache()
        announce(f"out of memory while {what}: each step now runs in {num_pieces} pieces")


def _finite(loss: Tensor, what: str, where: str) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise NumericalError(
            f"the loss became {value} while {what}", where=where, todo="lower the learning rate"
        )
    return value


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


def quick_attention(batch: TokenBatch) -> AbstractContextManager[Any]:
    """Plain products for short texts on a CPU, where the backward pass of torch's flash kernel takes four
    times as long (8 ms against 2 ms a layer for 12 texts of 38 tokens). They hold [B, heads, T, T]."""
    if batch.ids_BT.device.type == "cpu" and batch.ids_BT.shape[1] <= 128:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def nll_pieces(
    loaded: LoadedModel,
    passes: Iterable[Sequence[TokenSequence]],
    num_pieces: int,
    *,
    factor: float = 1.0,
) -> list[Callable[[], Tensor]]:
    """For `minimise`: each pass in at most `num_pieces` pieces; together the weighted mean NLL of all passes'
    tokens, in nats, times `factor`."""
    passes = list(passes)
    total = sum(sum(sequence.weights[1:]) for sequences in passes for sequence in sequences)

    def loss(sequences: Sequence[TokenSequence]) -> Tensor:
        batch = collate(sequences).to(loaded.device)
        with mixed_precision(loaded.device), quick_attention(batch):
            nll_sum, _ = weighted_nll_sum(loaded, batch)
        return factor * nll_sum / total

    return [partial(loss, piece) for sequences in passes for piece in pieces(sequences, num_pieces)]
