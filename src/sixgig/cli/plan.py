"""`sixgig plan`: the memory ledger of one task, before anything is downloaded. Exit 0 fits, 1 does not."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer


from ..hardware import probe
from ..load.fetch import find_model
from ..memory import MemoryPlan, estimate
from ..units import format_bytes
from .common import Json, Ram, Vram, device_bytes, print_json, print_table, ram_bytes, say
from .plan_config import asked_for

EXAMPLES = (
    "sixgig plan llama-3-8b --task generate --vram 6GiB",
    "sixgig plan smollm2-135m-instruct --task sft --bits 16 --context 1024",
    "sixgig plan mixtral-8x7b-instruct --vram 8GiB --ram 32GiB --json",
    "sixgig plan --config rtx4050_config.json --vram 'RTX 4050'",
)


def plan(
    ctx: typer.Context,
    model: Annotated[
        str | None, typer.Argument(help="A model's name, hub name or local folder. Default: --config's.")
    ] = None,
    task: Annotated[str, typer.Option("--task", help="generate, score, split or sft.")] = "generate",
    vram: Vram = None,
    ram: Ram = None,
    bits: Annotated[
        int,
        typer.Option("--bits", help="2, 3, 4, 8, 16 or 32 bits a weight; sft below 16 trains adapters only."),
    ] = 4,
    context: Annotated[int, typer.Option("--context", help="Tokens in one sequence.")] = 512,
    batch: Annotated[int, typer.Option("--batch", help="Sequences at once.")] = 1,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="A JSON file of the earlier watermark project; options win over it."),
    ] = None,
    json: Json = False,
) -> None:
    """Whether a model fits for a task, with every line of the ledger; exit 1 where it does not."""
    hardware = probe()
    asked = asked_for(ctx, config, hardware, model=model, vram=vram, ram=ram, bits=bits, context=context)
    result = estimate(
        find_model(asked.model, announce=say),
        task,
        device_bytes=device_bytes(asked.vram, hardware),
        ram_bytes=ram_bytes(asked.ram, hardware),
        bits=asked.bits,
        context=asked.context,
        batch=batch,
    )
    result = replace(result, notes=(*asked.notes, *result.notes))
    if json:
        peaks = {"device_peak_bytes": result.device_peak_bytes, "ram_peak_bytes": result.ram_peak_bytes}
        print_json(asdict(result) | peaks | {"fits": result.fits})
    else:
        _show(result)
    if not result.fits:
        raise typer.Exit(1)


def _show(result: MemoryPlan) -> None:
    work = result.workload
    title = f"{result.model}: {work.task}, {work.bits} bits, context {work.context}, batch {work.batch}"
    rows = [(line.what, line.place, format_bytes(line.num_bytes), line.because) for line in result.lines]
    if result.device_bytes is not None:
        rows.append(_sum_row("device", result.device_peak_bytes, result.device_bytes))
    rows.append(_sum_row("ram", result.ram_peak_bytes, result.ram_bytes))
    print_table(("what", "where", "size", "because"), rows, title=title)
    for note in result.notes:
        print(f"Note: {note}.")
    print("It fits, as far as sizes tell." if result.fits else "It does not fit.")
    for answer in result.would_fit:
        print(f"  would fit: {answer}")


def _sum_row(place: str, needed_bytes: int, limit_bytes: int) -> tuple[str, str, str, str]:
    verdict = "" if needed_bytes <= limit_bytes else ": too much"
    return "SUM", place, format_bytes(needed_bytes), f"of {format_bytes(limit_bytes)}{verdict}"
