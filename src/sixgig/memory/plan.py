"""Does it fit, and with which settings? The ledger for a card and a machine, before anything is downloaded.

The card's side is a simulation of the task on torch's allocator (`programs`), checked against measured runs
(docs/memory.md). "Fits" means that the simulated run ends on a card of that size with the margins of
`outside`.
"""

from __future__ import annotations

from dataclasses import replace

from ..cards import Card
from ..catalogue import ModelSpec
from ..errors import DoesNotFitError
from .choices import Wishes, candidates, described
from .ledger import MemoryPlan, Tried
from .place import Place
from .suggestions import what_would_fit
from .workload import Workload


class DoesNotFit(DoesNotFitError):
    """The work cannot fit; `plan` holds the ledger and what would fit."""

    def __init__(self, plan: MemoryPlan) -> None:
        self.plan = plan
        super().__init__(
            f"{plan.model} does not fit for {plan.workload.task}\n{plan.table()}",
            todo="; ".join(plan.would_fit) or None,
        )


def plan(spec: ModelSpec, wishes: Wishes, *, card: Card | None, ram_bytes: int) -> MemoryPlan:
    """The best settings that fit, with their ledger; or `DoesNotFit` with every line and what would fit.

    `card` None: no GPU, everything in the processor's memory.
    """
    result = estimate(spec, wishes, card=card, ram_bytes=ram_bytes)
    if not result.fits:
        raise DoesNotFit(result)
    return result


def estimate(spec: ModelSpec, wishes: Wishes, *, card: Card | None, ram_bytes: int) -> MemoryPlan:
    """As `plan`, without raising: `fits` says whether anything does, `would_fit` what else would."""
    result = first_that_fits(spec, wishes, card=card, ram_bytes=ram_bytes)
    return result if result.fits else replace(result, would_fit=what_would_fit(spec, wishes, card, ram_bytes))


def first_that_fits(spec: ModelSpec, wishes: Wishes, *, card: Card | None, ram_bytes: int) -> MemoryPlan:
    """The first candidate that fits, else the ledger of the one that comes nearest."""
    place = Place(spec, card, ram_bytes)
    tried: list[Tried] = []
    nearest: tuple[int, Workload] | None = None
    for work in candidates(spec, wishes):
        found = place.look(work)
        tried.append(Tried(settings=described(spec, work), device_bytes=found.device_bytes, fits=found.fits))
        if found.fits:
            return place.plan(work, tried)
        if nearest is None or found.device_bytes + found.ram_bytes <= nearest[0]:
            nearest = found.device_bytes + found.ram_bytes, work
    assert nearest is not None, "candidates() gives at least one workload or raises"
    return place.plan(nearest[1], tried)
