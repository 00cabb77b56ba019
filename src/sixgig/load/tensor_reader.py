"""Tensors of a model folder read one by one, with no file mapped in between.

A mapped safetensors file keeps every page that was ever read in the process's resident memory, so that a walk
through a model would end with all of it there. Each read here opens its file, copies out what is asked for,
and closes it; opening costs a look at the header, a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import IntegrityError
from .container import TensorFile, slices, weight_files


class TensorReader:
    """The tensors of a model folder by name: one model.safetensors, or shards under their index."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.paths = tuple(folder / name for name in weight_files(folder))
        self._path_of: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for path in self.paths:
            file = TensorFile(path)
            self._path_of |= dict.fromkeys(file.names, path)
            self._shapes |= {name: file.shape(name) for name in file.names}
        self.names = frozenset(self._path_of)

    def get(self, name: str) -> Tensor:
        """A copy. Raises IntegrityError when there is no such tensor, NumericalError for NaN or Inf."""
        return self._file(name).get(name)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """A copy of some rows. Raises as `get`."""
        return self._file(name).rows(name, start, stop)

    def gather(self, name: str, ids: Sequence[int]) -> Tensor:
        """The rows `ids` of a matrix [V, D], in their order; the matrix is never held whole.

        Raises:
            IntegrityError where it has not so many rows; NumericalError for NaN or Inf in any row.
        """
        wanted = torch.tensor(sorted(ids), dtype=torch.int64)
        if not 0 <= int(wanted[0]) <= int(wanted[-1]) < self.shape(name)[0]:
            raise IntegrityError(
                f"tensor {name} lacks rows that are asked for",
                expected=f"rows 0 to {self.shape(name)[0] - 1}",
                received=f"rows {int(wanted[0])} to {int(wanted[-1])}",
                where=str(self._path_of[name]),
            )
        found = [
            part[wanted[(wanted >= start) & (wanted < start + len(part))] - start]
            for start, part in slices(self, name)
        ]
        return torch.cat(found)[torch.searchsorted(wanted, torch.tensor(ids, dtype=torch.int64))]

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._shapes:
            raise self._missing(name)
        return self._shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        return self._file(name).dtype(name)

    def num_bytes(self, name: str) -> int:
        return torch.Size(self.shape(name)).numel() * self.dtype(name).itemsize

    def _file(self, name: str) -> TensorFile:
        if name not in self._path_of:
            raise self._missing(name)
        return TensorFile(self._path_of[name])

    def _missing(self, name: str) -> IntegrityError:
        return IntegrityError(f"tensor {name} is missing", where=str(self._folder))
