"""The weights that one seed's stages hand on, as files in the run's work/ folder, each known by its digest.

A stage's own file says the digests of what it wrote. What an earlier process left is checked once, before it
is first read; what this process wrote is not. A run kept from before digests has none, and is not checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import IntegrityError
from ..files import sha256_file


class WorkFiles:
    """The files of one seed in `folder`, by name without ending."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: list[str] = []
        self._unchecked: dict[str, tuple[str, Path]] = {}  # name -> digest, and the stage that tells it

    def to_write(self, name: str) -> Path:
        """Where to write `name`; its digest will be among the stage in hand's."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._unchecked.pop(name, None)
        self._written.append(name)
        return self._path(name)

    def to_read(self, name: str) -> Path:
        """Where `name` is. Raises IntegrityError where it is not what an earlier process wrote."""
        path = self._path(name)
        if name in self._unchecked:
            expected, stage = self._unchecked[name]
            received = sha256_file(path) if path.is_file() else None
            if received != expected:
                raise IntegrityError(
                    "weights kept by an interrupted run are damaged or gone",
                    expected=f"sha256 {expected}",
                    received=f"sha256 {received}" if received else "no file",
                    where=str(path),
                    todo=f"delete {stage} and resume again, which does that stage anew; or start a new run",
                )
            del self._unchecked[name]
        return path

    def digests(self) -> dict[str, str]:
        """Of every file written since the last call: for the file of the stage that wrote them."""
        written, self._written = self._written, []
        return {name: sha256_file(self._path(name)) for name in written}

    def expect(self, digests: Mapping[str, str], stage: Path) -> None:
        """Files that an earlier process wrote, as the file `stage` tells."""
        self._unchecked |= {name: (digest, stage) for name, digest in digests.items()}

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"
