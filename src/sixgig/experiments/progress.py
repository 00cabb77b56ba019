"""Live progress on stderr: what runs now, how far, and the time left.

Work is weighed beforehand in tokens through the model, so that the time left is honest from the first stage
on; a stage that was loaded from an interrupted run counts as done at once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ..units import format_seconds


class RunProgress:
    """`stages` maps each stage's name to its weight; `memory` says what is held now, in a few words.

    Use as a context manager.
    """

    def __init__(
        self,
        stages: Mapping[str, float],
        *,
        quiet: bool = False,
        memory: Callable[[], str] = lambda: "",
    ) -> None:
        self._memory = memory
        self._weights = dict(stages)
        self._total = sum(stages.values())
        self._skipped = 0.0
        self._done = 0.0
        self._stage = ""
        self._started = time.monotonic()
        self._last_line = 0.0
        console = Console(stderr=True, quiet=quiet)
        self._plain = not console.is_terminal and not quiet
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[left]}  {task.fields[memory]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=self._total, left="", memory="")

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def begin(self, stage: str) -> None:
        self._stage = stage
        self._show(0.0)

    def at(self, share: float) -> None:
        """`share` (0 to 1) of the current stage is done."""
        self._show(share)

    def end(self, *, loaded: bool = False) -> None:
        weight = self._weights.get(self._stage, 0.0)
        self._done += weight
        self._skipped += weight if loaded else 0.0
        self._show(0.0, finished=True)

    def note(self, message: str) -> None:
        """A line that stays."""
        if self._plain:
            print(message, file=sys.stderr, flush=True)
        else:
            self._bar.console.print(message)

    def _left(self, done: float) -> str:
        worked = done - self._skipped
        if worked <= 0.01 * self._total:
            return ""
        seconds = (time.monotonic() - self._started) / worked * (self._total - done)
        return f"{format_seconds(seconds)} left"

    def _show(self, share: float, *, finished: bool = False) -> None:
        weight = 0.0 if finished else self._weights.get(self._stage, 0.0)
        done = self._done + share * weight
        left, memory = self._left(done), self._memory()
        self._bar.update(self._task, completed=done, description=self._stage, left=left, memory=memory)
        now = time.monotonic()
        if self._plain and (now - self._last_line > 10 or (finished and now - self._last_line > 2)):
            self._last_line = now
            percent = 100 * done / self._total if self._total else 100
            line = "  ".join(part for part in (f"{percent:3.0f}%", self._stage, left, memory) if part)
            print(line, file=sys.stderr, flush=True)
