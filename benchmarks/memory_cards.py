"""Small cards as the measured GPU can play them: what would run there, and what the planner says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from memory_configs import Configuration
from sixgig.cards import Card
from sixgig.catalogue import get
from sixgig.memory.outside import HOPPER_CONTEXT_BYTES, OTHER_CONTEXT_BYTES, outside
from sixgig.memory.simulation.allocator import Allocator, SimulatedOutOfMemory
from sixgig.memory.simulation.programs import simulate
from sixgig.units import GIB

CARD_GIB = (4, 6, 8)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A configuration on a card. `runs` None: neither a run without a limit nor one under it says;
    `is_shown`: it was run under that limit."""

    label: str
    card_gib: int
    predicted: bool
    runs: bool | None
    held_out: bool
    is_shown: bool


def emulated_card(size: int) -> Card:
    """A consumer card of `size` GiB as this GPU can play it: with this GPU's larger context added."""
    more = HOPPER_CONTEXT_BYTES - OTHER_CONTEXT_BYTES
    return Card(name=f"{size} GiB", total_bytes=size * GIB + more, compute_capability="9.0")


def cap_bytes(one: Configuration, size: int) -> int:
    """What the allocator may reserve there, the planner's margin included."""
    card = emulated_card(size)
    around = outside(card, one.work.task)
    return around.limit_bytes(card) + around.margin_bytes


def runs_without_asking(one: Configuration, size: int, run: Mapping[str, Any]) -> bool | None:
    """Whether it runs there, where the run without a limit tells: it never reserved more than the cap, or it
    held more tensors at once than the cap allows. In between a run under the cap decides: None.
    """
    limit = cap_bytes(one, size)
    if run["peak_reserved_bytes"] <= limit:
        return True
    return False if run["peak_allocated_bytes"] > limit else None


def to_run_capped(
    configurations: Sequence[Configuration], runs: Mapping[str, Mapping[str, Any]]
) -> list[tuple[Configuration, int]]:
    """What is to be run under a card's limit, by what was measured without one: first what only such a run
    decides, then what is said to fit, the tightest first.
    """
    by_need = []
    for one in configurations:
        run = runs.get(one.label, {})
        if "error" not in run and "peak_reserved_bytes" in run:  # a CPU's runs have no peaks
            for size in CARD_GIB:
                decided = runs_without_asking(one, size, run) is not None
                if not decided or predicted_fit(one, size):
                    room_bytes = cap_bytes(one, size) - run["peak_reserved_bytes"]
                    by_need.append((decided, room_bytes, len(by_need), one, size))
    return [(one, size) for *_, one, size in sorted(by_need, key=lambda item: item[:3])]


@cache
def played(one: Configuration, limit_bytes: int | None = None) -> Allocator:
    """The simulated run on the measured GPU, an H100 or H200."""
    around = outside(emulated_card(8), one.work.task)
    workspace_bytes = around.workspace_bytes
    return simulate(get(one.model), one.work, workspace_bytes=workspace_bytes, limit_bytes=limit_bytes)


def predicted_fit(one: Configuration, size: int) -> bool:
    """What the planner says: the simulated run ends within the limit, which leaves its margin free."""
    card = emulated_card(size)
    limit_bytes = outside(card, one.work.task).limit_bytes(card)
    if played(one).peak_reserved_bytes <= limit_bytes:
        return True  # a limit that is never met changes nothing
    try:
        played(one, limit_bytes)
    except SimulatedOutOfMemory:
        return False
    return True


def capped_name(one: Configuration, size: int) -> str:
    """The name of a run under a cap among the measurements."""
    return f"{one.label} on {size} GiB"


def pairs(
    runs: Mapping[Configuration, Mapping[str, Any]], capped: Mapping[str, Mapping[str, Any]]
) -> Iterator[Pair]:
    """Every measured configuration on every card."""
    for one, run in runs.items():
        for size in CARD_GIB:
            shown = _runs_capped(capped.get(capped_name(one, size)), cap_bytes(one, size))
            yield Pair(
                label=one.label,
                card_gib=size,
                predicted=predicted_fit(one, size),
                runs=runs_without_asking(one, size, run) if shown is None else shown,
                held_out=one.held_out,
                is_shown=shown is not None,
            )


def _runs_capped(found: Mapping[str, Any] | None, limit_bytes: int) -> bool | None:
    """What a run under this very limit shows."""
    if found is None or found["limit_bytes"] != limit_bytes:
        return None
    if not (error := found.get("error")):
        return True
    return False if "out of memory" in error.lower() or "OutOfMemory" in error else None
