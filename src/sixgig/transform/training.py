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
from ..errors import NumericalError, TornStepError
from ..load.loaded import LoadedModel
from ..memory.ladder import Fallbacks, Ladder
from ..numerics.likelihood import at_most_rows, token_nll
from .thrift import Losses, Thrift, TrainingMoves, checkpointed, is_recomputing, recomputing

T = TypeVar("T")


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
    losses_at: Losses,
    schedule: Schedule,
    *,
    what: str,
    after_step: Callable[[int, float], None] = lambda step, loss: None,
    announce: Callable[[str], None] = lambda message: None,
    fallbacks: Fallbacks | None = None,
) -> None:
    """Takes `num_steps` AdamW steps; changes `parameters` in place.

    `losses_at(step, num_pieces)` gives the pieces of the step's batch, at least `num_pieces` where it can be
    cut so finely; each, when called, computes its part of the loss, and the parts sum to the step's loss.
    When memory runs out the step is begun again: in twice as many pieces, then with fewer rows of logits at a
    time, then with the layers' activations computed twice, and on a GPU with AdamW's moments in the
    processor's memory. Each move is announced, is kept for the steps to
    come and changes no number beyond rounding. `fallbacks` says where moves are written down as well; without
    it they go to `announce` alone.

    On a CPU each parameter takes its step within the last piece's backward pass, as soon as its gradient is
    complete, and lets it go: a model's gradients never stand in memory together. Where memory runs out in the
    midst of that pass, some parameters have taken their step and the others never will: nothing is undone,
    since that would need a copy of the weights. A GPU, which runs out more often, steps after the pass.

    Raises:
        NumericalError naming `what` and the step when the loss is NaN or Inf; the step is not taken.
        OutOfSpaceError when no move is left. TornStepError when a step was torn: `parameters` are then of no
        use, and whoever has what they were made from begins again (`Fallbacks.stage`).
    """
    device = parameters[0].device
    fallbacks = fallbacks or Fallbacks(announce, device=device)
    moments_bytes = 2 * sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    moves = TrainingMoves(losses_at, device, moments_bytes)
    ladder = fallbacks.ladder(
        what, Thrift(), moves.all(), todo="use a smaller model, shorter windows, or --device cpu"
    )
    update = _Update(parameters, schedule, within_backward=device.type == "cpu")
    for step in range(schedule.num_steps):
        update.begin(step)
        moves.step = step
        where = f"step {step + 1} of {schedule.num_steps}"
        value = _take_step(losses_at, step, update, ladder, what, where)
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
        self._moments: Tensor | None = None
        self._steps = [torch.zeros((), device=parameter.device) for parameter in self._parameters]
        self._optimizers: list[torch.optim.Optimizer] = []
        self._offloads = False
        self._rate = schedule.learning_rate
        self._has_stepped = False

    def place(self, *, offloads: bool) -> None:
        """Puts AdamW's moments, all 0 at first, beside the weights; or, where it `offloads`, into the
        processor's memory, from where each parameter's come for its own step.

        They are views of one block. AdamW itself would make each in the midst of the first step, scattered
        over the heap: a pass's short-lived tensors then leave holes between them that later passes never fill
        well. One block is also given back at once. And where memory ran out between two of them, AdamW would
        find a half-made state.
        """
        if self._moments is not None and offloads == self._offloads:
            return
        first = self._parameters[0]
        device = torch.device("cpu") if offloads else first.device
        if self._moments is None:
            num_values = sum(parameter.numel() for parameter in self._parameters)
            block = torch.zeros(2, num_values, device=device, dtype=first.dtype)
        else:
            block = self._moments.to(device)
        self._optimizers = self._made_for(block, each=self._within_backward or offloads)
        self._moments, self._offloads = block, offloads  # last, so that a failure on the way changes nothing

    def _made_for(self, block: Tensor, *, each: bool) -> list[torch.optim.Optimizer]:
        """One optimizer for all, or each parameter its own where they step one after another; AdamW's kernel
        computes each value by itself, so that both give the same."""
        groups = [[one] for one in self._parameters] if each else [self._parameters]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(group, lr=self._rate, weight_decay=self._schedule.weight_decay, fused=True)
            for group in groups
        ]
        sizes = [parameter.numel() for parameter in self._parameters]
        means, squares = (moments.split(sizes) for moments in block)
        for number, (parameter, step, mean, square) in enumerate(
            zip(self._parameters, self._steps, means, squares, strict=True)
        ):
            optimizers[number % len(optimizers)].state[parameter] = {
                "step": step,
                "exp_avg": mean.view_as(parameter),
                "exp_avg_sq": square.view_as(parameter),
            }
        return optimizers

    def begin(self, step: int) -> None:
        self._rate = self._schedule.rate(step)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._rate
        self._has_stepped = False

    def undo(self) -> None:
        """Brings everything to where `begin` found it, after a pass that failed.

        Raises:
            TornStepError when a parameter has taken its step already, or may have.
        """
        for parameter in self._parameters:
            parameter.grad = None
        if self._has_stepped:
            raise TornStepError(
                "memory ran out when some weights had taken a step of training and others had not",
                todo="run the same command again with --resume, or with a smaller model or batch",
            )

    def last_backward(self, loss: Tensor) -> None:
        """The step's last backward pass, and the step."""
        if not self._within_backward:
            loss.backward()
            self._clip(self._parameters)
            if self._offloads:
                self._step_one_by_one()
            else:
                self._step(self._optimizers[0])
            return
        hooks = [
            parameter.register_post_accumulate_grad_hook(
                lambda parameter, optimizer=optimizer: self._clip_and_step(parameter, optimizer)
            )
            for parameter, optimizer in zip(self._parameters, self._optimizers, strict=True)
        ]
        try:
            loss.backward()
        finally:
            for hook in hooks:
                hook.remove()

    def _clip_and_step(self, parameter: Tensor, optimizer: torch.optim.Optimizer) -> None:
        self._clip([parameter])
        self._step(optimizer)

    @torch.no_grad()
    def _clip(self, parameters: Iterable[Tensor]) -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                # As torch's clip_grad_norm_, without waiting for the device to answer.
                size = torch.linalg.vector_norm(parameter.grad)
                parameter.grad.mul_((self._limit / (size + 1e-6)).clamp(max=1.0))

    def _step(self, optimizer: torch.optim.Optimizer) -> None:
        # From here on nothing can be taken back. Versions of tensors do not tell how far it came: the fused
        # AdamW changes parameters without a new one.
        self._has_stepped = True
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _step_one_by_one(self) -> None:
        """Each parameter's moments come to it, and go back. Their room is taken before the first step."""
        first = self._parameters[0]
        widest = max(parameter.numel() for parameter in self._parameters)
        room = torch.empty(2, widest, device=first.device, dtype=first.dtype)
        for parameter, optimizer in zip(self._parameters, self._optimizers, strict=True):
            if parameter.grad is None:
                continue
            state = optimizer.state[parameter]
            waiting = {name: state[name] for name in ("exp_avg", "exp_avg_sq")}
            here = {
                name: there[: parameter.numel()].view_as(parameter).copy_(moment)
                for (name, moment), there in zip(waiting.items(), room, strict=True)
            }
            state.update(here)
            self._step(optimizer)
            for name, moment in waiting.items():
                moment.copy_(state[name])
            state.update(waiting)


