"""How a step of training is cut so that it fits, and what it gives up next when it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..hardware import probe
from ..load.loaded import LoadedModel
from ..memory.ladder import Move
from ..numerics.likelihood import default_chunk_rows

Losses = Callable[[int, int], Iterable[Callable[[], Tensor]]]  # (step, number of pieces) -> its pieces

MAX_PIECES = 256  # a step cut finer than this holds single sequences in any use here
FEWER_LOGIT_ROWS = (256, 64)  # held at a time, when memory has run out with single sequences

FREE_SHARE = 0.8  # of the processor's free memory, which moments may take at most

_recompute: ContextVar[bool] = ContextVar("recompute", default=False)


@dataclass(frozen=True, kw_only=True)
class Thrift:
    """How a step is cut. `logit_rows` None: as many as usual. `recompute`: each decoder layer's activations
    are let go and computed again in the backward pass (Chen et al. 2016, arXiv 1604.06174). `offload`:
    AdamW's moments wait in the processor's memory (Ren et al. 2021, arXiv 2101.06840, section 4; deviation:
    the step itself stays on the card, so that it gives the same numbers)."""

    num_pieces: int = 1
    logit_rows: int | None = None
    recompute: bool = False
    offload: bool = False


class TrainingMoves:
    """What a step of training can give up, in order. `step` is the one at hand."""

    def __init__(self, losses_at: Losses, device: torch.device, moments_bytes: int) -> None:
        self.step = 0
        self._losses_at, self._device, self._moments_bytes = losses_at, device, moments_bytes

    def all(self) -> list[Move[Thrift]]:
        return [
            Move(
                lower=self._more_pieces,
                says=lambda thrift: f"each step now runs in {thrift.num_pieces} pieces",
            ),
            Move(
                lower=self._fewer_rows,
                says=lambda thrift: (
                    f"{thrift.num_pieces} pieces a step, {thrift.logit_rows} rows of logits each"
                ),
            ),
            Move(
                lower=lambda thrift: None if thrift.recompute else replace(thrift, recompute=True),
                says=lambda thrift: "each layer's activations are now computed twice, not kept",
            ),
            Move(
                lower=self._offloaded,
                says=lambda thrift: "the optimizer's moments now wait in the processor's memory",
            ),
        ]

    def _offloaded(self, thrift: Thrift) -> Thrift | None:
        if thrift.offload or self._device.type == "cpu":
            return None
        # A system that has promised more memory than it has ends a process without a word.
        is_free = self._moments_bytes < FREE_SHARE * probe().ram_available_bytes
        return replace(thrift, offload=True) if is_free else None

    def _more_pieces(self, thrift: Thrift) -> Thrift | None:
        now, finest = (len([*self._losses_at(self.step, n)]) for n in (thrift.num_pieces, MAX_PIECES))
        return replace(thrift, num_pieces=2 * thrift.num_pieces) if now < finest else None

    def _fewer_rows(self, thrift: Thrift) -> Thrift | None:
        rows = thrift.logit_rows or default_chunk_rows(self._device)
        fewer = [number for number in FEWER_LOGIT_ROWS if number < rows]
        return replace(thrift, logit_rows=fewer[0]) if fewer else None


@contextmanager
def recomputing(is_on: bool) -> Iterator[None]:
    """Within it, where `is_on`, passes keep their layers' inputs alone (see `checkpointed`)."""
    token = _recompute.set(is_on)
    try:
        yield
    finally:
        _recompute.reset(token)


def is_recomputing() -> bool:
    return _recompute.get()


@contextmanager
def checkpointed(loaded: LoadedModel) -> Iterator[None]:
    """Decoder layers that keep their inputs alone for the backward pass, in passes begun within it.

    Not transformers' own switch, which works in its training mode only: what is fitted here is not in it.
    """
    layers = list(getattr(loaded.network.base_model, "layers", ()))
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own shows again
