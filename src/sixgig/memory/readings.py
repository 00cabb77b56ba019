"""How much memory is taken right now and was taken at most: torch's allocator, the card, this process."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import psutil

from ..hardware import peak_rss_bytes

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Bytes at one moment. None on a CPU, where only this process's resident memory is known.

    `allocated_bytes` are in tensors, `reserved_bytes` what torch's allocator holds for them;
    `device_used_bytes` counts the whole card, with the CUDA context and other programs.
    """

    resident_bytes: int
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    device_used_bytes: int | None = None
    device_total_bytes: int | None = None

    def to_json_value(self) -> dict[str, int]:
        """What is known, by name."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in values if value is not None}


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The most bytes of each kind so far; 0 where nothing was measured (the device's on a CPU)."""

    resident_bytes: int = 0
    allocated_bytes: int = 0
    reserved_bytes: int = 0
    device_used_bytes: int = 0

    def joined(self, other: Peak) -> Peak:
        """The greater of both, kind by kind."""
        return Peak(**{key: max(value, getattr(other, key)) for key, value in self.to_json_value().items()})

    def to_json_value(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_json_value(cls, value: Any) -> Peak:
        """From what `to_json_value` gave; a kind that is missing or no number counts as 0."""
        known = value if isinstance(value, dict) else {}
        numbers = {field.name: known.get(field.name) for field in fields(cls)}
        return cls(**{key: number for key, number in numbers.items() if isinstance(number, int)})


def read_memory(device: torch.device) -> Reading:
    """As it stands now; on a card without waiting for its work to finish."""
    resident_bytes = int(psutil.Process().memory_info().rss)
    if device.type != "cuda":
        return Reading(resident_bytes=resident_bytes)
    import torch

    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    return Reading(
        resident_bytes=resident_bytes,
        allocated_bytes=torch.cuda.memory_allocated(device),
        reserved_bytes=torch.cuda.memory_reserved(device),
        device_used_bytes=total_bytes - free_bytes,
        device_total_bytes=total_bytes,
    )


def read_peak(device: torch.device) -> Peak:
    """The allocator's peaks since they were last reset, and the process's since its start.

    The card's own use has no such counter: whoever samples it keeps its peak.
    """
    if device.type != "cuda":
        return Peak(resident_bytes=peak_rss_bytes())
    import torch

    return Peak(
        resident_bytes=peak_rss_bytes(),
        allocated_bytes=torch.cuda.max_memory_allocated(device),
        reserved_bytes=torch.cuda.max_memory_reserved(device),
    )


def used_share(device: torch.device) -> float:
    """The share of the card that is in use, by anyone (0 to 1); 0 on a CPU."""
    reading = read_memory(device)
    return (reading.device_used_bytes or 0) / (reading.device_total_bytes or 1)
