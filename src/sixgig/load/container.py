"""The gate that an artifact's files pass: a list of sizes and digests, checked before anything is read.

Each published folder carries its own list (a JSON file with a schema, sizes and SHA-256), so that it can be
checked alone. Only regular files inside the folder are opened, and tensors only as safetensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import InputError, IntegrityError, NumericalError
from ..files import read_json, sha256_file, write_json
from ..numerics.finite import all_finite

MAX_LIST_BYTES = 16 * 2**20
SLICE_BYTES = 64 * 2**20  # of a large tensor, read at a time where it is not needed whole
# What people add to a published folder, and nothing here ever reads.
_HARMLESS = ("README.md", "LICENSE", "LICENSE.txt", "NOTICE")

TensorSpecs = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
FileEntries = dict[str, dict[str, Any]]


def file_entries(folder: Path, names: Iterable[str]) -> FileEntries:
    """Size and SHA-256 of files of `folder`, by name."""
    return {
        name: {"num_bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in sorted(names)
    }


def write_listing(folder: Path, list_name: str, schema: str, facts: Mapping[str, Any]) -> None:
    """Lists every file of `folder` in `list_name`, beside `facts`. Call last, when all files are there."""
    assert not facts.keys() & {"schema", "files"}
    files = file_entries(folder, (path.name for path in folder.iterdir()))
    write_json(folder / list_name, {"schema": schema, **facts, "files": files})


def read_schema(folder: Path, name: str, schema: str) -> dict[str, Any]:
    """The JSON object in `folder`/`name`. Raises IntegrityError for a foreign schema or form."""
    content = read_json(regular_file(folder, name), max_bytes=MAX_LIST_BYTES)
    found = content.get("schema") if isinstance(content, dict) else None
    if found != schema:
        raise IntegrityError(
            "not a file of this format",
            expected=f"schema {schema}",
            received=f"schema {found!r}"[:100],
            where=str(folder / name),
            todo="open it with the sixgig that wrote it, or split again",
        )
    entries_of(content, folder / name)
    return content


def entries_of(content: Mapping[str, Any], where: Path) -> FileEntries:
    """The "files" of a list. Raises IntegrityError where one is no size with a digest."""
    files = content.get("files")
    if isinstance(files, dict) and all(_is_entry(entry) for entry in files.values()):
        return files
    raise IntegrityError(
        "the list of files is damaged", expected="num_bytes and sha256 of every file", where=str(where)
    )


def verify_listed(folder: Path, list_name: str, entries: FileEntries) -> None:
    """Raises IntegrityError naming the first file that is missing, unlisted, of another size or altered."""
    for name in sorted(entries):
        verify_file(folder, name, entries[name])
    known = {*entries, list_name, *_HARMLESS}
    for path in sorted(folder.iterdir()):
        if path.name not in known and not path.name.startswith("."):
            raise IntegrityError(
                f"a file that does not belong here: {path.name}",
                expected=f"only what {list_name} lists",
                where=str(path),
                todo="remove it, or get the folder again",
            )


def verify_file(folder: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Size first, then digest."""
    path = regular_file(folder, name)
    size = path.stat().st_size
    if size != entry["num_bytes"]:
        problem = "truncated file" if size < entry["num_bytes"] else "file too long"
        raise _altered(problem, path, f"{entry['num_bytes']} bytes", f"{size} bytes")
    digest = sha256_file(path)
    if digest != entry["sha256"]:
        raise _altered("altered file", path, f"SHA-256 {entry['sha256']}", f"SHA-256 {digest}")


def regular_file(folder: Path, name: str) -> Path:
    """`folder`/`name`, which must be a plain name of a regular file, no link. Raises IntegrityError."""
    path = folder / name
    if Path(name).name != name or name in ("", ".", ".."):
        raise IntegrityError("a file name that leaves its folder", received=repr(name), where=str(folder))
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise IntegrityError(
            f"not a regular file: {name}",
            expected="a file",
            received="a link, folder or device",
            where=str(path),
            todo="put the file itself there",
        )
    if not path.exists():
        raise IntegrityError(f"missing file: {name}", where=str(path), todo="get the whole folder again")
    return path


def own_folder(folder: Path, name: str) -> Path:
    """The sub-folder `name`, which must be a folder of its own and no link. Raises IntegrityError."""
    path = folder / name
    if path.is_symlink() or not path.is_dir():
        received = "a link" if path.is_symlink() else "nothing" if not path.exists() else "something else"
        raise IntegrityError(
            f"missing folder: {name}/", expected="a folder", received=received, where=str(path)
        )
    return path


