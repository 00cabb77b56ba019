"""Where a result comes from: versions, commit, device, seeds and data, as one value that holds no secret.

Never in it: user name, host name, or any path of the machine.
"""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PureWindowsPath

from . import __version__
from .hardware import Hardware, probe

_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "accelerate", "gguf", "numpy", "scipy")


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """One corpus that a result used. `synthetic`: written for this project, and reports say so."""

    name: str
    revision_or_sha256: str | None
    num_rows: int
    synthetic: bool


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Everything needed to say how a result came about; `dataclasses.asdict` of it is plain JSON."""

    sixgig_version: str
    commit: str | None
    dirty: bool | None
    source_sha256: str  # of the package's own code, which says what ran also where git is not at hand
    library_versions: dict[str, str] = field(hash=False)
    device_name: str
    python_version: str
    platform: str
    date_utc: str
    seeds: tuple[int, ...]
    data_sources: tuple[DataSource, ...]


def provenance(
    seeds: Sequence[int], data_sources: Iterable[DataSource], *, device_name: str | None = None
) -> Provenance:
    """This installation, this machine and this moment, with the run's `seeds` and `data_sources`.

    `device_name` is the device that computed; by default the first GPU, or the CPU's model. A data source
    named by an absolute path keeps the file's name alone.
    """
    package = Path(__file__).resolve().parent
    commit, dirty = git_state(package)
    return Provenance(
        sixgig_version=__version__,
        commit=commit,
        dirty=dirty,
        source_sha256=source_sha256(
            (path.relative_to(package).as_posix(), path.read_bytes()) for path in package.rglob("*.py")
        ),
        library_versions=_library_versions(),
        device_name=device_name or default_device_name(probe()),
        python_version=platform.python_version(),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        date_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        seeds=tuple(seeds),
        data_sources=tuple(replace(source, name=_without_folder(source.name)) for source in data_sources),
    )


def source_sha256(files: Iterable[tuple[str, bytes]]) -> str:
    """Digest of (path within the package, content) of its Python files, in whatever order they come."""
    whole = hashlib.sha256()
    for name, content in sorted(files):
        whole.update(f"{name}\0{len(content)}\0".encode() + content)
    return whole.hexdigest()


def default_device_name(hardware: Hardware) -> str:
    """The first GPU's name, or the CPU's model with its usable cores."""
    if hardware.gpus and hardware.torch_cuda_version:
        return hardware.gpus[0].name
    return f"{hardware.cpu_model}, {hardware.num_cores} cores"


def git_state(package: Path) -> tuple[str | None, bool | None]:
    """Commit and dirty flag of the checkout whose own src/sixgig is `package`; (None, None) elsewhere.

    An installed package inside some other project's checkout must not report that project's commit.
    """
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() / "src" / package.name != package:
        return None, None
    commit, changes = _git(package, "rev-parse", "HEAD"), _git(Path(top), "status", "--porcelain")
    return commit, None if commit is None or changes is None else bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):  # no git here: the commit is simply not known
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _library_versions() -> dict[str, str]:
    versions: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _without_folder(name: str) -> str:
    for kind in (Path, PureWindowsPath):
        if kind(name).is_absolute():
            return kind(name).name
    return name
