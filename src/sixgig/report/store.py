"""A run's directory: what a run keeps, so that a kill at any moment loses at most the stage in hand.

<experiment>-<YYYYmmdd-HHMMSS>-<hash8>/     time in UTC, so that names sort by age
  config.yaml     complete and re-runnable, without secrets
  events.jsonl    what happened, as it happened
  stages/         one file a finished stage, with its digest: what a resume starts from
  work/           large intermediate files, gone once the run is complete
  samples.jsonl   one row an example, written at the end
  figures/  report.html
  result.json     written last: a run with a result has everything else
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from ..errors import InputError, IntegrityError
from ..files import atomic_path, read_text, sweep_orphans, write_json
from .events import EventLog, read_events
from .identity import config_hash, kept_config, read_config, refuse_changes, write_config
from .plain_json import parse, require_plain, sha256_of
from .schema import Result

_STAGE_SCHEMA = "sixgig.stage/1"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
_RUN_NAME = re.compile(r"(?P<experiment>.+)-(?P<stamp>\d{8}-\d{6})-(?P<hash8>[0-9a-f]{8})(?P<same>-\d+)?")


class RunDirectory:
    """One run's files. Made by `create` or `open`; holds the directory's lock until `close`."""

    def __init__(self, path: Path, config: dict[str, Any], lock: FileLock) -> None:
        self.path = path
        self.config = config
        self.notices: list[str] = []  # what went wrong with kept files; for Result.warnings
        self.keep_work = False  # work/ stays when the run is complete, for another run to begin from
        self._lock = lock
        self._events = EventLog(path / "events.jsonl")
        for folder in (self.stages_path, self.work_path, self.figures_path):
            folder.mkdir(exist_ok=True)
        for folder in (path, self.stages_path, self.figures_path):
            sweep_orphans(folder)

    @classmethod
    def create(cls, root: Path, experiment: str, config: dict[str, Any]) -> RunDirectory:
        """A new directory under `root`, locked. Runs that start in the same second get -2, -3, ..."""
        kept = kept_config(config)
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        path = _make_folder(root, f"{experiment}-{stamp}-{config_hash(kept)[:8]}")
        with _lock_kept_on_success(path) as lock:
            write_config(path / "config.yaml", kept)
            return cls(path, kept, lock)

    @classmethod
    def open(cls, path: Path, config: dict[str, Any] | None = None) -> RunDirectory:
        """The directory of an earlier run, locked, to go on with it.

        With `config`, `InputError` names each key that differs from what the run began with: a resumed run
        must come to the same numbers.
        """
        kept = read_config(path / "config.yaml")
        if config is not None:
            refuse_changes(path, kept, kept_config(config))
        with _lock_kept_on_success(path) as lock:
            return cls(path, kept, lock)

    @staticmethod
    def find_latest(root: Path, experiment: str, config_hash: str | None = None) -> Path | None:
        """The newest run of `experiment` under `root`, of that configuration where a hash is given, or None.

        A folder without config.yaml was killed at birth and is passed over.
        """
        wanted = (config_hash or "")[:8]
        found: list[tuple[str, int, Path]] = []
        for path in root.iterdir() if root.is_dir() else ():
            match = _RUN_NAME.fullmatch(path.name)
            if match is None or match["experiment"] != experiment or not (path / "config.yaml").is_file():
                continue
            if not wanted or match["hash8"] == wanted:
                found.append((match["stamp"], int((match["same"] or "-1")[1:]), path))
        return max(found)[2] if found else None

    @property
    def stages_path(self) -> Path:
        return self.path / "stages"

    @property
    def work_path(self) -> Path:
        """For large intermediate files; deleted when the run is complete, unless `keep_work`."""
        return self.path / "work"

    @property
    def figures_path(self) -> Path:
        return self.path / "figures"

    @property
    def result_path(self) -> Path:
        return self.path / "result.json"

    def log(self, event: str, **fields: Any) -> None:
        """Adds a line to events.jsonl; secrets among `fields` become ids."""
        self._events.append(event, **fields)

    def events(self) -> list[dict[str, Any]]:
        return read_events(self._events.path)

    def seconds(self) -> float:
        """Seconds since the run first started."""
        return self._events.seconds()

    def save_stage(self, name: str, value: Any) -> Any:
        """Keeps a finished stage's value and returns it as `load_stage` will (tuples as lists).

        Go on with what is returned: then an uninterrupted run and a resumed one see the same values.
        """
        plain = require_plain(value, what=f"stage {name}")
        content = {"schema": _STAGE_SCHEMA, "name": name, "sha256": sha256_of(plain), "value": plain}
        write_json(self._stage_path(name), content)
        self.log("stage_saved", name=name)
        return plain

    def load_stage(self, name: str) -> Any | None:
        """A finished stage's value, or None where it is not done or its file is damaged (then noticed)."""
        path = self._stage_path(name)
        if not path.exists():
            return None
        try:
            return _stage_value(path, name)
        except InputError as error:
            self._notice(f"stage {name} is damaged and is done again: {error.problem}")
            return None

    def finish(self, result: Result, samples: Iterable[dict[str, Any]]) -> None:
        """Writes samples.jsonl, figures/, report.html and, last, result.json; then deletes work/.

        A failed or interrupted run keeps work/, since a resume goes on from it.
        """
        from .html import write_report  # here, since drawing loads what a run does not need before its end

        _write_samples(self.path / "samples.jsonl", samples)
        write_report(result, self.path)
        result.write(self.result_path)
        if result.status == "complete" and not self.keep_work:
            shutil.rmtree(self.work_path, ignore_errors=True)
        self.log("finish", status=result.status)

    def close(self) -> None:
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _stage_path(self, name: str) -> Path:
        if not _PLAIN_NAME.fullmatch(name):
            raise InputError("not a stage's name", expected="letters, digits, . _ -", received=repr(name))
        return self.stages_path / f"{name}.json"

    def _notice(self, message: str) -> None:
        self.notices.append(message)
        self.log("notice", message=message)


def _make_folder(root: Path, name: str) -> Path:
    if not _PLAIN_NAME.fullmatch(name):
        raise InputError("not an experiment's name", expected="letters, digits, . _ -", received=repr(name))
    root.mkdir(parents=True, exist_ok=True)
    for number in range(1, 1000):
        path = root / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir()  # the one step that two processes cannot both do
        except FileExistsError:
            continue
        return path
    raise InputError("a thousand runs of one configuration in one second", where=str(root / name))


@contextmanager
def _lock_kept_on_success(path: Path) -> Iterator[FileLock]:
    lock = FileLock(path / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            "another sixgig process is working in this run directory",
            where=str(path),
            todo="wait for it or stop it, then run the same command again",
        ) from error
    try:
        yield lock
    except BaseException:
        lock.release()
        raise


def _stage_value(path: Path, name: str) -> Any:
    content = parse(read_text(path, max_bytes=2**30), where=str(path))
    keys = {"schema", "name", "sha256", "value"}
    if not isinstance(content, dict) or set(content) != keys or content["schema"] != _STAGE_SCHEMA:
        raise IntegrityError("not a stage's file", where=str(path))
    if content["name"] != name or content["sha256"] != sha256_of(content["value"]):
        raise IntegrityError("its content is not what its digest says", where=str(path))
    return content["value"]


def _write_samples(path: Path, samples: Iterable[dict[str, Any]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as handle:
        for number, row in enumerate(samples, start=1):
            plain = require_plain(row, what=f"sample {number}")
            handle.write(json.dumps(plain, ensure_ascii=False) + "\n")
