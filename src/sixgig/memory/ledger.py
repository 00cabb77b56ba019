"""The ledger: every line of memory a task needs, where it lies, and whether the sum fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..units import GIB, MIB, format_bytes
from .workload import Workload

Place = Literal["device", "ram"]


def device_margin_bytes(total_bytes: int) -> int:
    """What a card of `total_bytes` does not give to tensors: the CUDA context and fragmentation.

    400 MiB and 3%: a "6 GB" card then has 5.4 GiB, as people report. A desktop on the same card takes more.
    """
    return 400 * MIB + total_bytes * 3 // 100


def usable_device_bytes(total_bytes: int) -> int:
    """Bytes of a card of `total_bytes` that tensors can have."""
    return max(0, total_bytes - device_margin_bytes(total_bytes))


def ram_margin_bytes(total_bytes: int) -> int:
    """What the operating system, Python and torch's libraries take of the machine's memory."""
    return 1 * GIB + total_bytes * 5 // 100


def usable_ram_bytes(total_bytes: int) -> int:
    """Bytes of a machine with `total_bytes` of memory that tensors can have."""
    return max(0, total_bytes - ram_margin_bytes(total_bytes))


@dataclass(frozen=True, kw_only=True)
class Line:
    """One entry: what, where, how many bytes, and the arithmetic in words."""

    what: str
    place: Place
    num_bytes: int
    because: str = ""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """A task's whole ledger against a card (None: no GPU, everything in memory) and the machine's memory."""

    model: str
    workload: Workload
    device_bytes: int | None
    ram_bytes: int
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    would_fit: tuple[str, ...] = ()

    def needed_bytes(self, place: Place) -> int:
        return sum(line.num_bytes for line in self.lines if line.place == place)

    @property
    def device_peak_bytes(self) -> int:
        return self.needed_bytes("device")

    @property
    def ram_peak_bytes(self) -> int:
        return self.needed_bytes("ram")

    @property
    def fits(self) -> bool:
        return self.device_peak_bytes <= (self.device_bytes or 0) and self.ram_peak_bytes <= self.ram_bytes

    def table(self) -> str:
        """Every line as text, then the two sums."""
        rows = [(line.what, line.place, format_bytes(line.num_bytes), line.because) for line in self.lines]
        limits: tuple[tuple[Place, int], ...] = (("device", self.device_bytes or 0), ("ram", self.ram_bytes))
        for place, limit_bytes in limits:
            needed_bytes = self.needed_bytes(place)
            verdict = "" if needed_bytes <= limit_bytes else "  <- too much"
            rows.append(
                ("sum", place, format_bytes(needed_bytes), f"of {format_bytes(limit_bytes)}{verdict}")
            )
        width = max(len(row[0]) for row in rows)
        return "\n".join(
            f"{what:<{width}}  {place:<6}  {size:>10}  {why}".rstrip() for what, place, size, why in rows
        )
