"""What is to be done: the task, how weights are stored, sizes, and for training how a step is taken.

Checked once, all faults named together.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError, UnknownNameError

TASKS = ("generate", "score", "split", "sft")
BITS = (2, 3, 4, 8, 16, 32)
ATTENTION = ("sdpa", "eager")
PLACES = ("device", "cpu")
LOSSES = ("dense", "chunked")
OPTIMIZERS = ("fused", "foreach", "in-backward")
LAYERS_FROM = ("memory", "disk")


@dataclass(frozen=True, kw_only=True)
class Training:
    """How one optimizer step is taken.

    `autocast`: bf16 autocast over fp32 weights. `loss`: all logits at once, or 256 rows at a time, recomputed
    in the backward pass. `optimizer`: AdamW as torch's fused or foreach kernel, or each parameter's own step
    within the backward pass, which leaves no gradients standing and allows no accumulation.
    """

    autocast: bool = True
    checkpointing: bool = False
    loss: str = "dense"
    optimizer: str = "fused"
    accumulation: int = 1  # micro-batches a step


@dataclass(frozen=True, kw_only=True)
class Splitting:
    """What a split is made of; the defaults are those of `transform.split_model`.

    `text_tokens`: of the longest private text; None: as long as the context. `solves`: the sieve solves for a
    filter of each input's width, as `wiener` does. Without steps a fit is left out. `layers_from`: the whole
    model in memory, or one layer after another from disk, which leaves out the fits.
    """

    layers_from: str = "memory"
    method: str = "rtn"

    num_texts: int = 64
    text_tokens: int | None = None
    num_calibration_windows: int = 32
    rank: int = 16
    windows_per_step: int = 2
    texts_per_step: int = 8
    solves: bool = True
    fits_scales: bool = True
    fits_ortho: bool = True


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One task's sizes.

    `bits` is how the linear layers are stored; below 16 in groups of `group_size` with one 16-bit scale and
    one 8-bit zero point each. `head_bits` is the output head's own; with tied embeddings a head of fewer bits
    is a second, packed copy. An embedding on the `cpu` costs the card nothing; routed experts there travel to
    the card as they are chosen. `batch` is the sequences at once: in training, of one micro-batch; a split
    forms its own.
    """

    task: str
    bits: int = 4
    group_size: int = 64
    head_bits: int = 16
    embedding_place: str = "device"
    experts_place: str = "device"
    context: int = 512
    batch: int = 1
    splitting: Splitting = Splitting()
    attention: str = "sdpa"
    training: Training = Training()

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise UnknownNameError("task", self.task, TASKS)
        faults = [
            f"{name} is {value!r}, not one of {', '.join(map(str, allowed))}"
            for name, value, allowed in (
                ("bits", self.bits, BITS),
                ("head_bits", self.head_bits, BITS),
                ("embedding_place", self.embedding_place, PLACES),
                ("experts_place", self.experts_place, PLACES),
                ("attention", self.attention, ATTENTION),
                ("loss", self.training.loss, LOSSES),
                ("optimizer", self.training.optimizer, OPTIMIZERS),
                ("layers_from", self.splitting.layers_from, LAYERS_FROM),
            )
            if value not in allowed
        ]
        faults += [
            f"{name} is {value}, not at least 1"
            for name, value in (
                ("context", self.context),
                ("batch", self.batch),
                ("texts", self.splitting.num_texts),
                ("group_size", self.group_size),
                ("accumulation", self.training.accumulation),
            )
            if value < 1
        ]
        if self.training.optimizer == "in-backward" and self.training.accumulation > 1:
            faults.append("a step within the backward pass allows one micro-batch only")
        if self.task == "split" and self.batch > 1:
            faults.append(f"batch is {self.batch}, and a split forms its own batches")
        if faults:
            raise InputError("the workload cannot be planned", received="; ".join(faults))

    @property
    def bytes_per_linear_weight(self) -> float:
        """Below 16 bits: the code, and per group a 16-bit scale and an 8-bit zero point."""
        return (self.bits if self.bits >= 16 else self.bits + 24 / self.group_size) / 8

    @property
    def num_tokens(self) -> int:
        return self.batch * self.context
