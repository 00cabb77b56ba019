"""`sixgig demo`: the first thing a newcomer runs. Fetches the embedded model, then the kill switch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..catalogue import EMBEDDED, resolve
from ..experiments.run import Request, prepare
from ..experiments.run import run as run_experiment
from ..load.fetch import fetch, is_fetched
from .common import Json, say
from .fetch import shown_progress, size_message
from .run import show

EXAMPLES = ("sixgig demo", "sixgig demo --preset tiny")


def demo(
    preset: Annotated[str | None, typer.Option("--preset", help="Default: by the hardware.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Where the run directory goes.")] = Path("runs"),
    json: Json = False,
) -> None:
    """Fetch the embedded model and prove the kill switch on it, in minutes."""
    request = Request(experiment="kill-switch", preset=preset, settings={}, out=out, quiet=json)
    prepare(request)  # what cannot run is refused before anything is downloaded
    spec = resolve(EMBEDDED)
    if not is_fetched(spec.name):
        say(size_message(spec))
        with shown_progress() as progress:
            fetch(spec.name, progress=progress)
    show(run_experiment(request), json)
