"""What is to be done: task, storage bits, context and batch; checked once, all faults named together."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError, UnknownNameError

TASKS = ("generate", "score", "split", "sft")
BITS = (2, 3, 4, 8, 16, 32)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One task's sizes. `bits` is how the linear layers are stored (see `bytes_per_linear_weight`)."""

    task: str
    bits: int = 4
    context: int = 512
    batch: int = 1

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise UnknownNameError("task", self.task, TASKS)
        faults = []
        if self.bits not in BITS:
            faults.append(f"bits is {self.bits}, not one of {', '.join(map(str, BITS))}")
        faults += [
            f"{name} is {value}, not at least 1"
            for name, value in (("context", self.context), ("batch", self.batch))
            if value < 1
        ]
        if faults:
            raise InputError("the workload cannot be planned", received="; ".join(faults))

    @property
    def bytes_per_linear_weight(self) -> float:
        """Below 16 bits: the code, and per group of 64 weights a 16-bit scale and a 16-bit zero point."""
        return (self.bits if self.bits >= 16 else self.bits + 32 / 64) / 8

    @property
    def num_tokens(self) -> int:
        return self.batch * self.context
