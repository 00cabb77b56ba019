"""What this machine has: cores, memory, disk, NVIDIA GPUs; and where sixgig keeps what it fetched.

Everything is asked of the operating system and of NVIDIA's driver, never of torch, so that `sixgig doctor`
and `sixgig plan` answer in a fraction of a second. A machine without GPU or driver is an ordinary machine.
Not covered: AMD, Intel and Apple GPUs (reported as absent), MIG slices (reported as the whole card).
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import platformdirs
import psutil
import pynvml

from .units import GIB

# NVML's codes for "driver not loaded" and "library not found": a machine without a GPU.
_NO_DRIVER = (9, 12)
KEPT_KERNELS = 32  # a step of training has 16; one that must be compiled anew costs 0.4 ms


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One CUDA GPU as the driver reports it.

    `used_by_others_bytes`: used, but not by this process: other programs, the desktop, the driver's own
    share. None where the driver does not tell this process's part.
    """

    name: str
    total_bytes: int
    free_bytes: int
    compute_capability: str
    driver: str
    used_by_others_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """This machine, as far as running a language model is concerned. Bytes are `int`.

    `driver_cuda_version`: the newest CUDA that the driver serves. `disk_free_bytes` is 0 where the cache's
    disk cannot be asked, as on a drive that is not there.
    """

    system: str
    machine: str
    python_version: str
    cpu_model: str
    num_cores: int
    ram_bytes: int
    ram_available_bytes: int
    disk_free_bytes: int
    gpus: tuple[Gpu, ...]
    torch_version: str | None
    torch_cuda_version: str | None
    driver_cuda_version: str | None = None
    problems: tuple[str, ...] = ()


def cache_root(cache_dir: Path | None = None) -> Path:
    """Where fetched models lie: the argument, else $SIXGIG_CACHE, else the user's cache folder."""
    if cache_dir is not None:
        return Path(cache_dir)
    chosen = os.environ.get("SIXGIG_CACHE")
    return (
        Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("sixgig", appauthor=False))
    )


def probe(cache_dir: Path | None = None) -> Hardware:
    """Looks at this machine; imports no torch, and a missing GPU or driver is no error."""
    memory = psutil.virtual_memory()
    limit_bytes = _container_limit_bytes()
    ram_bytes = min(memory.total, limit_bytes or memory.total)
    gpus, problems = _gpus(pynvml)
    return Hardware(
        system=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        python_version=platform.python_version(),
        cpu_model=_cpu_model(),
        num_cores=_num_usable_cores(),
        ram_bytes=ram_bytes,
        ram_available_bytes=min(memory.available, ram_bytes),
        disk_free_bytes=_disk_free_bytes(cache_root(cache_dir)),
        gpus=gpus,
        torch_version=_installed_version("torch"),
        torch_cuda_version=_torch_cuda_version(),
        driver_cuda_version=_driver_cuda_version(pynvml) if gpus else None,
        problems=problems,
    )


def choose_preset(hardware: Hardware) -> str:
    """The experiment preset for this machine: `cpu`, `4g`, `6g`, `8g` or `full`.

    The largest GPU decides. A GPU that the installed torch was not built for counts as no GPU.
    """
    if not hardware.gpus or hardware.torch_cuda_version is None:
        return "cpu"
    total_gib = max(gpu.total_bytes for gpu in hardware.gpus) / GIB
    for name, below_gib in (("4g", 5.5), ("6g", 7.5), ("8g", 20.0)):
        if total_gib < below_gib:
            return name
    return "full"


