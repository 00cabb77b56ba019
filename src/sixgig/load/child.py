"""Runs one other program for a fetch step: quiet on the terminal, watched while it works, never left behind.

pip and the converter run as processes of their own: their memory goes back to the system when they end, their
bars and warnings stay off the terminal, and what they wrote to stderr is at hand when they fail.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the program ended, and its whole stdout and stderr."""

    status: int
    stdout: str
    stderr: str


def run_child(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    on_tick: Callable[[], None] | None = None,
    tick_seconds: float = 0.25,
) -> Outcome:
    """Runs `command` to its end, calling `on_tick` meanwhile; an interruption here ends the program too."""
    # Files, not pipes: a pipe that nobody reads while we wait would stop a talkative program.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=os.environ | dict(environment or {}),
        )
        try:
            while (status := _wait(child, tick_seconds)) is None:
                if on_tick:
                    on_tick()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        return Outcome(status=status, stdout=_read(out), stderr=_read(err))


def summarise(stderr: str, *, max_lines: int = 3) -> str:
    """The lines that say what failed: those marked ERROR, else the last; passwords in addresses hidden."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    telling = [line for line in lines if line.upper().startswith("ERROR")] or lines
    return re.sub(r"://[^/\s@]+@", "://***@", " | ".join(telling[-max_lines:])) or "nothing on stderr"


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below `folder`; one that vanishes meanwhile counts as nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _wait(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return child.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None


def _read(handle: IO[bytes]) -> str:
    handle.seek(0)
    return handle.read().decode("utf-8", errors="replace")
