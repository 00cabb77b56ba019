"""`sixgig plan --config FILE.json`: what the file asks for, where the command line does not say otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer

from ..catalogue import resolve
from ..errors import InputError
from ..experiments.old_config import read_old_config
from ..experiments.old_work import PROMPT_TOKENS, OldWork, notes_of, workload_of
from ..hardware import Hardware
from ..units import format_bytes
from .common import device_bytes, ram_bytes


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What `plan` was asked for; sizes are still text, as typed. `notes` belong to the plan's own."""

    model: str
    vram: str | None
    ram: str | None
    bits: int | None
    context: int | None
    notes: tuple[str, ...] = ()


def asked_for(
    ctx: typer.Context,
    config: Path | None,
    hardware: Hardware,
    *,
    model: str | None,
    vram: str | None,
    ram: str | None,
    bits: int | None,
    context: int | None,
) -> Asked:
    """The arguments, with the file's values in place of those that were not typed.

    Raises `InputError` where no model is named, and whatever is wrong with the file.
    """
    if config is None:
        if model is None:
            raise _no_model()
        return Asked(model=model, vram=vram, ram=ram, bits=bits, context=context)
    old = read_old_config(config)
    work = workload_of(old)
    named = model or work.model
    if named is None:
        raise _no_model()
    notes = list(notes_of(old, resolve(named)))
    if not _is_typed(ctx, "bits"):
        bits = work.bits
    if not _is_typed(ctx, "context"):
        context = work.context
        notes.append(f"context: a prompt of {PROMPT_TOKENS} tokens, assumed, and max_new_tokens of the file")
    if vram is None and (vram := _vram(work, hardware)) is not None:
        notes.append(_said("the card", vram, "max_memory" if work.wants_device else "device cpu"))
    if ram is None and work.ram_limit_bytes is not None:
        ram = _text(min(work.ram_limit_bytes, ram_bytes(None, hardware)))
        notes.append(_said("the machine's memory", ram, "max_memory"))
    return Asked(model=named, vram=vram, ram=ram, bits=bits, context=context, notes=tuple(notes))


def _no_model() -> InputError:
    return InputError(
        "no model named",
        expected="a model's name, or --config FILE.json with its model_name",
        todo="sixgig models lists them",
    )


def _is_typed(ctx: typer.Context, name: str) -> bool:
    # By the source's name: the class that it belongs to is Click's or Typer's own, as the version has it.
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _vram(work: OldWork, hardware: Hardware) -> str | None:
    """The file's card: "0" for cpu, else its limit or a smaller card that is here; None: it does not say."""
    if not work.wants_device:
        return "0"
    if work.device_limit_bytes is None:
        return None
    here = device_bytes(None, hardware)
    return _text(work.device_limit_bytes if here is None else min(work.device_limit_bytes, here))


def _text(num_bytes: int) -> str:
    return f"{num_bytes}B" if num_bytes else "0"


def _said(what: str, text: str, source: str) -> str:
    if text == "0":
        return f"no card is planned for: {source} in the file"
    return f"{what} counts as {format_bytes(int(text.removesuffix('B')))}: {source} in the file"
