"""What the person left open, in the order in which the planner tries it: the best result first.

Weights keep as many bits as fit; what costs quality comes after what costs only time or the processor's
memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ..catalogue import ModelSpec
from ..catalogue.splitting import why_not_split
from ..errors import InputError
from .workload import LAYERS_FROM, Splitting, Training, Workload

# (bits of the linear layers, bits of the output head, where the embedding lies)
_STORED = (
    (16, 16, "device"),
    (16, 16, "cpu"),
    (8, 16, "device"),
    (8, 16, "cpu"),
    (4, 16, "device"),
    (4, 16, "cpu"),
    (4, 8, "cpu"),
    (4, 4, "cpu"),
    (3, 4, "cpu"),
)
# (bits, checkpointing, loss, optimizer)
_TRAINED = tuple(
    (bits, checkpointing, loss, optimizer)
    for bits in (32, 16)
    for checkpointing, loss, optimizer in (
        (False, "dense", "fused"),
        (False, "chunked", "fused"),
        (True, "dense", "fused"),
        (True, "chunked", "fused"),
        (False, "dense", "in-backward"),
        (False, "chunked", "in-backward"),
        (True, "dense", "in-backward"),
        (True, "chunked", "in-backward"),
    )
)
MAX_TRAVELLING_BITS = 4


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is asked for. None leaves the choice to the planner."""

    task: str
    bits: int | None = None
    head_bits: int | None = None
    embedding_place: str | None = None
    context: int | None = None  # a split's windows have 256 tokens, else 512
    batch: int = 1
    splitting: Splitting = field(default_factory=Splitting)
    layers_from: str | None = None  # a split's: memory or disk
    group_size: int = 64
    attention: str = "sdpa"
    autocast: bool = True
    checkpointing: bool | None = None
    loss: str | None = None
    optimizer: str | None = None
    accumulation: int = 1


def candidates(spec: ModelSpec, wishes: Wishes) -> list[Workload]:
    """Every workload that is what was asked for, best first; experts in the processor's memory come last.

    Raises InputError for wishes that nothing here can do.
    """
    base = Workload(
        task=wishes.task,
        bits=16 if wishes.bits is None else wishes.bits,
        head_bits=wishes.head_bits or 16,
        embedding_place=wishes.embedding_place or "device",
        context=_usual_context(wishes.task) if wishes.context is None else wishes.context,
        batch=wishes.batch,
        splitting=wishes.splitting,
        group_size=wishes.group_size,
        attention=wishes.attention,
        training=Training(
            autocast=wishes.autocast,
            checkpointing=bool(wishes.checkpointing),
            loss=wishes.loss or "dense",
            optimizer=wishes.optimizer or "fused",
            accumulation=wishes.accumulation,
        ),
    )
    found = list(_possible(spec, wishes, base))
    if not found:
        raise InputError(
            f"no way to {wishes.task} is what was asked for",
            received=", ".join(
                f"{name}={value}" for name, value in vars(wishes).items() if value is not None
            ),
            todo="leave some of these to the planner",
        )
    return found


def _usual_context(task: str) -> int:
    return 256 if task == "split" else 512


def _possible(spec: ModelSpec, wishes: Wishes, base: Workload) -> Iterator[Workload]:
    if wishes.task == "sft":
        yield from _trained(spec, wishes, base)
    elif wishes.task == "split":
        work = replace(base, bits=4 if wishes.bits is None else wishes.bits)
        # Only what can be split has layers that are known here one by one.
        ways = LAYERS_FROM if why_not_split(spec) is None else LAYERS_FROM[:1]
        for place in ways if wishes.layers_from is None else (wishes.layers_from,):
            yield replace(work, splitting=replace(work.splitting, layers_from=place))
    else:
        stored = list(_stored(spec, wishes, base))
        yield from stored
        if spec.num_experts:
            # Experts come over the bus for every token: more bits than 4 only where they are asked for.
            few = [work for work in stored if wishes.bits is not None or work.bits <= MAX_TRAVELLING_BITS]
            yield from (replace(work, experts_place="cpu") for work in few)


def _stored(spec: ModelSpec, wishes: Wishes, base: Workload) -> Iterator[Workload]:
    seen = set()
    for bits, head_bits, place in _STORED:
        if wishes.bits is not None:
            # The asked bits take the place of those of the list; a head never has fewer bits than asked.
            bits, head_bits = wishes.bits, max(head_bits, min(wishes.bits, 16))
        if wishes.task == "score" and (wishes.head_bits or head_bits) < 16:
            continue  # scoring reads all of the head as it is
        work = replace(
            base,
            bits=bits,
            head_bits=wishes.head_bits or head_bits,
            embedding_place=wishes.embedding_place or place,
        )
        if spec.tied_embeddings and work.embedding_place == "cpu" and work.head_bits >= 16:
            continue  # the embedding is the head, so it cannot leave the card alone
        if work not in seen:
            seen.add(work)
            yield work


def _trained(spec: ModelSpec, wishes: Wishes, base: Workload) -> Iterator[Workload]:
    if wishes.bits is not None and wishes.bits < 16:
        raise InputError(
            "training changes whole weights, which stored codes do not allow",
            expected="--bits 32 (fp32 weights, bf16 autocast) or 16 (bf16 weights)",
            received=f"--bits {wishes.bits}",
        )
    if spec.num_experts:
        raise InputError("training a mixture of experts is not planned yet", received=spec.name)
    for bits, checkpointing, loss, optimizer in _TRAINED:
        if optimizer == "in-backward" and wishes.accumulation > 1:
            continue
        # The foreach kernel stands where the fused one does.
        kernel = "fused" if wishes.optimizer == "foreach" else wishes.optimizer
        asked = (wishes.bits, wishes.checkpointing, wishes.loss, kernel)
        offered = (bits, checkpointing, loss, optimizer)
        if any(wish not in (None, offer) for wish, offer in zip(asked, offered, strict=True)):
            continue
        yield replace(
            base,
            bits=bits,
            training=Training(
                autocast=wishes.autocast,
                checkpointing=checkpointing,
                loss=loss,
                optimizer=wishes.optimizer or optimizer,
                accumulation=wishes.accumulation,
            ),
        )


def described(spec: ModelSpec, work: Workload) -> str:
    """The settings in words."""
    if work.task == "sft":
        how = work.training
        words = ["fp32 weights" if work.bits == 32 else "bf16 weights"]
        words += ["bf16 autocast"] if work.bits == 32 and how.autocast else []
        words += ["activation checkpointing"] if how.checkpointing else []
        words += [f"{how.loss} loss", f"AdamW {how.optimizer}"]
        return ", ".join(words)
    words = [f"{work.bits} bits"]
    if work.bits < 16:
        words[0] += f" (groups of {work.group_size})"
    if work.task == "split":
        return words[0] + (", layers from disk" if work.splitting.layers_from == "disk" else "")
    if work.head_bits != 16 or work.bits < 16:
        words.append(f"head {work.head_bits} bits")
    if work.embedding_place == "cpu":
        words.append("embedding in RAM")
    if work.experts_place == "cpu":
        words.append("routed experts in RAM")
    return ", ".join(words)
