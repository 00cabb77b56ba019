"""Models of the hub: one revision's safetensors, configuration and tokenizer, nothing that could be code.

HF_ENDPOINT, HF_TOKEN and the other settings of huggingface_hub apply. Interrupted downloads continue.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from ..catalogue import HubSource, ModelSpec
from ..errors import IntegrityError, NotAvailableError
from ..files import full_disk_explained, require_free_space
from .progress import Progress, Report, tell

_WANTED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "LICENSE*")


def download_snapshot(
    spec: ModelSpec, source: HubSource, folder: Path, progress: Progress | None = None
) -> str:
    """Downloads the repository's top-level files of known kinds into `folder`; returns the commit it got.

    Raises `NotAvailableError` with the hub's own reason: no network, no such repository, consent needed.
    """
    tell(progress, "download", f"asking the hub about {source.repo_id}")
    with refusals_explained(source.repo_id, gated=spec.gated), full_disk_explained(folder):
        return _download(spec, source, folder, progress)


@contextmanager
def refusals_explained(repo_id: str, *, gated: bool | None) -> Iterator[None]:
    """Turns whatever stops the hub's client into a `NotAvailableError` with the reason and what to do."""
    # The base class of the hub client's HTTP library, whichever that is in the installed version: connection
    # errors are of that class and not OSErrors.
    from huggingface_hub.errors import HfHubHTTPError

    transport_error = cast("type[Exception]", HfHubHTTPError.__bases__[0])
    try:
        yield
    except (transport_error, OSError) as error:
        reason = str(error).strip().splitlines()
        raise NotAvailableError(
            f"{repo_id} could not be fetched from the hub",
            received=f"{type(error).__name__}: {reason[0] if reason else 'no reason given'}",
            todo=_advice(repo_id, gated, error),
        ) from error


def _advice(repo_id: str, gated: bool | None, error: Exception) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    page = f"{constants.ENDPOINT}/{repo_id}"
    consent = f"accept the model's terms at {page} and log in with `hf auth login`; "
    if isinstance(error, GatedRepoError):
        return consent.rstrip("; ")
    if isinstance(error, RepositoryNotFoundError):
        return f"look at the spelling: is {page} there? A private repository needs `hf auth login`"
    consent = "" if gated is False else consent
    return (
        f"{consent}check the network, or name a mirror in HF_ENDPOINT; or copy the model's folder from "
        "another machine and pass its path in place of the name"
    )


def _download(spec: ModelSpec, source: HubSource, folder: Path, progress: Progress | None) -> str:
    from huggingface_hub import HfApi

    info = HfApi().model_info(source.repo_id, revision=source.revision, files_metadata=True)
    if info.sha is None:
        raise IntegrityError("the hub named no commit", where=source.repo_id)
    files = {entry.rfilename: entry.size or 0 for entry in info.siblings or [] if _is_wanted(entry.rfilename)}
    if "config.json" not in files or not any(name.endswith(".safetensors") for name in files):
        raise NotAvailableError(f"{source.repo_id} has no safetensors weights with a config.json")
    missing = {name: size for name, size in files.items() if not (folder / name).is_file()}
    require_free_space(folder, sum(missing.values()), f"fetching {spec.name}")
    _get_files(source.repo_id, info.sha, files, folder, progress)
    return info.sha


def _get_files(
    repo_id: str, revision: str, files: dict[str, int], folder: Path, progress: Progress | None
) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    done, total = 0, sum(files.values())
    # One file at a time, so that progress is told and a finished file is never asked for again.
    for name, num_bytes in sorted(files.items(), key=lambda item: item[1]):
        if progress:
            progress(Report(step="download", done_bytes=done, total_bytes=total, note=name))
        snapshot_download(repo_id, revision=revision, local_dir=folder, allow_patterns=[name])
        size = (folder / name).stat().st_size
        if size != num_bytes:
            raise IntegrityError(
                f"incomplete file: {name}",
                expected=f"{num_bytes} bytes",
                received=f"{size} bytes",
                where=str(folder),
            )
        done += num_bytes
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _is_wanted(name: str) -> bool:
    from fnmatch import fnmatch

    return "/" not in name and any(fnmatch(name, pattern) for pattern in _WANTED)
