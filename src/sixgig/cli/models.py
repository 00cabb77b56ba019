"""`sixgig models`: the catalogue, and what of it fits this machine or another."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from ..catalogue import HubSource, ModelSpec, all_models
from ..catalogue.splitting import why_not_split
from ..hardware import probe
from ..load.fetch import find_model, is_fetched
from ..memory import TASKS, estimate
from ..units import format_bytes
from .common import Json, Ram, Vram, device_bytes, print_json, print_table, ram_bytes, say

EXAMPLES = (
    "sixgig models",
    "sixgig models --vram 6GiB",
    "sixgig models smollm2-135m-instruct --json",
)


def models(
    name: Annotated[str | None, typer.Argument(help="One model: its name, hub name or local folder.")] = None,
    vram: Vram = None,
    ram: Ram = None,
    json: Json = False,
) -> None:
    """The models sixgig knows, and for which tasks each fits (4-bit, context 512, batch 1)."""
    hardware = probe()
    card, memory = device_bytes(vram, hardware), ram_bytes(ram, hardware)
    specs = [find_model(name, announce=say)] if name else list(all_models())
    rows = [_describe(spec, card, memory) for spec in specs]
    if json:
        print_json(rows[0] if name else {"device_bytes": card, "ram_bytes": memory, "models": rows})
    elif name:
        facts = rows[0] | {"sliding_window": rows[0]["sliding_window"] or "none"}
        print_table(("", specs[0].name), [(key, _shown(value)) for key, value in facts.items()])
    else:
        where = f"a card of {format_bytes(card)}" if card else "no card"
        title = f"What fits with {where} and {format_bytes(memory)} of memory"
        print_table(("model", "parameters", "licence", "here", "fits for"), map(_row, rows), title=title)


def _describe(spec: ModelSpec, card: int | None, memory: int) -> dict[str, Any]:
    tasks = [task for task in TASKS if task != "split" or why_not_split(spec) is None]
    fits = [task for task in tasks if estimate(spec, task, device_bytes=card, ram_bytes=memory).fits]
    described = asdict(spec) | {"num_parameters": spec.num_parameters}
    described["num_linear_parameters"] = spec.num_linear_parameters
    described["sources"] = [
        asdict(source) | {"kind": "hub" if isinstance(source, HubSource) else "wheel"}
        for source in spec.sources
    ]
    is_here = is_fetched(spec)
    return described | {"fetched": is_here, "fits": fits}


def _row(row: dict[str, Any]) -> tuple[str, str, str, str, str]:
    licence = row["licence"] + (" (consent)" if row["gated"] else "")
    size = f"{row['num_parameters'] / 1e9:.3g} B"
    return row["name"], size, licence, "yes" if row["fetched"] else "", ", ".join(row["fits"]) or "nothing"


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "unknown"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    if isinstance(value, dict):
        pinned = f" at {value['revision']}" if value.get("revision") else ""
        return str(value.get("requirement") or value.get("repo_id")) + pinned
    return str(value)
