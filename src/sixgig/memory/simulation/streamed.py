"""`sixgig split --layers-from disk` as allocations: the texts through one layer, then its linear layers.

The order is that of `transform.layer_walk`, `transform.split_stream` and `numerics.cholesky`. Layers are
alike and leave nothing behind, so two are played.
"""

from __future__ import annotations

from functools import partial

from ...catalogue import ModelSpec
from ...catalogue.tensors import layer_tensors
from ..workload import Workload
from .allocator import Allocator, Block
from .splitting import (
    POSITIONS_PER_BATCH,
    SOLVING,
    WALKED_LAYERS,
    Linear,
    Matrices,
    Walker,
    linears_of,
    sharing,
)
from .weights import LINEAR, SMALL

BLOCK, ROWS = 1024, 512  # numerics.cholesky


def split_from_disk(spec: ModelSpec, work: Workload, memory: Allocator) -> None:
    """Two decoder layers, one after the other. `work` is in 32 bits: what is not a product is in fp32."""
    for index in range(min(spec.num_layers, WALKED_LAYERS)):
        layer = []
        for tensor in layer_tensors(spec, index):
            width, kind = (2, LINEAR) if tensor.part == "linear" else (4, SMALL)
            layer.append(memory.hold(width * tensor.num_elements, kind))
        moments = [_walk(spec, work, memory, index, *texts) for texts in _texts(work)]
        memory.drop(*layer)
        _split_groups(spec, work, memory, moments)


def _texts(work: Workload) -> list[tuple[int, int]]:
    """(number, length) of the public windows and of the private texts."""
    how = work.splitting
    return [(how.num_calibration_windows, work.context), (how.num_texts, how.text_tokens or work.context)]


def _walk(
    spec: ModelSpec, work: Workload, memory: Allocator, index: int, num_texts: int, length: int
) -> dict[str, Block]:
    """All texts of one set through one layer; their moments, by role."""
    sums: dict[str, Block] = {}
    windows = max(1, POSITIONS_PER_BATCH // work.context)
    for start in range(0, num_texts, windows):
        walker = _DiskWalker(spec, work, memory, batch=min(windows, num_texts - start), length=length)
        walker.sums = sums
        hidden, *rest = walker.embed()
        out = walker.layer(index, hidden)
        memory.drop(hidden, out, *rest)
    return sums


class _DiskWalker(Walker):
    """Linear layers lie there in the type that autocast asks for."""

    def _cast_weight(self, name: str, num_weights: int) -> Block:
        return self.new(0, 2)


def _split_groups(
    spec: ModelSpec, work: Workload, memory: Allocator, moments: list[dict[str, Block]]
) -> None:
    linears = linears_of(spec)
    linears = linears[: len(linears) // spec.num_layers]
    for role, size in zip(Walker.LEADERS, sharing(spec), strict=True):
        group, linears = linears[:size], linears[size:]
        solved: list[Block] = []
        removed = []
        for one in group:
            matrices = Matrices(memory, one.num_weights, one.num_in, work.group_size)
            evidence = _evidence(matrices, "now", "before")
            change = matrices.new(4)
            if work.splitting.solves:
                if not solved:
                    solved = [_factor(memory, one.num_in)]
                removed.append(_filtered(matrices, one))
                memory.drop(change)
            else:
                removed.append(change)
            memory.drop(*evidence)
        memory.drop(*solved)
        steering = [_steering(memory, group[0].num_in)] if work.splitting.method == "gptq" else []
        for one, gone in zip(group, removed, strict=True):
            _split_one(Matrices(memory, one.num_weights, one.num_in, work.group_size), work, gone)
        memory.drop(*steering, *(sums.pop(role) for sums in moments))


def _evidence(matrices: Matrices, *which: str) -> list[Block]:
    """W, and W0 where it is needed, in fp32, each from what is stored."""
    found = []
    for _ in which:
        stored = matrices.new(2)
        found.append(matrices.new(4))
        matrices.memory.drop(stored)
    return found


def _factor(memory: Allocator, num_in: int) -> Block:
    """`InputStatistics._factor`: one matrix in fp64, factored in place."""

    def new(num_values: int) -> Block:
        return memory.hold(8 * num_values, SOLVING)

    total = new(num_in * num_in)
    memory.drop(new(min(BLOCK, num_in) * num_in))  # of the other moments, widened
    for start in range(0, num_in, BLOCK):
        width = min(BLOCK, num_in - start)
        head, below = new(width * width), num_in - start - width
        if below:
            memory.drop(new(width * below))
        memory.drop(head)
    return total


def _filtered(matrices: Matrices, one: Linear) -> Block:
    """`numerics.cholesky.filtered_rows`: a few rows at a time in fp64."""
    memory, num_out = matrices.memory, one.num_weights // one.num_in
    out = matrices.new(4)

    def new(rows: int, columns: int) -> Block:
        return memory.hold(8 * rows * columns, SOLVING)

    for start in range(0, num_out, ROWS):
        rows = min(ROWS, num_out - start)
        wide, product = new(rows, one.num_in), new(rows, one.num_in)
        signal, part = new(one.num_in, min(ROWS, one.num_in)), new(rows, min(ROWS, one.num_in))
        memory.drop(signal, part, wide)
        half = new(rows, one.num_in)
        memory.drop(product)
        result = new(rows, one.num_in)
        memory.drop(half, result)
    return out


def _split_one(matrices: Matrices, work: Workload, removed: Block) -> None:
    """`split_removed`: both quantisations and the first guess, without a metric of its own."""
    memory, drop = matrices.memory, matrices.memory.drop
    rounded = partial(_gptq, matrices) if work.splitting.method == "gptq" else matrices.rounded
    evidence = _evidence(matrices, "now")
    plain = rounded()
    unrounded = matrices.new(4)
    base = rounded()
    if work.splitting.fits_ortho:
        product = matrices.dequantized()
        residual = matrices.new(4)
        drop(product, residual)
    differing, wide = matrices.new(1), matrices.new(4)
    drop(differing, wide)
    memory.drop(*evidence, *plain, unrounded, *base, removed)


def _gptq(matrices: Matrices) -> list[Block]:
    """`numerics.quantize.quantize_gptq`."""
    drop = matrices.memory.drop
    drop(matrices.new(4))  # padded to whole groups
    kept = matrices.scales()
    working = matrices.new(4)
    spread, scales = matrices.new(4), matrices.new(4)
    drop(spread)
    spread, zeros = matrices.new(1), matrices.new(1)
    drop(spread)
    codes = matrices.new(1)
    moved = matrices.new(4)  # the columns that are left, once a block
    drop(moved)
    natural = matrices.new(1)
    drop(working, scales, zeros, codes)
    return [natural, *kept]


def _steering(memory: Allocator, num_in: int) -> Block:
    """`numerics.quantize.steering`."""
    wide = memory.hold(8 * num_in * num_in, SOLVING)
    rows = memory.hold(8 * min(BLOCK, num_in) * num_in, SOLVING)
    memory.drop(rows)
    upper = memory.hold(4 * num_in * num_in, SOLVING)
    # The columns before are named until these are there.
    columns = [memory.hold(8 * min(BLOCK, num_in) * num_in, SOLVING) for _ in ("unit", "solved", "before")]
    memory.drop(*columns, wide)
    return upper
