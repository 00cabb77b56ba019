"""Writes a model's tensors as safetensors, in as many files as memory asks for.

What is added waits until it makes up a shard, so that no more than about one shard is held at a time. A
model that fits one shard becomes a plain model.safetensors; a larger one gets the usual index.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from ..files import write_json

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 2**28  # about two decoder layers of an 8B model in 4 bits


class ShardWriter:
    """`add` each tensor once, then `finish`."""

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder, self._shard_bytes = folder, shard_bytes
        self._waiting: dict[str, Tensor] = {}
        self._waiting_bytes, self.total_bytes = 0, 0
        self._file_of: dict[str, str] = {}
        self._files: list[str] = []

    def add(self, tensors: dict[str, Tensor]) -> None:
        """Tensors that stay together in one shard; they are not copied, so leave them as they are."""
        assert not tensors.keys() & {*self._file_of, *self._waiting}
        num_bytes = sum(tensor.nbytes for tensor in tensors.values())
        if self._waiting and self._waiting_bytes + num_bytes > self._shard_bytes:
            self._write()
        self._waiting |= tensors
        self._waiting_bytes += num_bytes
        self.total_bytes += num_bytes

    def finish(self) -> None:
        """The last shard, and the index where there is more than one."""
        if self._waiting:
            self._write()
        if len(self._files) == 1:
            (self._folder / self._files[0]).rename(self._folder / WEIGHTS)
            return
        metadata = {"total_size": self.total_bytes}
        write_json(
            self._folder / WEIGHTS_INDEX,
            {"metadata": metadata, "weight_map": dict(sorted(self._file_of.items()))},
        )

    def _write(self) -> None:
        name = f"model-{len(self._files) + 1:05}.safetensors"
        save_tensors(self._folder / name, self._waiting)
        self._file_of |= dict.fromkeys(self._waiting, name)
        self._files.append(name)
        self._waiting, self._waiting_bytes = {}, 0


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """One safetensors file, marked as torch's, as transformers asks."""
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, path, metadata={"format": "pt"})
