"""events.jsonl: what happened in a run, one line an event, added as it happens and never rewritten.

A kill can tear the last line. Reading leaves a torn last line out; appending cuts it off first, so that the
next event does not grow onto its stump. A bad line anywhere else is damage, and is named.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from ..errors import IntegrityError
from ..files import full_disk_explained
from .identity import without_secrets
from .plain_json import parse, require_plain


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The events of `path`, and the number of bytes that hold them (a torn last line comes after)."""
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    stump = lines.pop()
    events: list[dict[str, Any]] = []
    good_bytes = 0
    for number, line in enumerate(lines, start=1):
        try:
            events.append(_event(line, where=f"{path}, line {number}"))
        except IntegrityError:
            if number == len(lines) and not stump:  # a power cut can leave a last line of the right length
                break
            raise
        good_bytes += len(line) + 1
    return events, good_bytes


def _event(line: bytes, *, where: str) -> dict[str, Any]:
    value = parse(line.decode("utf-8", errors="replace"), where=where)
    if not isinstance(value, dict) or not isinstance(value.get("seconds"), (int, float)):
        raise IntegrityError(
            "not an event", where=where, expected='{"seconds": ..., "event": ...}', received=repr(value)[:80]
        )
    return value


def read_events(path: Path) -> list[dict[str, Any]]:
    """Every whole event in order; `IntegrityError` names a damaged line that is not the last."""
    return _read(path)[0]


class EventLog:
    """Appends to one events.jsonl. Seconds count from the run's start and go on across a resume."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()  # memory is sampled by a thread of its own
        events, good_bytes = _read(path)
        if path.exists() and path.stat().st_size > good_bytes:
            os.truncate(path, good_bytes)
        first = events[0] if events else {}
        started_at = first.get("started_at_unix_seconds", time.time())
        last_seconds = max((event["seconds"] for event in events), default=0.0)
        # The wall clock joins the sessions (it may have been set back: never before the last event);
        # within a session the monotonic clock counts.
        self._offset = max(time.time() - started_at, last_seconds)
        self._origin = time.monotonic()
        if not events:
            self.append("start", started_at_unix_seconds=started_at)

    def seconds(self) -> float:
        """Seconds since the run's first start, pauses between sessions included."""
        return self._offset + time.monotonic() - self._origin

    def append(self, event: str, **fields: Any) -> None:
        """Adds one line and flushes it to the system, so that it outlives a kill of this process.

        Any thread may call it: lines stay whole, and in the order of their seconds.
        """
        plain = without_secrets(require_plain(fields, what=f"event {event}"))
        with self._lock:
            line = json.dumps({"seconds": round(self.seconds(), 3), "event": event, **plain})
            with full_disk_explained(self.path), self.path.open("ab") as handle:
                handle.write(line.encode("ascii") + b"\n")
