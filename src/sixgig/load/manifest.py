"""manifest.json: the size and SHA-256 of every file of a fetched model, written last, checked before use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import InputError, IntegrityError
from ..files import read_json, sha256_file, write_json
from .progress import Progress, Report

MANIFEST = "manifest.json"
SCHEMA = "sixgig.model/1"


def write_manifest(folder: Path, *, name: str, source: dict[str, Any], converter: dict[str, str]) -> None:
    """Lists every file in `folder` with size and digest; what is not listed is later refused."""
    files = {
        path.name: {"num_bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    content = {"schema": SCHEMA, "name": name, "source": source, "converter": converter, "files": files}
    write_json(folder / MANIFEST, content)


def verify_folder(folder: Path, *, digests: bool, progress: Progress | None = None) -> None:
    """Raises `IntegrityError` naming the first file that is missing, extra, of another size or altered."""
    files = _listed(folder)
    found = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {MANIFEST}
    for name in sorted(found - files.keys()):
        raise _fault(
            folder / name, "a file that does not belong to the model", "only the manifest's files", name
        )
    for name, entry in sorted(files.items()):
        _check_size(folder / name, entry["num_bytes"])
    total = sum(entry["num_bytes"] for entry in files.values())
    done = 0
    for name, entry in sorted(files.items()) if digests else []:
        before = done

        def tick(num_bytes: int, before: int = before) -> None:
            if progress:
                progress(Report(step="verify", done_bytes=before + num_bytes, total_bytes=total))

        digest = sha256_file(folder / name, tick)
        if digest != entry["sha256"]:
            raise _fault(folder / name, "altered file", f"SHA-256 {entry['sha256']}", f"SHA-256 {digest}")
        done += entry["num_bytes"]


def listed_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, as the list says; `verify_folder` holds the files against it."""
    return {name: entry["sha256"] for name, entry in sorted(_listed(folder).items())}


def _listed(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / MANIFEST
    if not path.is_file():
        raise _fault(path, "missing file", "the list of the model's files", "nothing")
    try:
        content = read_json(path, max_bytes=2**20)
    except InputError as error:  # no JSON, no UTF-8, far too long: all of them damage
        raise _fault(path, "damaged file", "the list of the model's files", error.problem) from error
    files = content.get("files") if isinstance(content, dict) and content.get("schema") == SCHEMA else None
    if not isinstance(files, dict) or not all(_is_entry(name, entry) for name, entry in files.items()):
        raise _fault(path, "not a manifest of this version", f"schema {SCHEMA}", "something else")
    return files


def _is_entry(name: str, entry: Any) -> bool:
    return (
        Path(name).name == name
        and isinstance(entry, dict)
        and isinstance(entry.get("num_bytes"), int)
        and isinstance(entry.get("sha256"), str)
    )


def _check_size(path: Path, num_bytes: int) -> None:
    if not path.exists() and not path.is_symlink():
        raise _fault(path, "missing file", f"{num_bytes} bytes", "nothing")
    if path.is_symlink() or not path.is_file():
        raise _fault(path, "not a regular file", f"a file of {num_bytes} bytes", "a link or folder")
    size = path.stat().st_size
    if size != num_bytes:
        problem = "truncated file" if size < num_bytes else "file too long"
        raise _fault(path, problem, f"{num_bytes} bytes", f"{size} bytes")


def _fault(path: Path, problem: str, expected: str, received: str) -> IntegrityError:
    name = path.parent.name.replace("--", "/")  # how the cache spells a hub repository's slash
    todo = f"sixgig fetch {name} moves it out and fetches it again"
    return IntegrityError(
        f"{problem}: {path.name}", expected=expected, received=received, where=str(path), todo=todo
    )
