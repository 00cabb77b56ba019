"""From what a person types to one `ModelSpec`: our name, the hub's name, or a local folder."""

from __future__ import annotations

from pathlib import Path

from ..errors import NotAvailableError, UnknownNameError
from .local import from_config
from .models import ALIASES, MODELS
from .spec import ModelSpec

# Names that circulate in old scripts: lower-case name -> (what is wrong with it, what to use).
WITHDRAWN: dict[str, tuple[str, str]] = {
    "meta-llama/llama-2-1b-hf": (
        "there is no Llama 2 of 1B parameters",
        "use tinyllama-1.1b-chat or llama-3.2-1b",
    ),
    "qwen/qwen1.5-1.5b-instruct": ("there is no such model", "use qwen2.5-1.5b-instruct"),
    "qwen/qwen1.5-moe-a14b-chat": ("the hub no longer has this model", "use qwen1.5-moe-a2.7b-chat"),
}


def all_models() -> tuple[ModelSpec, ...]:
    """Every supported model, smallest family first."""
    return MODELS


def _known() -> dict[str, ModelSpec]:
    known = {spec.name: spec for spec in MODELS}
    known |= {spec.hub_id.lower(): spec for spec in MODELS if spec.hub_id}
    return known | {alias: known[name] for alias, name in ALIASES.items()}


def get(name: str) -> ModelSpec:
    """The model of that name, ours or the hub's, in any case.

    Raises `NotAvailableError` for a withdrawn name, saying what to use, and `UnknownNameError` with the
    nearest names for any other.
    """
    key = name.strip().lower()
    if key in WITHDRAWN:
        problem, todo = WITHDRAWN[key]
        raise NotAvailableError(f"{name}: {problem}", todo=todo)
    if key in (known := _known()):
        return known[key]
    raise UnknownNameError("model", name, [spec.name for spec in MODELS])


def resolve(name_or_folder: str | Path) -> ModelSpec:
    """As `get`, and where no model has that name, a local folder with a config.json."""
    text = str(name_or_folder)
    key = text.strip().lower()
    if key not in _known() and key not in WITHDRAWN and Path(text).is_dir():
        return from_config(Path(text))
    return get(text)
