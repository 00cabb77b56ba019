"""What surrounds the hardware: the system's kind, libraries and whether they suit the driver, folders.

As in `hardware`, torch is never imported: versions come from the installed packages' own records.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .errors import NotAvailableError
from .hardware import existing_folder


@dataclass(frozen=True, kw_only=True)
class Library:
    """An installed package: its version, or None where it is not here; `problem`: why it cannot be used."""

    name: str
    version: str | None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class FolderSize:
    """Bytes of all files below a folder. `is_complete` is False where time ran out: at least this many."""

    num_bytes: int
    is_complete: bool


def is_windows(system: str) -> bool:
    """Whether `Hardware.system` names Windows itself."""
    return system.startswith("Windows")


def is_wsl(system: str) -> bool:
    """Whether `Hardware.system` names Linux inside Windows: Microsoft's name is in the kernel's release."""
    return system.startswith("Linux") and "microsoft" in system.lower()


def num_nvidia_cards(bus: Path = Path("/sys/bus/pci/devices")) -> int:
    """NVIDIA display devices on Linux's PCI bus, whether or not a driver serves them; 0 elsewhere."""
    num_cards = 0
    for device in bus.iterdir() if bus.is_dir() else ():
        try:
            vendor, kind = (device / "vendor").read_text("ascii"), (device / "class").read_text("ascii")
        except OSError:  # pulled out meanwhile, or not readable here
            continue
        num_cards += vendor.strip() == "0x10de" and kind.startswith("0x03")
    return num_cards


def library(name: str) -> Library:
    """The package as its installed records name it, without importing it."""
    try:
        return Library(name=name, version=metadata.version(name))
    except metadata.PackageNotFoundError:
        return Library(name=name, version=None)


def require_bitsandbytes() -> None:
    """Raises NotAvailableError where bitsandbytes is not installed; it is not imported."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise NotAvailableError(
            "bitsandbytes is not installed", todo="install it: pip install 'sixgig[compare]'"
        )


def unmet_requirements(package: str) -> tuple[str, ...]:
    """What `package`'s own records require of others and the installed versions do not meet, extras apart.

    A source tree that was never installed has no records, and requires nothing.
    """
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        lines = []
    unmet = []
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = library(requirement.name).version
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            unmet.append(f"{requirement.name}{requirement.specifier}")
    return tuple(unmet)


def triton() -> Library:
    """Triton, imported: what keeps it from working (a missing compiler or library) shows only then."""
    try:
        module = importlib.import_module("triton")
    except ModuleNotFoundError as error:
        if error.name == "triton":
            return Library(name="triton", version=None)
        return Library(name="triton", version=None, problem=str(error))
    except Exception as error:  # a foreign package's import can fail in any way, and must not end ours
        return Library(name="triton", version=None, problem=f"{type(error).__name__}: {error}")
    return Library(name="triton", version=str(getattr(module, "__version__", "unknown")))


def torch_suits_driver(torch_cuda_version: str, driver_cuda_version: str) -> bool:
    """Whether a driver serves a torch built for that CUDA: within one major version every driver does."""
    return _major(torch_cuda_version) <= _major(driver_cuda_version)


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def folder_size(folder: Path, *, limit_s: float = 0.4) -> FolderSize:
    """Bytes of the regular files below `folder`, links not followed; gives up counting after `limit_s`."""
    num_bytes, deadline = 0, time.monotonic() + limit_s
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(parent, name))
            except OSError:  # removed since it was listed
                continue
            num_bytes += status.st_size
        if time.monotonic() > deadline:
            return FolderSize(num_bytes=num_bytes, is_complete=False)
    return FolderSize(num_bytes=num_bytes, is_complete=True)


def write_problem(folder: Path) -> str | None:
    """Why nothing can be written in `folder`, or where it will be made; None where writing works.

    It is tried with a file that is gone at once: what permissions promise, a read-only disk does not keep.
    """
    nearest = existing_folder(folder)
    for path in (folder, *folder.parents):
        if path.is_file():
            return f"{path} is a file"
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return None
    except OSError as error:
        return f"{nearest}: {error.strerror or error}"
