"""The ledger: every line of memory a task needs, where it lies, and whether the sum fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..cards import Card
from ..units import GIB, MIB, format_bytes
from .workload import Workload

Place = Literal["device", "ram", "disk"]

LIBRARIES_BYTES = 500 * MIB  # resident memory of Python, torch and transformers, measured on Linux
HEAP_HOLES = 0.4  # what the C library's heap holds beside short-lived tensors, as a share of them


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
class Tried:
    """Settings that were looked at, and what they would take of the card (None: they do not apply)."""

    settings: str
    device_bytes: int
    fits: bool


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """A task's whole ledger against a card (None: no GPU, everything in memory) and the machine's memory.

    `allocated_peak_bytes` and `reserved_peak_bytes` are what torch's allocator will report.
    `max_tokens_per_second`: generated for one sequence, were the card's bandwidth used in full; None where
    the bandwidth is not known.
    """

    model: str
    workload: Workload
    settings: str
    card: Card | None
    ram_bytes: int
    lines: tuple[Line, ...]
    allocated_peak_bytes: int
    reserved_peak_bytes: int
    fits: bool
    notes: tuple[str, ...] = ()
    tried: tuple[Tried, ...] = ()
    would_fit: tuple[str, ...] = ()
    max_tokens_per_second: float | None = None

    def needed_bytes(self, place: Place) -> int:
        return sum(line.num_bytes for line in self.lines if line.place == place)

    @property
    def device_bytes(self) -> int | None:
        """The card's whole memory."""
        return None if self.card is None else self.card.total_bytes

    @property
    def device_peak_bytes(self) -> int:
        """What the driver will report as used at the widest moment, with the margin."""
        return self.needed_bytes("device")

    @property
    def ram_peak_bytes(self) -> int:
        return self.needed_bytes("ram")

    def table(self) -> str:
        """Every line as text, then the sums."""
        rows = [(line.what, line.place, format_bytes(line.num_bytes), line.because) for line in self.lines]
        limits: tuple[tuple[Place, int], ...] = (("device", self.device_bytes or 0), ("ram", self.ram_bytes))
        for place, limit_bytes in limits:
            if place == "device" and self.card is None:
                continue
            needed_bytes = self.needed_bytes(place)
            verdict = "" if needed_bytes <= limit_bytes else "  <- too much"
            rows.append(
                ("sum", place, format_bytes(needed_bytes), f"of {format_bytes(limit_bytes)}{verdict}")
            )
        width = max(len(row[0]) for row in rows)
        return "\n".join(
            f"{what:<{width}}  {place:<6}  {size:>10}  {why}".rstrip() for what, place, size, why in rows
        )
