"""From what a person types to one `ModelSpec`: our name, the hub's name, or a local folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ..errors import InputError, NotAvailableError, UnknownNameError
from .local import PublishedConfig, from_config, from_published
from .models import NAMES, model, names_by_spelling
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

# owner/name as the hub allows it: no "..", and no "--", which is how a cache spells the slash.
_HUB_ID = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)

FetchConfig = Callable[[str], PublishedConfig]


def all_models() -> tuple[ModelSpec, ...]:
    """Every supported model, smallest family first."""
    return tuple(model(name) for name in NAMES)


def get(name: str) -> ModelSpec:
    """The model of that name, ours or the hub's, in any case.

    Raises `NotAvailableError` for a withdrawn name, saying what to use, and `UnknownNameError` with the
    nearest names for any other.
    """
    key = name.strip().lower()
    if key in WITHDRAWN:
        problem, todo = WITHDRAWN[key]
        raise NotAvailableError(f"{name}: {problem}", todo=todo)
    if key in (known := names_by_spelling()):
        return model(known[key])
    raise UnknownNameError("model", name, NAMES)


def resolve(name_or_folder: str | Path, fetch_config: FetchConfig | None = None) -> ModelSpec:
    """As `get`; where no model has that name, a local folder with a config.json; then any hub repository.

    `fetch_config` gets a repository's config.json by its owner/name; without it the hub is not asked.
    """
    text = str(name_or_folder).strip()
    key = text.lower()
    if key in names_by_spelling() or key in WITHDRAWN:
        return get(text)
    if Path(name_or_folder).is_dir():
        return from_config(Path(name_or_folder))
    if fetch_config is not None and _HUB_ID.fullmatch(text):
        return from_published(text, fetch_config(text))
    if text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise InputError(
            "no such folder",
            expected="a model's folder with its config.json, or the name of a model",
            where=text,
            todo="look at the path; `sixgig models` lists the names",
        )
    return get(text)
