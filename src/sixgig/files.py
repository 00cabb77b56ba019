"""One atomic writer for everything that is kept, and the checks every file from outside passes.

A reader never sees half a file: content goes to a temporary name beside the target, is flushed to the disk,
and takes the target's place by rename; the folder is flushed last. A full disk leaves what was there before
untouched and no temporary file behind. A killed process can leave a temporary file; `sweep_orphans` removes
those whose writer is gone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from .errors import InputError, IntegrityError, OutOfSpaceError
from .units import format_bytes

_MARK = ".sixgig-tmp-"


def _temporary_name(path: Path) -> Path:
    # The writer's process id is in the name, so that a sweep never takes a living process's file.
    return path.with_name(f".{path.name}{_MARK}{os.getpid()}")


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder for flushing; its rename is durable by itself
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _replace_folder(new: Path, path: Path) -> None:
    # rename cannot replace a folder that has content, so the old one steps aside first and goes last.
    if not path.exists():
        os.replace(new, path)
        return
    old = path.with_name(f".{path.name}.old{_MARK}{os.getpid()}")
    os.replace(path, old)
    os.replace(new, path)
    _remove(old)


@contextmanager
def full_disk_explained(path: Path) -> Iterator[None]:
    """Turns "no space left on device", in any wording, into an `OutOfSpaceError` naming `path`."""
    try:
        yield
    except Exception as error:
        code = getattr(error, "errno", None)
        wording = str(error).lower()
        if code in (errno.ENOSPC, errno.EDQUOT) or "no space left" in wording or "os error 28" in wording:
            raise OutOfSpaceError(
                "the disk is full",
                where=str(path),
                todo="free some space and run the same command again; everything written before is intact",
            ) from error
        raise


def flush_file(path: Path) -> None:
    """Force `path`'s content onto the disk."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path for a file or a folder; on success it becomes `path`, on failure nothing.

    A folder replaces an older folder of the same name; its files are flushed one by one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(path)
    _remove(temporary)
    try:
        with full_disk_explained(path):
            yield temporary
            if temporary.is_dir():
                for part in sorted(temporary.rglob("*")):
                    if part.is_file():
                        flush_file(part)
                    else:
                        _flush_folder(part)
                _flush_folder(temporary)
                _replace_folder(temporary, path)
            else:
                flush_file(temporary)
                os.replace(temporary, path)
            _flush_folder(path.parent)
    except BaseException:
        _remove(temporary)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """`value` as readable JSON; NaN and Infinity are refused, since they are not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, *, max_bytes: int = 64 * 2**20) -> Any:
    """JSON from a regular file of at most `max_bytes`; a fault names the file and the place."""
    try:
        return json.loads(read_text(path, max_bytes=max_bytes))
    except json.JSONDecodeError as error:
        raise IntegrityError(
            "not valid JSON", where=f"{path}, line {error.lineno}, column {error.colno}", received=error.msg
        ) from error


def read_text(path: Path, *, max_bytes: int = 256 * 2**20) -> str:
    """UTF-8 text from a regular file of at most `max_bytes`."""
    if not path.exists():
        raise InputError("no such file", where=str(path), todo="check the path")
    if not path.is_file():
        raise InputError("not a regular file", where=str(path), expected="a file")
    size = path.stat().st_size
    if size > max_bytes:
        raise InputError(
            "file too large",
            where=str(path),
            expected=f"at most {format_bytes(max_bytes)}",
            received=format_bytes(size),
        )
    content = path.read_bytes()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        raise InputError(
            "not UTF-8 text",
            where=f"{path}, row {row}, byte {error.start}",
            received=f"byte 0x{content[error.start]:02x}",
            todo="save the file as UTF-8",
        ) from error


def sha256_file(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Hex SHA-256 of a file, read in 1 MiB pieces; `progress` is told the bytes read so far."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as handle:
        while piece := handle.read(2**20):
            digest.update(piece)
            done += len(piece)
            if progress:
                progress(done)
    return digest.hexdigest()


def sweep_orphans(folder: Path) -> list[Path]:
    """Removes temporary files and folders whose writing process no longer lives; returns what was removed."""
    removed = []
    for path in sorted(folder.glob(f".*{_MARK}*")) if folder.is_dir() else []:
        writer = path.name.rpartition("-")[2]
        if writer.isdecimal() and not psutil.pid_exists(int(writer)):
            _remove(path)
            removed.append(path)
    return removed


def require_free_space(folder: Path, num_bytes: int, purpose: str) -> None:
    """Raises `OutOfSpaceError` when `folder`'s disk has less than `num_bytes` free."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < num_bytes:
        raise OutOfSpaceError(
            f"not enough disk space for {purpose}",
            expected=f"{format_bytes(num_bytes)} free",
            received=f"{format_bytes(free_bytes)} free",
            where=str(folder),
            todo="free some space, or point to another disk",
        )
