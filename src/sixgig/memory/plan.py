"""Does it fit? The ledger for this machine, and where it does not fit, what would.

First version: from sizes, so that what clearly cannot fit is refused before anything is downloaded. It does
not promise that a tight fit runs; see `estimate.py` for what is not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..catalogue import ModelSpec, all_models
from ..errors import DoesNotFitError
from ..units import format_bytes
from .estimate import inference_lines, sft_lines, split_lines
from .ledger import Line, MemoryPlan, Place, device_margin_bytes, ram_margin_bytes
from .workload import BITS, Workload


class DoesNotFit(DoesNotFitError):
    """The work cannot fit; `plan` holds the ledger and what would fit."""

    def __init__(self, plan: MemoryPlan) -> None:
        self.plan = plan
        super().__init__(
            f"{plan.model} does not fit for {plan.workload.task}\n{plan.table()}",
            todo="; ".join(plan.would_fit) or None,
        )


def plan(
    spec: ModelSpec,
    task: str,
    *,
    device_bytes: int | None,
    ram_bytes: int,
    bits: int = 4,
    context: int = 512,
    batch: int = 1,
) -> MemoryPlan:
    """The ledger of `task`, or `DoesNotFit` with every line and what would fit.

    `device_bytes` is the card's whole memory (None: no GPU, everything in memory), `ram_bytes` the machine's.
    """
    result = estimate(
        spec, task, device_bytes=device_bytes, ram_bytes=ram_bytes, bits=bits, context=context, batch=batch
    )
    if not result.fits:
        raise DoesNotFit(result)
    return result


def estimate(
    spec: ModelSpec,
    task: str,
    *,
    device_bytes: int | None,
    ram_bytes: int,
    bits: int = 4,
    context: int = 512,
    batch: int = 1,
) -> MemoryPlan:
    """As `plan`, without raising: `fits` says whether it does, `would_fit` what would."""
    work = Workload(task=task, bits=bits, context=context, batch=batch)
    result = _ledger(spec, work, device_bytes, ram_bytes)
    return result if result.fits else replace(result, would_fit=_what_would_fit(spec, result))


def _ledger(spec: ModelSpec, work: Workload, device_bytes: int | None, ram_bytes: int) -> MemoryPlan:
    device: Place = "ram" if device_bytes is None else "device"
    notes = [f"context {work.context} is longer than the model's own {spec.context}"] * (
        work.context > spec.context
    )

    def build(lines: list[Line], *more: str) -> MemoryPlan:
        return MemoryPlan(
            model=spec.name,
            workload=work,
            device_bytes=device_bytes,
            ram_bytes=ram_bytes,
            lines=(*lines, *_margins(device_bytes, ram_bytes)),
            notes=(*notes, *more),
        )

    if work.task == "split":
        return build(split_lines(spec, work, device))
    if work.task == "sft":
        return build(sft_lines(spec, work, device))
    whole = build(inference_lines(spec, work, device))
    if whole.fits or not spec.num_experts or device == "ram":
        return whole
    note = "the routed experts stay in memory and travel to the card as needed: slower"
    return build(inference_lines(spec, work, device, experts_in_ram=True), note)


def _margins(device_bytes: int | None, ram_bytes: int) -> list[Line]:
    margin = Line(
        what="margin", place="ram", num_bytes=ram_margin_bytes(ram_bytes), because="system, Python, libraries"
    )
    if device_bytes is None:
        return [margin]
    context = device_margin_bytes(device_bytes)
    because = "CUDA context, fragmentation"
    return [Line(what="margin", place="device", num_bytes=context, because=because), margin]


def _what_would_fit(spec: ModelSpec, failed: MemoryPlan) -> tuple[str, ...]:
    """One changed setting at a time, then the smallest card, then the largest model for these settings."""
    work = failed.workload

    def fits(other: Workload, model: ModelSpec = spec) -> bool:
        return _ledger(model, other, failed.device_bytes, failed.ram_bytes).fits

    answers = [f"--bits {bits}" for bits in _most(_smaller_bits(work), lambda b: fits(replace(work, bits=b)))]
    for name in ("context", "batch"):
        halves = [getattr(work, name) >> shift for shift in range(1, getattr(work, name).bit_length())]
        found = _most(halves, lambda value, name=name: fits(replace(work, **{name: value})))
        answers += [f"--{name} {value}" for value in found]
    answers += _larger_machine(spec, failed)
    models = sorted((model for model in all_models() if fits(work, model)), key=lambda m: m.num_parameters)
    return (*answers, *(f"model {model.name} with these settings" for model in models[-1:]))


def _smaller_bits(work: Workload) -> list[int]:
    return [bits for bits in reversed(BITS) if bits < work.bits]


def _most(values: list[int], accept: Callable[[int], bool]) -> list[int]:
    """The first acceptable value, as a list of one or none; `values` come largest first."""
    return [value for value in values if accept(value)][:1]


def _larger_machine(spec: ModelSpec, failed: MemoryPlan) -> list[str]:
    """The card or memory that this ledger needs, margins included."""
    answers = []
    tensor_bytes = failed.device_peak_bytes - device_margin_bytes(failed.device_bytes or 0)
    if failed.device_bytes is not None and failed.device_peak_bytes > failed.device_bytes:
        # The margin is 400 MiB and 3% of the card, so the card solves card = tensors + 400 MiB + 3% card.
        card_bytes = int((tensor_bytes + device_margin_bytes(0)) / 0.97) + 1
        answers.append(f"a card of {format_bytes(card_bytes)}")
    if failed.ram_peak_bytes > failed.ram_bytes:
        ram_tensors = failed.ram_peak_bytes - ram_margin_bytes(failed.ram_bytes)
        answers.append(f"{format_bytes(int((ram_tensors + ram_margin_bytes(0)) / 0.95) + 1)} of memory")
    return answers
