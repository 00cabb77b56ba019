"""Energy of a GPU from the driver's own counter (NVML: `nvmlDeviceGetTotalEnergyConsumption`, in mJ).

The counter is the whole card's, idle power and other programs included, and moves in steps of some 20 to
100 ms: a reading must span seconds. Cards before Volta have none, and neither has a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

NO_COUNTER_ON_CPU = "a CPU has no energy counter that a program may read everywhere"


@dataclass(frozen=True, kw_only=True)
class EnergyCounter:
    """`read()` is the card's energy since its driver was loaded, in joules."""

    read: Callable[[], float]


def energy_counter(device: torch.device, nvml: Any = None) -> EnergyCounter | str:
    """The counter of `device`, or why there is none."""
    if device.type != "cuda":
        return NO_COUNTER_ON_CPU
    if nvml is None:
        import pynvml

        nvml = pynvml
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    return counter_of(uuid, nvml)


def counter_of(uuid: str, nvml: Any) -> EnergyCounter | str:
    """The counter of the card that the driver knows as `uuid`, or why there is none."""
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError as error:
        return f"the driver gives no energy counter for this card: {error}"
    return EnergyCounter(read=lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000)


def joules_per_token(counter: EnergyCounter, work: Callable[[], int], *, seconds: float) -> float:
    """Energy a token of `work`, which returns how many it made, repeated for `seconds` at least.

    Not taken off: what the card would have used doing nothing.
    """
    num_tokens, began, before = 0, time.perf_counter(), counter.read()
    while time.perf_counter() - began < seconds:
        num_tokens += work()
    return (counter.read() - before) / num_tokens
