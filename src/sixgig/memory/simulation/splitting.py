"""`sixgig split` as allocations: the walk over the layers, then both fits (`fits`).

The order is that of `transform.split_model` and of what it calls, read off the allocator's own record of two
layers on a GPU. The model stands whole in fp32 until the fits replace its linear layers one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil

from ...catalogue import ModelSpec
from ..workload import Workload
from .allocator import Allocator, Block
from .fits import WEIGHTS, OrthoFit, ScaleFit, fit, kl_loss, nll_loss
from .passes import Pass

POSITIONS_PER_BATCH = 2048  # of the walk (transform.split_model)
WALKED_LAYERS = 2  # a layer leaves nothing behind, so that the third takes what the second did
SOLVING, ORTHO, SECOND_MOMENTS = "one layer's removal", "Ortho part", "second moments"


@dataclass(frozen=True, kw_only=True)
class Linear:
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
    linears, how = linears_of(spec), work.splitting
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
            (how.windows_per_step, work.context, kl_loss),
            (*private, partial(nll_loss, logit_rows=logit_rows)),
        ]
        fit(spec, work, memory, OrthoFit, num_trained, losses)
        standing = restored
    memory.drop(*standing)


def _fit_scales(spec: ModelSpec, work: Workload, memory: Allocator, weights: Sequence[Block]) -> list[Block]:
    """`transform.fit_scales`: W - M in the weights' place for its answers, then codes and scales."""
    linears, made = linears_of(spec), []
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
    fit(spec, work, memory, ScaleFit, num_trained, [(work.splitting.windows_per_step, work.context, kl_loss)])
    return made


def sharing(spec: ModelSpec) -> tuple[int, ...]:
    """Linear layers that read one input: q k v, o, gate up (or the first of a plain MLP), down."""
    return (3, 1, 2, 1) if spec.mlp_kind == "gated" else (3, 1, 1, 1)


def linears_of(spec: ModelSpec) -> list[Linear]:
    tensors = [tensor for tensor in spec.tensors() if tensor.part == "linear"]
    return [Linear(num_weights=tensor.num_elements, num_in=tensor.shape[-1]) for tensor in tensors]


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
        self._walker = partial(Walker, spec, work, memory, batch=batch, length=length)
        self.hidden, *rest = self._walker().embed()
        memory.drop(*rest)

    def one_layer(self, index: int, sums: dict[str, Block]) -> None:
        walker = self._walker()
        walker.sums = sums
        self.hidden, before = walker.layer(index, self.hidden), self.hidden
        walker.drop(before)


class Walker(Pass):
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
    linears = linears_of(spec)
    sizes = sharing(spec)
    leaders = [sum(sizes[:number]) for number in range(len(sizes))]
    for number, one in enumerate(linears[: len(linears) // spec.num_layers]):
        weights = Matrices(memory, one.num_weights, one.num_in, work.group_size)
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


class Matrices:
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
        kept = self.scales()
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

    def scales(self) -> list[Block]:
        """And zero points, a number a group."""
        return [self.memory.hold(self._num_groups * width, SOLVING) for width in (2, 1)]

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


def _first_guess(weights: Matrices) -> None:
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
