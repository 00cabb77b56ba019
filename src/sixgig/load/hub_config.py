"""The config.json of any hub repository: the one file that says whether a model can be planned for at all."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..catalogue import PublishedConfig
from ..catalogue.local import MAX_CONFIG_BYTES
from ..errors import InputError, IntegrityError, NotAvailableError
from ..files import full_disk_explained, read_json
from .hub import refusals_explained
from .manifest import MANIFEST

_FILE = "config.json"


def published_config(repo_id: str) -> PublishedConfig:
    """`repo_id`'s config.json at its newest commit, which the answer names; nothing else is fetched.

    HF_ENDPOINT, HF_TOKEN and the other settings of huggingface_hub apply. Raises `NotAvailableError` where
    there is no network, no such repository or no consent yet, saying what to do.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    with refusals_explained(repo_id, gated=False):
        info: Any = HfApi().model_info(repo_id, files_metadata=True)
        if info.sha is None:
            raise IntegrityError("the hub named no commit", where=repo_id)
        _check_size(repo_id, {entry.rfilename: entry.size for entry in info.siblings or []})
        with TemporaryDirectory(prefix="sixgig-") as folder, full_disk_explained(Path(folder)):
            file = hf_hub_download(repo_id, _FILE, revision=info.sha, local_dir=folder)
            config = read_json(Path(file), max_bytes=MAX_CONFIG_BYTES)
    return PublishedConfig(
        config=config, revision=info.sha, licence=_licence(info), gated=_is_gated(info.gated)
    )


def fetched_config(folder: Path) -> PublishedConfig:
    """The same from a fetched model's folder, without the hub."""
    manifest = read_json(folder / MANIFEST, max_bytes=MAX_CONFIG_BYTES)
    source = manifest.get("source") if isinstance(manifest, dict) else None
    if not isinstance(source, dict) or not isinstance(source.get("revision"), str):
        raise IntegrityError("the manifest does not say where the model comes from", where=str(folder))
    licence, gated = source.get("licence"), source.get("gated")
    return PublishedConfig(
        config=read_json(folder / _FILE, max_bytes=MAX_CONFIG_BYTES),
        revision=source["revision"],
        licence=licence if isinstance(licence, str) else "unknown",
        gated=gated if isinstance(gated, bool) else None,
    )


def _check_size(repo_id: str, sizes: dict[str, int | None]) -> None:
    if _FILE not in sizes:
        raise NotAvailableError(f"{repo_id} has no {_FILE}", todo="take a repository of transformers weights")
    if (sizes[_FILE] or 0) > MAX_CONFIG_BYTES:
        raise InputError(
            f"{_FILE} of {repo_id} is too large",
            expected=f"at most {MAX_CONFIG_BYTES} bytes",
            received=f"{sizes[_FILE]} bytes",
        )


def _licence(info: Any) -> str:
    """What the model card says; "other" is told by its name."""
    card = info.card_data or {}
    licence = card.get("license")
    named = card.get("license_name") if licence == "other" else licence
    return named if isinstance(named, str) else "unknown"


def _is_gated(gated: Any) -> bool | None:
    """The hub says false, "auto" or "manual", or nothing."""
    return None if gated is None else gated is not False