class TensorFile:
    """One safetensors file; every damage is an IntegrityError that names file and tensor."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._handle = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise self._fault("not a safetensors file", str(error)) from error
        self.names, self.name = frozenset(self._handle.keys()), path.name

    def require(self, specs: TensorSpecs) -> None:
        """All of `specs`, nothing else, each of its shape and type; looks at the header alone."""
        missing, extra = sorted(specs.keys() - self.names), sorted(self.names - specs.keys())
        if missing or extra:
            raise self._fault("tensors are missing or extra", f"missing {missing[:3]}, extra {extra[:3]}")
        for name, (shape, dtype) in specs.items():
            self.require_form(name, shape, dtype)

    def require_form(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """One tensor of this shape and type. Raises IntegrityError."""
        found = self.shape(name)
        if found != shape or self._dtype_name(name) != _DTYPE_NAMES[dtype]:
            raise self._fault(
                f"tensor {name} has another form",
                f"{self._dtype_name(name)} {list(found)}",
                f"{_DTYPE_NAMES[dtype]} {list(shape)}",
            )

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._handle.get_slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        """Raises IntegrityError for a type that no model file here has."""
        found = self._dtype_name(name)
        for dtype, known in _DTYPE_NAMES.items():
            if known == found:
                return dtype
        raise self._fault(f"tensor {name} has an unsupported type", found)

    def get(self, name: str) -> Tensor:
        """A copy, so that nothing later depends on the file. Raises NumericalError for NaN or Inf."""
        if name not in self.names:
            raise self._fault(f"tensor {name} is missing", "nothing")
        return self._finite(name, self._handle.get_tensor(name).clone())

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """A copy of some rows, at least one of which is there. Raises NumericalError for NaN or Inf."""
        return self._finite(name, self._handle.get_slice(name)[start:stop].clone())

    def _finite(self, name: str, tensor: Tensor) -> Tensor:
        if tensor.is_floating_point() and not all_finite(tensor):
            raise NumericalError("NaN or Inf in a stored tensor", where=f"{self._path}, tensor {name}")
        return tensor

    def _dtype_name(self, name: str) -> str:
        return str(self._handle.get_slice(name).get_dtype())

    def _fault(self, problem: str, received: str, expected: str | None = None) -> IntegrityError:
        return IntegrityError(problem, expected=expected, received=received, where=str(self._path))


class ModelTensors:
    """The tensors of a model folder by name: one model.safetensors, or shards under their index."""

    def __init__(self, folder: Path) -> None:
        self._file_of: dict[str, TensorFile] = {}
        self.paths = tuple(folder / name for name in weight_files(folder))
        for path in self.paths:
            file = TensorFile(path)
            twice = sorted(self._file_of.keys() & file.names)
            if twice:
                raise IntegrityError(f"tensor {twice[0]} is in two files", where=str(path))
            self._file_of |= dict.fromkeys(file.names, file)
        self.names = frozenset(self._file_of)
        self._folder = folder

    def require(self, specs: TensorSpecs) -> None:
        """All of `specs`, nothing else, each of its shape and type. Raises IntegrityError."""
        missing, extra = sorted(specs.keys() - self.names), sorted(self.names - specs.keys())
        if missing or extra:
            raise IntegrityError(
                "tensors are missing or extra",
                received=f"missing {missing[:3]}, extra {extra[:3]}",
                where=str(self._folder),
            )
        for name, (shape, dtype) in specs.items():
            self._file(name).require_form(name, shape, dtype)

    def dtype(self, name: str) -> torch.dtype:
        return self._file(name).dtype(name)

    def file_name(self, name: str) -> str:
        return self._file(name).name

    def get(self, name: str) -> Tensor:
        """Raises IntegrityError when there is no such tensor, NumericalError for NaN or Inf."""
        return self._file(name).get(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._file(name).shape(name)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some rows. Raises as `get`."""
        return self._file(name).rows(name, start, stop)

    def num_bytes(self, name: str) -> int:
        return torch.Size(self.shape(name)).numel() * self.dtype(name).itemsize

    def _file(self, name: str) -> TensorFile:
        if name not in self._file_of:
            raise IntegrityError(f"tensor {name} is missing", where=str(self._folder))
        return self._file_of[name]


class StoredTensors(Protocol):
    """Tensors by name, however they are read: `ModelTensors`, or `TensorReader`, which keeps no file open."""

    names: frozenset[str]
    paths: tuple[Path, ...]

    def get(self, name: str) -> Tensor: ...

    def rows(self, name: str, start: int, stop: int) -> Tensor: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def num_bytes(self, name: str) -> int: ...


def slices(tensors: StoredTensors, name: str) -> Iterator[tuple[int, Tensor]]:
    """(first row, rows) of a whole tensor in pieces of about `SLICE_BYTES`; a scalar comes whole."""
    shape, num_bytes = tensors.shape(name), tensors.num_bytes(name)
    if not shape or not num_bytes:
        yield 0, tensors.get(name)
        return
    num_rows = max(1, SLICE_BYTES * shape[0] // num_bytes)
    for start in range(0, shape[0], num_rows):
        yield start, tensors.rows(name, start, start + num_rows)


def layer_reader(tensors: StoredTensors) -> Callable[[str], Tensor]:
    """layer name -> its weight, read when it is asked for."""
    return lambda name: tensors.get(f"{name}.weight")


def weight_files(folder: Path) -> list[str]:
    """Names of a model folder's safetensors. Raises InputError where there is none, IntegrityError for an
    index that is damaged or names files elsewhere."""
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        raise InputError(
            "no safetensors weights in this folder",
            expected="model.safetensors, or shards with model.safetensors.index.json",
            where=str(folder),
        )
    content = read_json(index, max_bytes=MAX_LIST_BYTES)
    placed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(placed, dict) or not all(isinstance(name, str) for name in placed.values()):
        raise IntegrityError("the shard index is damaged", expected="a weight_map", where=str(index))
    names = sorted(set(placed.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise IntegrityError("a shard name that leaves its folder", received=repr(name), where=str(index))
    return names


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("num_bytes"), int)
        and isinstance(entry.get("sha256"), str)
    )


def _altered(problem: str, path: Path, expected: str, received: str) -> IntegrityError:
    return IntegrityError(
        f"{problem}: {path.name}",
        expected=expected,
        received=received,
        where=str(path),
        todo="get the whole folder again",
    )


_DTYPE_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int32: "I32",
    torch.int64: "I64",
}
