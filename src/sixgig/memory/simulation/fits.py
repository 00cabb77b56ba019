"""The fits of a split as allocations: training beside weights that are frozen (`transform.fit_scales`,
`transform.restore`), and the losses that they share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

from ...catalogue import ModelSpec
from ..workload import Workload
from .allocator import Allocator, Block
from .backward import GRADIENTS, LOGITS, MOMENTS, Trained, TrainingPass

KL_ROWS = 256  # transform.distil.kl_divergence_sum
NUM_STEPS = 2  # of each fit: all has been there once
WEIGHTS = "Base under its fit"


class FitPass(TrainingPass):
    """A pass through frozen weights, with what is trained beside them in every linear layer."""

    def save(self, name: str, block: Block) -> None:
        if not name.endswith(".normed"):  # only the gradient of a norm's own weight would ask for it
            super().save(name, block)

    def _rms_norm_back(self, name: str, gradient: Block, num_values: float, num_bytes: int) -> Block:
        of_normed = self.new(num_values, num_bytes)
        self.drop(gradient)
        return self._root_back(name, of_normed, num_values, num_bytes)

    def _widened(self, of_input: Block, num_in: int, wide_input: bool) -> Block:
        if not wide_input:
            return of_input
        wide = self.new(self.num_positions * num_in, 4)
        self.drop(of_input)
        return wide

    def _input(self, x: Block, num_in: int, x_bytes: int) -> Block:
        return self.new(self.num_positions * num_in, 2) if x_bytes == 4 else self.memory.keep(x)


class ScaleFit(FitPass):
    """`transform.trained_linear.ScaledLinear`: the weight is made from codes and scales in every pass."""

    def linear(
        self, name: str, x: Block, num_in: int, num_out: int, *, x_bytes: int, part: str = "linear"
    ) -> Block:
        num_groups = num_out * ceil(num_in / self.work.group_size)
        self.save(f"{name}.scales", scales := self.new(num_groups, 4))
        fitted = self.new(num_groups, 4)
        product = self.new(num_in * num_out, 4, WEIGHTS)
        self.drop(scales, fitted)
        weight = self.new(num_in * num_out, 2, WEIGHTS)
        x = self._input(x, num_in, x_bytes)
        y = self.new(self.num_positions * num_out, 2)
        self.save(f"{name}.weight", weight)
        self.save(f"{name}.input", x)
        self.drop(weight, x, product)
        return y

    def linear_back(
        self, name: str, gradient: Block, num_in: int, num_out: int, *, wide_input: bool
    ) -> Block:
        num_weights = num_in * num_out
        of_weight = self.new(num_weights, 2, GRADIENTS)
        self.memory.multiply("backward")  # autograd's thread
        of_input = self.new(self.num_positions * num_in, 2)
        self.drop(gradient)
        self.take(f"{name}.weight")
        self.take(f"{name}.input")
        of_input = self._widened(of_input, num_in, wide_input)
        of_weight, narrow = self.new(num_weights, 4, GRADIENTS), of_weight
        self.drop(narrow)
        by_codes = self.new(num_weights, 4, GRADIENTS)
        num_groups = num_out * ceil(num_in / self.work.group_size)
        of_scales = self.new(num_groups, 4, GRADIENTS)
        self.drop(by_codes, of_weight)
        self.take(f"{name}.scales")
        self.trained.accumulate(name, of_scales, num_groups)
        return of_input


class OrthoFit(FitPass):
    """`transform.restore._FitLinear`: the dense Base, and beside it U V."""

    def linear(
        self, name: str, x: Block, num_in: int, num_out: int, *, x_bytes: int, part: str = "linear"
    ) -> Block:
        n, rank = self.num_positions, self.work.splitting.rank
        first = self._input(x, num_in, x_bytes)
        by_base = self.new(n * num_out, 2)
        self.drop(first)
        self._factor(f"{name}.down", rank * num_in)
        x = self._input(x, num_in, x_bytes)
        inner = self.new(n * rank, 2)
        self._factor(f"{name}.up", rank * num_out)
        self.save(f"{name}.input", x)
        self.save(f"{name}.inner", inner)
        by_factors = self.new(n * num_out, 2)
        self.drop(x, inner)
        y = self.new(n * num_out, 2)
        self.drop(by_base, by_factors)
        return y

    def _factor(self, name: str, num_weights: int) -> None:
        self.drop(self._cast_weight(name, num_weights))

    def linear_back(
        self, name: str, gradient: Block, num_in: int, num_out: int, *, wide_input: bool
    ) -> Block:
        n, rank = self.num_positions, self.work.splitting.rank
        of_up = self.new(rank * num_out, 2, GRADIENTS)
        self.memory.multiply("backward")
        of_inner = self.new(n * rank, 2)
        self.take(f"{name}.inner")
        self._given(f"{name}.up", of_up, rank * num_out)
        of_down = self.new(rank * num_in, 2, GRADIENTS)
        by_factors = self.new(n * num_in, 2)
        self.drop(of_inner)
        self.take(f"{name}.input")
        by_factors = self._widened(by_factors, num_in, wide_input)
        self._given(f"{name}.down", of_down, rank * num_in)
        by_base = self.new(n * num_in, 2)
        self.drop(gradient)
        if wide_input:  # added in place, where a residual's other users have sent theirs
            self.drop(self._widened(by_base, num_in, wide_input))
            return by_factors
        total = self.new(n * num_in, 2)
        self.drop(by_base, by_factors)
        return total

    def _given(self, name: str, narrow: Block, num_weights: int) -> None:
        gradient = self.new(num_weights, 4, GRADIENTS)
        self.drop(narrow)
        self.take(f"{name}.weight")
        self.trained.accumulate(name, gradient, num_weights)


Loss = Callable[["FitPass", Block], Block]


def fit(
    spec: ModelSpec,
    work: Workload,
    memory: Allocator,
    kind: type[FitPass],
    num_trained: int,
    losses: Sequence[tuple[int, int, Loss]],
) -> None:
    """`transform.training.minimise`: AdamW's moments in one block, then steps; `losses` are a step's pieces:
    sequences, their length, and what is asked of them."""
    moments = memory.hold(2 * 4 * num_trained, MOMENTS)
    trained = Trained(memory, 4)
    for _ in range(NUM_STEPS):
        for batch, length, loss in losses:
            piece(kind(spec, work, memory, batch=batch, length=length), trained, loss)
        memory.drop(*trained.gradients.values())
        trained.gradients.clear()
    memory.drop(moments)


def piece(run: FitPass, trained: Trained, loss: Loss) -> None:
    """One piece of a step, forward and back. `loss` takes the hidden states and gives their gradient."""
    run.trained, run.training, run.recording = trained, True, True
    spec, num_values = run.spec, run.num_positions * run.spec.hidden_size
    h, *angles = run.embed()
    for index in range(spec.num_layers):
        h, before = run.layer(index, h), h
        run.drop(before)
    hidden = run.norm("final", h, num_values)
    run.drop(h)
    gradient = loss(run, hidden)
    gradient = run.norm_back("final", gradient, None, num_values=num_values, num_bytes=4)
    for index in reversed(range(spec.num_layers)):
        gradient = run.layer_back(index, gradient)
    run.drop(gradient, *angles)
    run.forget()


def kl_loss(run: FitPass, hidden: Block) -> Block:
    """`transform.distil`: chunks of logits of both sides, forward without keeping them, then back."""
    spec, d = run.spec, run.spec.hidden_size
    counted = run.batch * (run.length - 1)
    student = run.new(counted * d, 4)
    run.drop(hidden)
    teacher = run.new(counted * d, 2)
    head = run.new(spec.vocab_size * d, 2, LOGITS)
    chunks = [min(KL_ROWS, counted - start) for start in range(0, counted, KL_ROWS)]
    for rows in chunks:
        both = _log_softmaxes(run, rows)
        run.drop(*[run.new(rows * spec.vocab_size, 4, LOGITS) for _ in range(3)], *both)
    run.end_autocast()
    gradient = run.new(counted * d, 4)
    for rows in reversed(chunks):
        num_logits = rows * spec.vocab_size
        ours, theirs = _log_softmaxes(run, rows)
        run.drop(run.new(num_logits, 4, LOGITS), run.new(num_logits, 4, LOGITS), theirs)
        first = run.new(num_logits, 4, LOGITS)
        second = run.new(num_logits, 4, LOGITS)
        run.drop(first)
        of_logits = run.new(num_logits, 4, LOGITS)
        run.drop(ours, second)
        narrow = run.new(num_logits, 2, LOGITS)
        run.drop(of_logits, narrow)
    run.drop(student, teacher, head)
    of_hidden = run.new(run.num_positions * d, 4)
    run.drop(gradient)
    return of_hidden


def _log_softmaxes(run: FitPass, rows: int) -> tuple[Block, Block]:
    logs = []
    for _ in range(2):
        logits = run.new(rows * run.spec.vocab_size, 2, LOGITS)
        wide = run.new(rows * run.spec.vocab_size, 4, LOGITS)
        run.drop(logits)
        logs.append(run.new(rows * run.spec.vocab_size, 4, LOGITS))
        run.drop(wide)
    return logs[0], logs[1]


def nll_loss(run: FitPass, hidden: Block, *, logit_rows: int) -> Block:
    """`numerics.likelihood._ChunkNll`: each chunk's gradient is taken while its logits are there."""
    spec, d = run.spec, run.spec.hidden_size
    counted = run.batch * (run.length - 1)
    picked = run.new(counted * d, 4)
    head = run.new(spec.vocab_size * d, 2, LOGITS)
    kept, held = [], []
    for start in range(0, counted, logit_rows):
        rows = min(logit_rows, counted - start)
        targets = run.new(rows * d, 4)
        run.drop(*held)
        held = [targets]
        run.drop(run.new(rows * d, 4))
        narrow = run.new(rows * d, 2)
        logits = run.new(rows * spec.vocab_size, 2, LOGITS)
        run.drop(narrow)
        others = run.new(rows * spec.vocab_size, 4, LOGITS)
        run.drop(logits)
        narrow = run.new(rows * spec.vocab_size, 2, LOGITS)
        of_others = run.new(rows * d, 2)
        run.drop(narrow)
        of_others, narrow = run.new(rows * d, 4), of_others
        run.drop(narrow)
        by_target = run.new(rows * d, 4)
        kept.append(run.new(rows * d, 4))
        run.drop(by_target, others, of_others)
    run.drop(*held, head, picked, hidden)
    run.end_autocast()
    gradient = run.new(counted * d, 4)
    run.drop(*kept)
    of_hidden = run.new(run.num_positions * d, 4)
    run.drop(gradient)
    return of_hidden
