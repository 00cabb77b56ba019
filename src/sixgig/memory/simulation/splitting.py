"""`sixgig split` as allocations: the walk over the layers, and both fits.

The order is that of `transform.split_model` and of what it calls, read off the allocator's own record of two
layers on a GPU. The model stands whole in fp32 until the fits replace its linear layers one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil

from ...catalogue import ModelSpec
from ..workload import Workload
from .allocator import Allocator, Block
from .backward import GRADIENTS, LOGITS, Trained, TrainingPass
from .passes import Pass

POSITIONS_PER_BATCH = 2048  # of the walk (transform.split_model)
SHARING = (3, 1, 2, 1)  # linear layers that read one input: q k v, o, gate up, down
KL_ROWS = 256  # transform.distil.kl_divergence_sum
NUM_STEPS = 2  # of each fit: all has been there once
WALKED_LAYERS = 2  # a layer leaves nothing behind, so that the third takes what the second did
MOMENTS, WEIGHTS, SOLVING = "optimizer", "Base under its fit", "one layer's removal"
ORTHO, SECOND_MOMENTS = "Ortho part", "second moments"


@dataclass(frozen=True, kw_only=True)
class _Linear:
    """One linear layer's sizes."""

    num_weights: int
    num_in: int

    def num_groups(self, work: Workload) -> int:
        return self.num_weights // self.num_in * ceil(self.num_in / work.group_size)

    def num_in_factors(self, rank: int) -> int:
        return rank * (self.num_weights // self.num_in + self.num_in)


def split(
    spec: ModelSpec, work: Workload, memory: Allocator, weights: Sequence[Block], logit_rows: int
) -> None:
    """The whole of it. `weights`: the linear layers' own, in the model's order; they are let go."""
    linears, how = _linears(spec), work.splitting
    _walk(spec, work, memory)
    if how.fits_ortho:
        _look(spec, work, memory)  # the whole model's answers
    standing = list(weights)
    if how.fits_scales:
        standing = _fit_scales(spec, work, memory, standing)
    if how.fits_ortho:
        restored = []
        for one in linears:
            restored.append(memory.hold(2 * one.num_weights, WEIGHTS))
            num_out = one.num_weights // one.num_in
            restored += [memory.hold(4 * how.rank * size, ORTHO) for size in (num_out, one.num_in)]
        memory.drop(*standing)
        num_trained = sum(one.num_in_factors(how.rank) for one in linears)
        private = min(how.texts_per_step, how.num_texts), how.text_tokens or work.context
        losses = [
            (how.windows_per_step, work.context, _kl_loss),
            (*private, partial(_nll_loss, logit_rows=logit_rows)),
        ]
        _fit(spec, work, memory, OrthoFit, num_trained, losses)
        standing = restored
    memory.drop(*standing)


def _fit_scales(spec: ModelSpec, work: Workload, memory: Allocator, weights: Sequence[Block]) -> list[Block]:
    """`transform.fit_scales`: W - M in the weights' place for its answers, then codes and scales."""
    linears, made = _linears(spec), []
    unrounded = []
    for one, weight in zip(linears, weights, strict=True):
        unrounded.append(memory.hold(2 * one.num_weights, WEIGHTS))
        memory.drop(weight)
    _look(spec, work, memory)
    for one in linears:
        made.append(memory.hold(2 * one.num_weights, WEIGHTS))
        made += [memory.hold(4 * one.num_groups(work), WEIGHTS) for _ in ("scales", "their changes")]
    memory.drop(*unrounded)
    num_trained = sum(one.num_groups(work) for one in linears)
    _fit(
        spec, work, memory, ScaleFit, num_trained, [(work.splitting.windows_per_step, work.context, _kl_loss)]
    )
    return made


def _linears(spec: ModelSpec) -> list[_Linear]:
    tensors = [tensor for tensor in spec.tensors() if tensor.part == "linear"]
    return [_Linear(num_weights=tensor.num_elements, num_in=tensor.shape[-1]) for tensor in tensors]


# ---- the walk


def _walk(spec: ModelSpec, work: Workload, memory: Allocator) -> None:
    """`transform.split.split_layers_of`: every text one layer further, then that layer's linears split."""
    windows, how = max(1, POSITIONS_PER_BATCH // work.context), work.splitting
    flows = []
    for num_texts, length in (
        (how.num_calibration_windows, work.context),
        (how.num_texts, how.text_tokens or work.context),
    ):
        batches = [min(windows, num_texts - start) for start in range(0, num_texts, windows)]
        flows.append([_Flow(spec, work, memory, batch, length) for batch in batches])
    for index in range(min(spec.num_layers, WALKED_LAYERS)):
        sums: dict[str, Block] = {}
        means = []
        for batches in flows:
            memory.drop(*sums.values())  # the first texts' live until the second ones begin
            sums = {}
            for flow in batches:
                flow.one_layer(index, sums)
            means += [memory.hold(block.num_bytes, SECOND_MOMENTS) for block in sums.values()]
        memory.drop(*sums.values())
        _split_linears(spec, work, memory)
        memory.drop(*means)
    memory.drop(*(flow.hidden for batches in flows for flow in batches))


class _Flow:
    """One batch between two layers."""

    def __init__(self, spec: ModelSpec, work: Workload, memory: Allocator, batch: int, length: int) -> None:
        self._walker = partial(_Walker, spec, work, memory, batch=batch, length=length)
        self.hidden, *rest = self._walker().embed()
        memory.drop(*rest)

    def one_layer(self, index: int, sums: dict[str, Block]) -> None:
        walker = self._walker()
        walker.sums = sums
        self.hidden, before = walker.layer(index, self.hidden), self.hidden
        walker.drop(before)


class _Walker(Pass):
    """A pass whose linear layers' inputs are summed up as x x^T; layers that share an input share the sum."""

    sums: dict[str, Block]
    LEADERS = ("q", "o", "gate", "down")

    def linear(
        self, name: str, x: Block, num_in: int, num_out: int, *, x_bytes: int, part: str = "linear"
    ) -> Block:
        role = name.rpartition(".")[2]
        if role in self.LEADERS:
            if role not in self.sums:
                self.sums[role] = self.new(num_in * num_in, 4, SECOND_MOMENTS)
            counted = self.batch * (self.length - 1) * num_in
            picked = self.new(counted, x_bytes)
            if x_bytes != 4:
                picked, narrow = self.new(counted, 4), picked
                self.drop(narrow)
            self.drop(self.new(counted, 4), picked)
        return super().linear(name, x, num_in, num_out, x_bytes=x_bytes, part=part)


def _split_linears(spec: ModelSpec, work: Workload, memory: Allocator) -> None:
    """`_splits_of` and `split_one` for one layer. A loop's names keep what they hold until the next turn."""
    held: list[Block] = []
    solved: list[Block] = []
    linears = _linears(spec)
    leaders = [sum(SHARING[:number]) for number in range(len(SHARING))]
    for number, one in enumerate(linears[: len(linears) // spec.num_layers]):
        weights = _Weights(memory, one.num_weights, one.num_in, work.group_size)
        earlier = weights.new(4)
        memory.drop(*held)
        if number in leaders:
            memory.drop(*solved)
            solved = []
        plain = weights.rounded()
        change = weights.new(4)
        if work.splitting.solves and not solved:
            solved = [_solve(memory, one.num_in)]
        removed = weights.new(4)
        memory.drop(change)
        unrounded = weights.new(4)
        base = weights.rounded()
        _first_guess(weights)
        differing, wide = weights.new(1), weights.new(4)
        memory.drop(differing, wide)
        held = [earlier, *plain, removed, unrounded, *base]
    memory.drop(*held, *solved)


class _Weights:
    """Matrices of one linear layer's shape."""

    def __init__(self, memory: Allocator, size: int, num_in: int, group_size: int) -> None:
        self.memory, self.size, self.num_in = memory, size, num_in
        self._num_groups = size // num_in * ceil(num_in / group_size)

    def new(self, num_bytes: int) -> Block:
        return self.memory.hold(self.size * num_bytes, SOLVING)

    def rounded(self) -> list[Block]:
        """`numerics.quantize.quantize_rtn`: codes, scales, zero points."""
        drop = self.memory.drop
        drop(self.new(4))  # padded to whole groups
        kept = [self.memory.hold(self._num_groups * width, SOLVING) for width in (2, 1)]
        scales, zeros = self.new(4), self.new(1)
        steps, shift, shifted = self.new(4), self.new(4), self.new(4)
        drop(steps, shift)
        whole = self.new(4)
        drop(shifted)
        clamped = self.new(4)
        drop(whole)
        codes = self.new(1)
        drop(clamped, scales, zeros)
        return [codes, *kept]

    def dequantized(self) -> Block:
        drop = self.memory.drop
        scales, zeros = self.new(4), self.new(1)
        codes, wide_zeros, centred = self.new(2), self.new(2), self.new(2)
        drop(codes, wide_zeros, zeros)
        wide = self.new(4)
        drop(centred)
        product = self.new(4)
        drop(wide, scales)
        return product


def _solve(memory: Allocator, num_in: int) -> Block:
    """`InputStatistics.wiener_filter`: a Cholesky solve in fp64."""

    def new(num_bytes: int) -> Block:
        return memory.hold(num_in * num_in * num_bytes, SOLVING)

    private, public, weighted = new(8), new(8), new(8)
    memory.drop(public)
    total = new(8)
    memory.drop(weighted)
    factor = new(8)
    result, copied = new(8), new(8)
    memory.drop(copied)
    narrow = new(4)
    memory.drop(result, private, total, factor)
    return narrow


def _first_guess(weights: _Weights) -> None:
    """The residual in the inputs' metric; what its few leading directions take is left out."""
    memory, num_values = weights.memory, weights.num_in**2
    product = weights.dequantized()
    residual = weights.new(4)
    memory.drop(product)
    parts = [memory.hold(4 * num_values, SOLVING) for _ in range(4)]
    metric = memory.hold(4 * num_values, SOLVING)
    memory.drop(*parts)
    memory.drop(residual, metric)


def _look(spec: ModelSpec, work: Workload, memory: Allocator) -> None:
    """`prepare_lessons`: a pass without a way back; what it finds goes to the processor's memory."""
    run = Pass(spec, work, memory, batch=work.splitting.windows_per_step, length=work.context)
    h, *angles = run.embed()
    for index in range(spec.num_layers):
        h, before = run.layer(index, h), h
        run.drop(before)
    hidden = run.norm("final", h, run.num_positions * spec.hidden_size)
    run.drop(h, *angles)
    chosen = run.new(run.num_positions * spec.hidden_size, 4)
    run.drop(run.new(run.num_positions * spec.hidden_size, 2), chosen, hidden)


# ---- the fits


class _FitPass(TrainingPass):
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


class ScaleFit(_FitPass):
    """`transform.fit_scales._ScaledLinear`: the weight is made from codes and scales in every pass."""

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


class OrthoFit(_FitPass):
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


Loss = Callable[["_FitPass", Block], Block]


def _fit(
    spec: ModelSpec,
    work: Workload,
    memory: Allocator,
    kind: type[_FitPass],
    num_trained: int,
    losses: Sequence[tuple[int, int, Loss]],
) -> None:
    """`transform.training.minimise`: AdamW's moments in one block, then steps; `losses` are a step's pieces:
    sequences, their length, and what is asked of them."""
    moments = memory.hold(2 * 4 * num_trained, MOMENTS)
    trained = Trained(memory, 4)
    for _ in range(NUM_STEPS):
        for batch, length, loss in losses:
            _piece(kind(spec, work, memory, batch=batch, length=length), trained, loss)
        memory.drop(*trained.gradients.values())
        trained.gradients.clear()
    memory.drop(moments)


def _piece(run: _FitPass, trained: Trained, loss: Loss) -> None:
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


def _kl_loss(run: _FitPass, hidden: Block) -> Block:
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


def _log_softmaxes(run: _FitPass, rows: int) -> tuple[Block, Block]:
    logs = []
    for _ in range(2):
        logits = run.new(rows * run.spec.vocab_size, 2, LOGITS)
        wide = run.new(rows * run.spec.vocab_size, 4, LOGITS)
        run.drop(logits)
        logs.append(run.new(rows * run.spec.vocab_size, 4, LOGITS))
        run.drop(wide)
    return logs[0], logs[1]


def _nll_loss(run: _FitPass, hidden: Block, *, logit_rows: int) -> Block:
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