def existing_folder(folder: Path) -> Path:
    """`folder`, or the nearest folder above it that is there; the root of a missing drive as it is."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def _disk_free_bytes(folder: Path) -> int:
    try:
        return shutil.disk_usage(existing_folder(folder)).free
    except OSError:  # a drive that is not there, or a folder that this user may not enter
        return 0


def _num_usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


def _container_limit_bytes(path: Path = Path("/sys/fs/cgroup/memory.max")) -> int | None:
    # A container sees the host's memory in /proc/meminfo; its own limit stands here ("max" means none).
    text = path.read_text(encoding="ascii").strip() if path.is_file() else "max"
    return int(text) if text.isdecimal() else None


def _installed_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch_cuda_version() -> str | None:
    # torch/version.py is read as text: importing torch takes seconds, and the wheel's version number does not
    # say on every platform whether it was built for CUDA.
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    version_file = Path(spec.origin).with_name("version.py")
    text = version_file.read_text(encoding="utf-8") if version_file.is_file() else ""
    match = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, flags=re.MULTILINE)
    return match.group(1) if match else None


def _gpus(nvml: Any) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """The GPUs that CUDA programs of this process may see, and what could not be read."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        if error.value in _NO_DRIVER:
            return (), ()
        return (), (f"the NVIDIA driver cannot be used: {error}",)
    found: list[Gpu] = []
    problems: list[str] = []
    try:
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        for index in _visible([_text(nvml.nvmlDeviceGetUUID(handle)) for handle in handles]):
            try:
                found.append(_read_gpu(nvml, handles[index], driver))
            except nvml.NVMLError as error:
                problems.append(f"GPU {index} cannot be read: {error}")
    except nvml.NVMLError as error:
        problems.append(f"the NVIDIA driver answers with an error: {error}")
    finally:
        nvml.nvmlShutdown()
    return tuple(found), tuple(problems)


def _read_gpu(nvml: Any, handle: Any, driver: str) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        name=_text(nvml.nvmlDeviceGetName(handle)),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        compute_capability=f"{major}.{minor}",
        driver=driver,
        used_by_others_bytes=_used_by_others_bytes(nvml, handle, int(memory.total) - int(memory.free)),
    )


def _used_by_others_bytes(nvml: Any, handle: Any, used_bytes: int) -> int | None:
    try:
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except nvml.NVMLError:
        return None
    own = [process.usedGpuMemory for process in processes if process.pid == os.getpid()]
    # Windows lists processes without their memory.
    return None if None in own else used_bytes - sum(own)


def _driver_cuda_version(nvml: Any) -> str | None:
    try:
        nvml.nvmlInit()
        try:
            number = nvml.nvmlSystemGetCudaDriverVersion()  # 13020 is 13.2
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError:
        return None
    return f"{number // 1000}.{number % 1000 // 10}"


def _visible(uuids: list[str], setting: Callable[[str], str | None] = os.environ.get) -> list[int]:
    """Indices that CUDA_VISIBLE_DEVICES leaves; as in CUDA, the first invalid entry ends the list."""
    chosen = setting("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return list(range(len(uuids)))
    indices: list[int] = []
    for entry in (part.strip() for part in chosen.split(",")):
        matches = (
            [int(entry)]
            if entry.isdecimal()
            else [i for i, uuid in enumerate(uuids) if entry and uuid.startswith(entry)]
        )
        if len(matches) != 1 or matches[0] >= len(uuids):
            break
        indices.append(matches[0])
    return indices


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value


def peak_rss_bytes() -> int:
    """The most resident memory that this process has held so far."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return int(getattr(psutil.Process().memory_info(), "peak_wset"))  # noqa: B009 - Windows alone has it
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, kibibytes elsewhere


def return_freed_memory() -> None:
    """Makes glibc give what was freed so far back to the system; elsewhere does nothing.

    For between two pieces of work: during one, memory that is kept need not be asked for again.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def keep_few_kernels() -> None:
    """Bounds how many compiled matrix products torch keeps on a CPU; call before the first product.

    oneDNN, and torch's own layer above it, each keep up to 1024, one for every shape that was ever multiplied
    and 0.3 MB large. Texts of many lengths came to 0.2 GB of them, in the midst of the heap. What the user
    has set in the environment stays.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(KEPT_KERNELS))
