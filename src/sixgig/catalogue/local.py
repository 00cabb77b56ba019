"""Model configurations from outside: a local folder's, and the one that a hub repository publishes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import read_json
from .reader import spec_from_config
from .spec import HubSource, ModelSpec

MAX_CONFIG_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class PublishedConfig:
    """A hub repository's config.json at one commit, and what the hub says about the repository."""

    config: Mapping[str, Any]
    revision: str
    licence: str = "unknown"
    gated: bool | None = None


def from_config(path: Path, *, packed: bool = False) -> ModelSpec:
    """The shapes in `path`/config.json (or in `path` itself); licence and template are not known from there.

    `packed`: the folder's weights are packed, and the shapes before packing are asked for.

    Raises `InputError` for a missing, wrong or unsupported field, `UnknownNameError` for an architecture.
    """
    file = path / "config.json" if path.is_dir() else path
    config = read_json(file, max_bytes=MAX_CONFIG_BYTES)
    return spec_from_config(config, name=file.parent.resolve().name, where=str(file), packed=packed)


def from_published(repo_id: str, published: PublishedConfig) -> ModelSpec:
    """The model of a hub repository that the catalogue does not have, pinned to the commit of its config."""
    return spec_from_config(
        published.config,
        name=repo_id,
        where=f"config.json of {repo_id} at {published.revision}",
        licence=published.licence,
        gated=published.gated,
        sources=(HubSource(repo_id=repo_id, revision=published.revision),),
    )
