"""Writes a safetensors file tensor by tensor, so that no more than one of them is held.

safetensors' own writer wants all tensors at once. The format (huggingface/safetensors, README, "Format") is
an 8-byte length, a JSON header, and the tensors' bytes without gaps. A reader maps each at its type's
alignment, so wide types come first: each width is spooled to a file of its own beside the target, and the
spools are joined behind the header at the end.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..files import full_disk_explained

_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int32: "I32",
    torch.int64: "I64",
}
_WIDTHS = (8, 4, 2, 1)


class TensorWriter:
    """Use as a context manager: the file is there when it ends without an error, else nothing is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._spools = {width: path.with_name(f"{path.name}.{width}") for width in _WIDTHS}
        self._open: dict[int, BinaryIO] = {}
        self._entries: dict[int, list[tuple[str, str, list[int], int]]] = {width: [] for width in _WIDTHS}
        self._names: set[str] = set()

    def __enter__(self) -> TensorWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for handle in self._open.values():
                handle.close()
            if kind is None:
                with full_disk_explained(self._path):
                    self._join()
        finally:
            for spool in self._spools.values():
                spool.unlink(missing_ok=True)

    def add(self, name: str, tensor: Tensor) -> None:
        """One whole tensor, on any device."""
        self.add_pieces(name, tuple(tensor.shape), tensor.dtype, [tensor])

    def add_pieces(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype, pieces: Iterable[Tensor]
    ) -> None:
        """One tensor, rows after rows."""
        assert name not in self._names, name
        self._names.add(name)
        width, num_bytes = dtype.itemsize, 0
        with full_disk_explained(self._path):
            handle = self._spool(width)
            for piece in pieces:
                assert piece.dtype == dtype, name
                data = piece.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
                handle.write(data.data)
                num_bytes += data.nbytes
        assert num_bytes == width * torch.Size(shape).numel(), name
        self._entries[width].append((name, _NAMES[dtype], list(shape), num_bytes))

    def _spool(self, width: int) -> BinaryIO:
        if width not in self._open:
            self._open[width] = self._spools[width].open("wb")
        return self._open[width]

    def _join(self) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for width in _WIDTHS:
            for name, dtype, shape, num_bytes in self._entries[width]:
                header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + num_bytes]}
                offset += num_bytes
        content = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        content += b" " * (-len(content) % 8)  # the first tensor's bytes begin at a multiple of 8
        with self._path.open("wb") as target:
            target.write(len(content).to_bytes(8, "little"))
            target.write(content)
            for width in _WIDTHS:
                if width in self._open:
                    with self._spools[width].open("rb") as spool:
                        shutil.copyfileobj(spool, target, 2**22)
                    self._spools[width].unlink()  # so that no more than one spool lies there twice
