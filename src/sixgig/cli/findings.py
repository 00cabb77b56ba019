"""What `sixgig doctor` says of the machine itself: one `Finding` for each thing looked at."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ..bandwidth import DeviceSpeed
from ..catalogue import EMBEDDED
from ..environment import FolderSize, Library, is_windows, is_wsl, write_problem
from ..hardware import Hardware, cache_root
from ..load.fetch import is_fetched
from ..load.hub_access import HubAccess
from ..units import GIB, format_bytes

T = TypeVar("T")
# What the smallest work needs: the embedded model's fetch, and the CPU preset's memory.
FETCH_BYTES, CPU_RUN_BYTES = 850_000_000, 3 * GIB


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at. `ok=None`: neither good nor bad; `remedy`: the command that mends it."""

    what: str
    ok: bool | None
    found: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that doctor looked at; None where it was not looked at or could not be, which `failures` name."""

    hardware: Hardware | None = None
    num_nvidia_cards: int = 0
    host_bytes_per_second: int | None = None
    devices: tuple[DeviceSpeed, ...] = ()
    libraries: tuple[Library, ...] = ()
    unmet: tuple[str, ...] = ()
    triton: Library | None = None
    own_cache: FolderSize | None = None
    hub: HubAccess | None = None
    hub_cache: FolderSize | None = None
    failures: tuple[Finding, ...] = ()


@dataclass
class Attempts:
    """Runs what may fail in any way; each failure becomes a finding, so that doctor always answers."""

    failures: list[Finding] = field(default_factory=list)

    def get(self, what: str, look: Callable[[], T], remedy: str) -> T | None:
        """`look()`, or None with a finding named `what` that says how to mend it."""
        try:
            return look()
        except Exception as error:  # doctor is what people run when anything at all is broken
            self.failures.append(Finding(what=what, ok=False, found=_in_one_line(error), remedy=remedy))
            return None


def _in_one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"cannot be looked at: {type(error).__name__}" + (f": {lines[0][:200]}" if lines else "")


def machine_findings(facts: Facts) -> list[Finding]:
    """Python, processor, memory, disk and the kind of system."""
    hardware = facts.hardware
    if hardware is None:
        return [Finding(what="Python", ok=True, found=platform.python_version())]
    return [
        Finding(what="Python", ok=True, found=f"{hardware.python_version} on {hardware.system}"),
        *_system(hardware),
        Finding(what="processor", ok=True, found=f"{hardware.cpu_model}, {hardware.num_cores} usable cores"),
        _memory(hardware),
        *_host_speed(facts),
        _disk(hardware),
    ]


def _system(hardware: Hardware) -> list[Finding]:
    if not is_wsl(hardware.system):
        return []
    found = f"Linux inside Windows (WSL), which gave it {format_bytes(hardware.ram_bytes)} of memory"
    remedy = "for more: memory=24GB under [wsl2] in %UserProfile%\\.wslconfig, then wsl --shutdown"
    return [Finding(what="system", ok=None, found=found, remedy=remedy)]


def _memory(hardware: Hardware) -> Finding:
    enough = hardware.ram_available_bytes >= CPU_RUN_BYTES
    found = f"{format_bytes(hardware.ram_bytes)}, {format_bytes(hardware.ram_available_bytes)} available"
    remedy = "" if enough else f"close other programs: {format_bytes(CPU_RUN_BYTES)} are needed"
    return Finding(what="memory", ok=enough, found=found, remedy=remedy)


def _host_speed(facts: Facts) -> list[Finding]:
    if facts.host_bytes_per_second is None:
        return []
    found = f"{facts.host_bytes_per_second / 1e9:.1f} GB/s read and written while copying"
    return [Finding(what="memory speed", ok=None, found=found)]


def _disk(hardware: Hardware) -> Finding:
    root = cache_root()
    enough = is_fetched(EMBEDDED) or hardware.disk_free_bytes >= FETCH_BYTES
    remedy = "" if enough else "free some space, or point SIXGIG_CACHE to another disk"
    found = f"{format_bytes(hardware.disk_free_bytes)} free for {root}"
    if (problem := write_problem(root)) is not None:
        found += f", which cannot be written ({problem})"
        enough, remedy = False, "point SIXGIG_CACHE to a folder that can be written"
    return Finding(what="disk", ok=enough, found=found, remedy=remedy)


def cache_findings(facts: Facts) -> list[Finding]:
    """Where fetched files lie and how much they take: sixgig's own folder and the hub library's."""
    sizes = [("cache", cache_root(), facts.own_cache, "SIXGIG_CACHE moves it")]
    if facts.hub is not None:
        sizes.append(("hub cache", Path(facts.hub.cache_folder), facts.hub_cache, "HF_HUB_CACHE moves it"))
    return [
        Finding(what=what, ok=None, found=f"{_shown_size(size)} in {folder}", remedy=remedy)
        for what, folder, size, remedy in sizes
        if size is not None
    ]


def _shown_size(size: FolderSize) -> str:
    return ("" if size.is_complete else "at least ") + format_bytes(size.num_bytes)


def spilling_finding(hardware: Hardware) -> list[Finding]:
    """Windows' driver may move GPU memory into system memory; also below WSL, which uses that driver."""
    if not hardware.gpus or not (is_windows(hardware.system) or is_wsl(hardware.system)):
        return []
    return [
        Finding(
            what="spilling",
            ok=None,
            found="when the card is full, Windows' driver may go on in system memory without an error: "
            "a step of 1 s then takes minutes",
            remedy='NVIDIA Control Panel > Manage 3D settings > "CUDA - Sysmem Fallback Policy": '
            '"Prefer No Sysmem Fallback"',
        )
    ]
