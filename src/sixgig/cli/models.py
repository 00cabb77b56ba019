"""`sixgig models`: the catalogue, and what of it fits this machine or another."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from ..cards import Card
from ..catalogue import HubSource, ModelSpec, all_models
from ..hardware import probe
from ..load.fetch import find_model, is_fetched
from ..memory import TASKS, MemoryPlan, Wishes, first_that_fits
from ..units import format_bytes
from .common import Json, Ram, Vram, chosen_card, print_json, print_table, ram_bytes, say

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
    """The models sixgig knows, and for which tasks each fits and how (context 512, split 256; batch 1)."""
    hardware = probe()
    card, memory = chosen_card(vram, hardware), ram_bytes(ram, hardware)
    specs = [find_model(name, announce=say)] if name else list(all_models())
    rows = [_describe(spec, card, memory) for spec in specs]
    if json:
        size = card.total_bytes if card else None
        print_json(rows[0] if name else {"device_bytes": size, "ram_bytes": memory, "models": rows})
    elif name:
        facts = rows[0] | {"sliding_window": rows[0]["sliding_window"] or "none"}
        print_table(("", specs[0].name), [(key, _shown(value)) for key, value in facts.items()])
    else:
        where = card.name if card else "no card"
        title = f"What fits with {where} and {format_bytes(memory)} of memory"
        columns = ("model", "parameters", "licence", "here", "fits for", "generates with")
        print_table(columns, map(_row, rows), title=title)


def _describe(spec: ModelSpec, card: Card | None, memory: int) -> dict[str, Any]:
    plans = {task: plan for task in TASKS if (plan := _planned(spec, task, card, memory)) is not None}
    described = asdict(spec) | {"num_parameters": spec.num_parameters}
    described["num_linear_parameters"] = spec.num_linear_parameters
    described["sources"] = [
        asdict(source) | {"kind": "hub" if isinstance(source, HubSource) else "wheel"}
        for source in spec.sources
    ]
    return described | {
        "fetched": is_fetched(spec),
        "fits": list(plans),
        "settings": {task: plan.settings for task, plan in plans.items()},
    }


def _planned(spec: ModelSpec, task: str, card: Card | None, memory: int) -> MemoryPlan | None:
    """The plan, where the task is possible with this model and fits."""
    if spec.num_experts and task == "sft":
        return None
    plan = first_that_fits(spec, Wishes(task=task), card=card, ram_bytes=memory)
    return plan if plan.fits else None


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    licence = row["licence"] + (" (consent)" if row["gated"] else "")
    size = f"{row['num_parameters'] / 1e9:.3g} B"
    here = "yes" if row["fetched"] else ""
    how = row["settings"].get("generate", "")
    return row["name"], size, licence, here, ", ".join(row["fits"]) or "nothing", how


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "unknown"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    if isinstance(value, dict) and not value.keys() & {"requirement", "repo_id"}:
        return "; ".join(f"{key}: {_shown(one)}" for key, one in value.items()) or "none"
    if isinstance(value, dict):
        pinned = f" at {value['revision']}" if value.get("revision") else ""
        return str(value.get("requirement") or value.get("repo_id")) + pinned
    return str(value)
