"""What would fit where a task does not: each answer has been played as a plan is."""

from __future__ import annotations

from dataclasses import replace

from ..cards import Card
from ..catalogue import ModelSpec, all_models
from ..units import MIB, format_bytes
from .choices import Wishes, candidates
from .ledger import ram_margin_bytes
from .outside import FRAGMENTS_SHARE, MARGIN_STOPS_AT_BYTES, outside
from .place import Place
from .simulation import simulate
from .simulation.weights import least_device_bytes
from .workload import Workload

_SIZE_STEP_BYTES = 256 * MIB  # cards and memory are suggested in steps no finer than this
_PLENTY_BYTES = 2**44


def what_would_fit(spec: ModelSpec, wishes: Wishes, card: Card | None, ram_bytes: int) -> tuple[str, ...]:
    """One changed wish at a time, then the smallest card, then the largest model for these wishes."""

    def found(other: Wishes, model: ModelSpec = spec, on: Card | None = card) -> Workload | None:
        place = Place(model, on, ram_bytes)
        return next((work for work in candidates(model, other) if place.fits(work)), None)

    answers: list[str] = []
    freer = replace(wishes, bits=None, head_bits=None)
    if wishes.bits is not None and (other := found(freer)) is not None:
        answers.append(f"--bits {other.bits}")
    if _weights_fit(spec, wishes, card):
        for name in ("context", "batch"):
            whole: int = getattr(candidates(spec, wishes)[0], name)
            halves = [whole >> shift for shift in range(1, whole.bit_length())]
            value = next((v for v in halves if found(_shorter(wishes, name, v, whole))), None)
            answers += [] if value is None else [f"--{name} {value}"]
    if card is not None:
        size_bytes = _smallest_card_bytes(spec, wishes, card)
        if found(wishes, on=replace(card, name="", total_bytes=size_bytes)):
            answers.append(f"a card of {format_bytes(size_bytes)}")
    answers += _more_ram(spec, wishes, card, ram_bytes)
    smaller = (model for model in all_models() if model.num_parameters < spec.num_parameters)
    for model in sorted(smaller, key=lambda model: -model.num_parameters):
        if (wishes.task != "sft" or not model.num_experts) and found(wishes, model):
            return (*answers, f"model {model.name} with these settings")
    return tuple(answers)


def _shorter(wishes: Wishes, name: str, value: int, whole: int) -> Wishes:
    """`wishes` with a smaller context or batch. A split's texts are then cut into more pieces."""
    splitting = wishes.splitting
    if wishes.task == "split" and name == "context":
        splitting = replace(
            splitting,
            num_texts=splitting.num_texts * whole // value,
            text_tokens=None if splitting.text_tokens is None else min(splitting.text_tokens, value),
        )
    return replace(wishes, splitting=splitting, **{name: value})


def _more_ram(spec: ModelSpec, wishes: Wishes, card: Card | None, ram_bytes: int) -> list[str]:
    """The processor's memory with which it fits, where that alone is too small."""
    place = Place(spec, card, _PLENTY_BYTES)
    found = [look for work in candidates(spec, wishes) if (look := place.look(work)).fits]
    if not found:
        return []
    # The margin is 1 GiB and 5% of the memory, so the memory solves ram = lines + 1 GiB + 5% ram.
    lines = min(look.ram_bytes for look in found) - ram_margin_bytes(_PLENTY_BYTES)
    needed = int((lines + ram_margin_bytes(0)) / 0.95)
    if needed <= ram_bytes:
        return []
    return [f"{format_bytes(needed // _SIZE_STEP_BYTES * _SIZE_STEP_BYTES + _SIZE_STEP_BYTES)} of memory"]


def _weights_fit(spec: ModelSpec, wishes: Wishes, card: Card | None) -> bool:
    """Whether any candidate's weights alone leave room: else no smaller context or batch can help."""
    if card is None:
        return True
    limit_bytes = outside(card, wishes.task).limit_bytes(card)
    return any(least_device_bytes(spec, work) < limit_bytes for work in candidates(spec, wishes))


def _smallest_card_bytes(spec: ModelSpec, wishes: Wishes, card: Card) -> int:
    """A card on which the candidate that takes the least runs, up to the next quarter of a GiB."""
    # The last of equals, since what saves activations comes later in the list.
    work = min(reversed(candidates(spec, wishes)), key=lambda work: least_device_bytes(spec, work))
    around = outside(card, work.task)
    memory = simulate(spec, work, workspace_bytes=around.workspace_bytes)
    needed = memory.peak_reserved_bytes + around.context_bytes + around.kernels_bytes
    with_margin = needed + int(FRAGMENTS_SHARE * min(needed / (1 - FRAGMENTS_SHARE), MARGIN_STOPS_AT_BYTES))
    return (with_margin // _SIZE_STEP_BYTES + 1) * _SIZE_STEP_BYTES
