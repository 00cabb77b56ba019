"""What a split that reads layers from disk holds in the processor's memory: lines of the ledger."""

from __future__ import annotations

from math import prod

from ..catalogue import ModelSpec
from ..catalogue.tensors import layer_tensors
from ..units import GIB, MIB
from .ledger import LIBRARIES_BYTES, Line
from .workload import Workload

MOST_WIDE_BYTES = 1 * GIB  # transform.layer_walk
SLICE_BYTES = 64 * MIB  # load.container
# With CUDA's libraries loaded and a context made; reported for Linux, not measured here.
CUDA_LIBRARIES_BYTES = 2 * GIB


def host_lines(spec: ModelSpec, work: Workload, *, on_card: bool) -> list[Line]:
    """Beside what the simulation plays, which on a card lies there."""
    sets = _positions(work)
    width = 4 if 4 * sum(sets) * spec.hidden_size <= MOST_WIDE_BYTES else 2
    # A set's activations after a layer are made beside those before it.
    waiting = (sum(sets) + max(sets)) * width * spec.hidden_size
    stored = 4 if spec.published_dtype == "float32" else 2
    layer = [tensor for tensor in layer_tensors(spec, 0) if tensor.part == "linear"]
    num_weights = sum(tensor.num_elements for tensor in layer)
    largest = max(tensor.num_elements for tensor in layer)
    rows = min(spec.vocab_size, sum(sets)) * spec.hidden_size * stored
    codes = num_weights * (1 + 3 / work.group_size) + num_weights * 2 * work.bits / 8
    factors = 4 * work.splitting.rank * sum(sum(tensor.shape) for tensor in layer)
    return [
        _line(
            "activations between layers", waiting, f"{8 * width} bits; a layer's results beside its inputs"
        ),
        _line("one layer's weights", num_weights * stored, "as stored"),
        _line("reading", 2 * largest * stored + SLICE_BYTES, "the largest tensor, mapped and copied"),
        _line("embedding rows", rows, "those that the texts use, at most"),
        _line("one layer's Base and Ortho part", int(codes) + factors, "codes, packed to be kept"),
        _line(
            "libraries", CUDA_LIBRARIES_BYTES if on_card else LIBRARIES_BYTES, "Python, torch, transformers"
        ),
    ]


def partial_bytes(spec: ModelSpec, work: Workload) -> int:
    """What the finished layers take on disk until the split is written, and the split itself at most."""
    per_weight = (work.bits + 24 / work.group_size) / 8
    factors = sum(sum(t.shape) for t in spec.tensors() if t.part == "linear") * work.splitting.rank
    others = sum(prod(t.shape) for t in spec.tensors() if t.part != "linear") * 2
    return int(3 * spec.num_linear_parameters * per_weight) + 5 * factors + 2 * others


def _positions(work: Workload) -> list[int]:
    how = work.splitting
    return [how.num_calibration_windows * work.context, how.num_texts * (how.text_tokens or work.context)]


def _line(what: str, num_bytes: int, because: str) -> Line:
    return Line(what=what, place="ram", num_bytes=num_bytes, because=because)
