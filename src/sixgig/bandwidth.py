"""How fast memory moves bytes, measured: the host's with numpy, each CUDA device's with torch.

Both copy one large buffer into another, again and again, and count every byte twice: read and written, as the
STREAM benchmark does. The best round counts, since a slower one was disturbed. Generating text reads all
weights once a token, so that bandwidth over their bytes bounds tokens a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .units import MIB

if TYPE_CHECKING:
    import torch

# The two buffers together are larger than the caches of GPUs and of all but the largest servers' processors,
# which would be measured in memory's place. On a host, handing out new pages takes longer than measuring.
HOST_BUFFER_BYTES, DEVICE_BUFFER_BYTES = 64 * MIB, 512 * MIB
# Above this one processor's memory channels are busy, and more threads only cost time to start.
MAX_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class DeviceSpeed:
    """A CUDA device as torch sees it. `has_kernels`: torch was built with code that this device can run."""

    name: str
    compute_capability: str
    bytes_per_second: int
    has_kernels: bool


def host_bytes_per_second(
    num_cores: int, *, seconds: float = 0.3, buffer_bytes: int = HOST_BUFFER_BYTES
) -> int:
    """Bytes read and written a second by `num_cores` threads (16 at most); holds two buffers meanwhile."""
    import numpy as np

    num_threads = min(num_cores, MAX_THREADS)
    source = np.ones(buffer_bytes, dtype=np.uint8)
    target = source.copy()  # written once before, so that no page is handed out while the clock runs
    sources, targets = np.array_split(source, num_threads), np.array_split(target, num_threads)
    with ThreadPoolExecutor(num_threads) as pool:

        def copy_all() -> float:
            start = time.perf_counter()
            list(pool.map(np.copyto, targets, sources))  # numpy copies without the interpreter's lock
            return time.perf_counter() - start

        return _best_bytes_per_second(copy_all, 2 * buffer_bytes, seconds)


def device_speeds(*, seconds: float = 0.5) -> tuple[DeviceSpeed, ...]:
    """Every CUDA device that torch can use, with its measured bandwidth; imports torch (seconds).

    Empty where torch finds no device. Errors of CUDA pass through: they are what is wrong with the device.
    """
    import torch

    num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    built_for = torch.cuda.get_arch_list() if num_devices else []
    return tuple(
        _device_speed(torch.device("cuda", index), built_for, seconds) for index in range(num_devices)
    )


def _device_speed(device: torch.device, built_for: list[str], seconds: float) -> DeviceSpeed:
    import torch

    free_bytes, _ = torch.cuda.mem_get_info(device)
    buffer_bytes = min(DEVICE_BUFFER_BYTES, free_bytes // 4)
    source = torch.zeros(buffer_bytes, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)

    def copy() -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        with torch.cuda.device(device):
            start.record()
            target.copy_(source)
            end.record()
            end.synchronize()
        return start.elapsed_time(end) / 1000  # from milliseconds

    best = _best_bytes_per_second(copy, 2 * buffer_bytes, seconds)
    major, minor = torch.cuda.get_device_capability(device)
    return DeviceSpeed(
        name=torch.cuda.get_device_name(device),
        compute_capability=f"{major}.{minor}",
        bytes_per_second=best,
        has_kernels=runs_on(built_for, (major, minor)),
    )


def runs_on(built_for: list[str], capability: tuple[int, int]) -> bool:
    """Whether code built for these architectures runs on a device of that capability.

    Machine code ("sm_86") runs on the same major version from its minor version on, portable code
    ("compute_90") on everything newer. "sm_90a" is extra code for one capability, beside "sm_90".
    """
    for architecture in built_for:
        kind, _, number = architecture.partition("_")
        if not number.isdecimal():
            continue
        built = divmod(int(number), 10)
        if built <= capability and (kind == "compute" or built[0] == capability[0]):
            return True
    return False


def _best_bytes_per_second(copy: Callable[[], float], num_bytes: int, seconds: float) -> int:
    """`num_bytes` over the shortest of the durations, in seconds, that `copy` returns for that long."""
    copy()  # clocks and caches come up to speed
    shortest, deadline = copy(), time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        shortest = min(shortest, copy())
    return int(num_bytes / shortest)
