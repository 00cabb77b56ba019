"""`sixgig plan`: settings and memory of one task, before anything is downloaded. Exit 0 fits, 1 does not."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from ..hardware import probe
from ..load.fetch import find_model
from ..memory import MemoryPlan, Splitting, Wishes, estimate
from ..units import format_bytes
from .common import Json, Ram, Vram, chosen_card, print_json, print_table, ram_bytes, say
from .plan_config import asked_for

EXAMPLES = (
    "sixgig plan llama-3-8b --vram 'RTX 4050'",
    "sixgig plan smollm2-135m-instruct --task sft --context 1024 --accumulation 4 --vram 4GiB",
    "sixgig plan qwen1.5-moe-a2.7b-chat --bits 4 --vram 6GiB --ram 16GiB --json",
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
        int | None,
        typer.Option("--bits", help="2, 3, 4, 8, 16 or 32 bits a weight; sft: 16 or 32. Default: what fits."),
    ] = None,
    head_bits: Annotated[
        int | None, typer.Option("--head-bits", help="The output head's own bits. Default: what fits.")
    ] = None,
    context: Annotated[
        int | None, typer.Option("--context", help="Tokens in one sequence. Default: 512, for split 256.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Sequences at once; sft: in a micro-batch.")] = 1,
    texts: Annotated[
        int, typer.Option("--texts", help="split: private texts, each as long as the context.")
    ] = 64,
    layers_from: Annotated[
        str | None,
        typer.Option("--layers-from", help="split: memory or disk, layer by layer. Default: what fits."),
    ] = None,
    attention: Annotated[str, typer.Option("--attention", help="sdpa or eager.")] = "sdpa",
    checkpointing: Annotated[
        bool | None,
        typer.Option("--checkpointing/--no-checkpointing", help="sft: recompute activations."),
    ] = None,
    loss: Annotated[str | None, typer.Option("--loss", help="sft: dense or chunked.")] = None,
    optimizer: Annotated[
        str | None, typer.Option("--optimizer", help="sft: AdamW as fused, foreach or in-backward.")
    ] = None,
    accumulation: Annotated[int, typer.Option("--accumulation", help="sft: micro-batches a step.")] = 1,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="A JSON file of the earlier watermark project; options win over it."),
    ] = None,
    json: Json = False,
) -> None:
    """Whether a model fits for a task and with which settings, line by line; exit 1 where it does not."""
    hardware = probe()
    asked = asked_for(ctx, config, hardware, model=model, vram=vram, ram=ram, bits=bits, context=context)
    result = estimate(
        find_model(asked.model, announce=say),
        Wishes(
            task=task,
            bits=asked.bits,
            head_bits=head_bits,
            context=asked.context,
            batch=batch,
            splitting=Splitting(num_texts=texts),
            layers_from=layers_from,
            attention=attention,
            checkpointing=checkpointing,
            loss=loss,
            optimizer=optimizer,
            accumulation=accumulation,
        ),
        card=chosen_card(asked.vram, hardware),
        ram_bytes=ram_bytes(asked.ram, hardware),
    )
    result = replace(result, notes=(*asked.notes, *result.notes))
    if json:
        peaks = {"device_peak_bytes": result.device_peak_bytes, "ram_peak_bytes": result.ram_peak_bytes}
        print_json(asdict(result) | peaks | {"device_bytes": result.device_bytes})
    else:
        _show(result)
    if not result.fits:
        raise typer.Exit(1)


def _show(result: MemoryPlan) -> None:
    work = result.workload
    place = result.card.name if result.card else "no card"
    title = f"{result.model}: {work.task}, context {work.context}, batch {work.batch}, on {place}"
    rows = [(line.what, line.place, format_bytes(line.num_bytes), line.because) for line in result.lines]
    if result.device_bytes is not None:
        rows.append(_sum_row("device", result.device_peak_bytes, result.device_bytes))
    rows.append(_sum_row("ram", result.ram_peak_bytes, result.ram_bytes))
    print_table(("what", "where", "size", "because"), rows, title=title)
    _show_choice(result)
    for note in result.notes:
        print(f"Note: {note}.")
    for answer in result.would_fit:
        print(f"  would fit: {answer}")


def _show_choice(result: MemoryPlan) -> None:
    """What was chosen or came nearest, and what was looked at before it."""
    *passed, _ = result.tried if result.fits else (*result.tried, None)
    # Without a card there is no size to go by, and each is told.
    for _, alike in groupby(passed, lambda one: one.device_bytes or one.settings):
        first, *others = alike
        more = f" (nor {len(others)} more ways like it)" if others else ""
        needed = first.device_bytes
        size = f": takes at least {format_bytes(needed)} of the card" if needed else ""
        print(f"  not {first.settings}{more}{size}")
    if not result.fits:
        print(f"It does not fit; the ledger is that of: {result.settings}.")
        return
    print(f"It fits: {result.settings}.")
    if result.max_tokens_per_second is not None:
        print(f"At most {result.max_tokens_per_second:.3g} tokens a second, by the card's bandwidth.")


def _sum_row(place: str, needed_bytes: int, limit_bytes: int) -> tuple[str, str, str, str]:
    verdict = "" if needed_bytes <= limit_bytes else ": too much"
    return "SUM", place, format_bytes(needed_bytes), f"of {format_bytes(limit_bytes)}{verdict}"