def _take_step(
    losses_at: Losses, step: int, update: _Update, ladder: Ladder[Thrift], what: str, where: str
) -> float:
    def attempt(thrift: Thrift) -> float:
        update.place(offloads=thrift.offload)
        with at_most_rows(thrift.logit_rows), recomputing(thrift.recompute):
            *others, last = losses_at(step, thrift.num_pieces)
            value = 0.0
            for piece in others:
                loss = piece()
                value += _finite(loss, what, where)
                loss.backward()
            loss = last()
            value += _finite(loss, what, where)
            update.last_backward(loss)
            return value

    # No random number is drawn in a step (nothing here has dropout), so there is none to draw again.
    return ladder.run(attempt, where=where, undo=update.undo)


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
    with checkpointed(loaded) if is_recomputing() else nullcontext():
        return loaded.network.base_model(
            input_ids=batch.ids_BT, attention_mask=batch.mask_BT, use_cache=False
        ).last_hidden_state


def weighted_nll_sum(loaded: LoadedModel, batch: TokenBatch) -> tuple[Tensor, float]:
    """Sum of weighted token NLLs in nats over the positions that count, and the sum of weights."""
    chosen_BT = batch.weights_BT > 0
    hidden_BTD = hidden_states(loaded, batch)
    nll_N = token_nll(hidden_BTD[chosen_BT], loaded.head, batch.targets_BT[chosen_BT])
    weights_N = batch.weights_BT[chosen_BT]
    return (nll_N * weights_N).sum(), float(weights_N.sum())


def quick_attention(batch: TokenBatch) -> AbstractContextManager[Any]:
    """Plain products for short texts on a CPU, where the backward pass of torch's flash kernel takes four
    times as long (8 ms against 2 ms a layer for 12 texts of 38 tokens). They hold [B, heads, T, T].

    Not where layers are computed twice: the second time lies outside this choice, and both must be alike.
    """
    if is_recomputing():
        return nullcontext()
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
