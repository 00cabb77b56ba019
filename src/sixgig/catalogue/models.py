"""The supported models: one file each in data/, read when first asked for.

A file holds the model's published configuration (the fields that decide its layers), the hub repository and
the commit it was pinned to, licence, consent, chat template and the published number of parameters.
tests/unit/test_catalogue_shapes.py compares every one with the model that transformers builds from it.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from .reader import spec_from_config
from .spec import HubSource, ModelSpec, WheelSource

EMBEDDED = "smollm2-135m-instruct"

# In the order in which they are listed.
NAMES: tuple[str, ...] = (
    EMBEDDED,
    "smollm2-135m-base",
    "smollm2-360m",
    "smollm2-360m-instruct",
    "smollm2-1.7b",
    "smollm2-1.7b-instruct",
    "tinyllama-1.1b-chat",
    "qwen2.5-0.5b-instruct",
    "qwen2.5-1.5b-instruct",
    "qwen2.5-7b-instruct",
    "qwen3-0.6b",
    "qwen3-1.7b",
    "qwen3-4b",
    "qwen3-8b",
    "gemma-3-1b-it",
    "gemma-3-1b-pt",
    "phi-2",
    "llama-3.2-1b",
    "llama-3.2-1b-instruct",
    "llama-3.2-3b",
    "llama-3.2-3b-instruct",
    "llama-2-7b",
    "llama-3-8b",
    "llama-3-8b-instruct",
    "llama-3.1-8b-instruct",
    "granite-3.1-1b-a400m-base",
    "granite-3.1-1b-a400m-instruct",
    "olmoe-1b-7b-0924",
    "olmoe-1b-7b-0924-instruct",
    "qwen1.5-moe-a2.7b",
    "qwen1.5-moe-a2.7b-chat",
    "qwen3-30b-a3b",
    "mixtral-8x7b-instruct",
    "llama-3-70b",
    "llama-3.1-405b",
)

# Other spellings that people type. The embedded model had the short name before its base was here.
ALIASES: dict[str, str] = {
    "smollm2-135m": EMBEDDED,
    "meta-llama/llama-3-8b": "llama-3-8b",
    "meta-llama/llama-3-8b-instruct": "llama-3-8b-instruct",
    "meta-llama/meta-llama-3.1-8b-instruct": "llama-3.1-8b-instruct",
    "meta-llama/meta-llama-3.1-405b": "llama-3.1-405b",
}

_DATA = Path(__file__).parent / "data"


@cache
def entry(name: str) -> dict[str, Any]:
    """The model's file as it is."""
    return json.loads((_DATA / f"{name}.json").read_text(encoding="utf-8"))


@cache
def model(name: str) -> ModelSpec:
    """The model of exactly this name, one of `NAMES`; the embedded one comes from its wheel."""
    data = entry(name)
    hub = HubSource(repo_id=data["hub_id"], revision=data["revision"])
    return spec_from_config(
        data["config"],
        name=name,
        where=f"the catalogue's {name}.json",
        licence=data["licence"],
        gated=data["gated"],
        chat_template=data["chat_template"],
        sources=(WheelSource(**data["wheel"]),) if "wheel" in data else (hub,),
    )


@cache
def names_by_spelling() -> dict[str, str]:
    """Lower-case spelling -> name: the hub's name with and without its owner, ours, and the aliases."""
    hub_ids = {entry(name)["hub_id"].lower(): name for name in NAMES}
    short = {hub_id.partition("/")[2]: name for hub_id, name in hub_ids.items()}
    return short | hub_ids | {name: name for name in NAMES} | ALIASES
