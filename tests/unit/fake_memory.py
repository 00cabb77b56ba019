"""A fake allocator: lets chosen allocations of a CPU's tensors fail as a card's or a host's would.

It sees every operation that makes a tensor, backward passes and optimizers included, since these run in the
calling thread on a CPU.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MESSAGES = (
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "CUDA driver error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 4096 bytes. Error code 12 (Cannot allocate memory)",
    "DefaultCPUAllocator: not enough memory: you tried to allocate 4096 bytes.",
)


def every_form() -> list[Exception]:
    """One error of every kind by which a lack of memory is told."""
    own = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return [own, MemoryError(), *(RuntimeError(message) for message in MESSAGES)]


class FailingAt(TorchDispatchMode):
    """The `at`-th operation that makes a tensor (from 0) raises `error`, once; None: none does.

    `lasting`: so do all that come after it. `num_operations` counts them. AdamW's own operations, which make
    none, count too: torn steps are what would hurt most.
    """

    def __init__(
        self, at: int | None = None, error: Exception | None = None, *, lasting: bool = False
    ) -> None:
        super().__init__()
        self.num_operations = 0
        self._at, self._lasting = at, lasting
        self._error = error or torch.OutOfMemoryError("invented: no memory left")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "adam" in str(func) or "foreach" in str(func):
            self._count()
        result = func(*args, **(kwargs or {}))
        # What returns part of its input has no memory of its own; an empty tensor cannot fail to get any.
        is_new = any(part.alias_info is None for part in func._schema.returns)
        if is_new and any(tensor.numel() for tensor in _tensors(result)):
            self._count()
        return result

    def _count(self) -> None:
        number, self.num_operations = self.num_operations, self.num_operations + 1
        if number == self._at or (self._lasting and self._at is not None and number > self._at):
            raise self._error


class Limited(TorchDispatchMode):
    """Tensors made under it may take `limit_bytes` together while they live; more raises.

    `peak_bytes` is the most that they took. A storage counts once, however many views it has.
    """

    def __init__(self, limit_bytes: float = float("inf")) -> None:
        super().__init__()
        self.limit_bytes = limit_bytes
        self.live_bytes = self.peak_bytes = self.num_failed = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in before and storage._cdata not in self._known:
                self._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        num_bytes, key = storage.nbytes(), storage._cdata
        if self.live_bytes + num_bytes > self.limit_bytes:
            self.num_failed += 1
            raise torch.OutOfMemoryError(f"invented: {self.live_bytes} bytes held, {num_bytes} asked for")

        def freed(_: Any) -> None:
            self.live_bytes -= num_bytes
            del self._known[key]

        self._known[key] = weakref.ref(storage, freed)
        self.live_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
