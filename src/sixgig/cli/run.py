"""`sixgig run`: an experiment from settings to report; exit 1 when a criterion failed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from ..errors import InputError
from ..experiments.run import EXPERIMENTS, Finished, Request, prepare
from ..experiments.run import run as run_experiment
from ..experiments.run_all import ALL, plan_all, run_all, set_members
from ..experiments.settings import as_plain, parse_words
from ..experiments.shared_settings import settings_over
from ..files import read_text
from ..hardware import probe
from ..units import format_bytes
from .common import Json, chosen_card, print_json, say

if TYPE_CHECKING:
    from ..report.run_set import RunSet

EXAMPLES = (
    "sixgig run kill-switch",
    "sixgig run kill-switch --preset cpu -s seeds=0,1 -s bits=3",
    "sixgig run null-test --data-dir data",
    "sixgig run performance --preset 6g",
    "sixgig run kill-switch --vram 6GiB",
    "sixgig run kill-switch --resume",
    "sixgig run kill-switch --dry-run --json",
    "sixgig run all --preset cpu -s seeds=1 -s kill-switch.bits=3",
    "sixgig run all --resume",
)


def run(
    experiment: Annotated[str, typer.Argument(help=f"One of: {', '.join(EXPERIMENTS)}; or all.")],
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help="tiny, cpu, 4g, 6g, 8g, full; kill-switch: compare. Default: by the hardware.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="A model's name or folder; auto: the largest that fits.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu or cuda. Default: what is here.")
    ] = None,
    vram: Annotated[
        str | None,
        typer.Option("--vram", help="Take no more of the GPU than this, or than this card has, as in 6GiB."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", "-s", help="key=value; may be given many times. With all: kill-switch.key=value for one."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="A YAML file of settings, such as a run's config.yaml.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Benchmark files. Default: SIXGIG_DATA, else own text.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Where run directories go.")] = Path("runs"),
    cache_dir: Annotated[
        Path | None,
        typer.Option("--cache-dir", help="Where models lie. Default: SIXGIG_CACHE, else the user's."),
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="How many seeds: 0, 1, ...")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the newest run in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything; load nothing.")] = False,
    json: Json = False,
) -> None:
    """Run an experiment. Interrupt it at any moment; --resume comes to the same numbers."""
    typed: dict[str, Any] = {} if model is None else {"model": model}
    if seeds is not None:
        typed["seeds"] = list(range(seeds))
    typed |= parse_words(setting or [])
    if preset is not None:
        typed["preset"] = preset
    filed = _from_file(config) if config else {}
    if experiment == ALL:
        settings: dict[str, Any] = settings_over({str(config): filed, "-s": typed}, set_members())
    else:
        settings = filed | typed
    named = settings.pop("preset", None)  # it is where the other settings start from, not one beside them
    request = Request(
        experiment=experiment,
        preset=None if named is None else str(named),
        settings=settings,
        device=device,
        data_dir=data_dir,
        out=out,
        resume=resume,
        cache_dir=cache_dir,
        quiet=json,
        vram_bytes=_vram_bytes(vram),
    )
    if experiment == ALL:
        _run_all(request, dry_run=dry_run, json=json)
        return
    if dry_run:
        _show_plan(request, json)
        return
    show(run_experiment(request, announce=say), json)


def _vram_bytes(vram: str | None) -> int | None:
    if vram is None:
        return None
    card = chosen_card(vram, probe())
    return 0 if card is None else card.total_bytes


def show(finished: Finished, json: bool) -> None:
    """Prints the answer; exits with 1 when a criterion failed."""
    result = finished.result
    if json:
        print_json({"folder": str(finished.folder), "result": result.to_json_value()})
    else:
        from rich.console import Console

        from ..report.tables import terminal_tables

        console = Console()
        for table in terminal_tables(result):
            console.print(table)
        print(f"report: {finished.report}")
    if result.passed is False:
        raise typer.Exit(1)


def _show_plan(request: Request, json: bool) -> None:
    prepared = prepare(request)
    for note in prepared.notes:
        say(note)
    value = {
        "experiment": request.experiment,
        "device": prepared.device,
        "plan": prepared.plan,
        "config": as_plain(prepared.config),
    }
    if json:
        print_json(value)
        return
    print(yaml.safe_dump(value["config"], sort_keys=False), end="")
    say(f"on {prepared.device}, about {format_bytes(prepared.plan['peak_bytes'])}; nothing was loaded")


def _run_all(request: Request, *, dry_run: bool, json: bool) -> None:
    if dry_run:
        _show_plans(request, json)
        return
    from .main import explain  # not above: main imports every verb's module only when it is called

    found, folder = run_all(request, explain=explain, announce=say)
    if json:
        print_json({"folder": str(folder), "summary": found.to_json_value()})
    else:
        show_set(found, folder)
    if found.exit_status:
        raise typer.Exit(found.exit_status)


def show_set(found: RunSet, folder: Path) -> None:
    """The set's table, its answer in a sentence, and where its page is."""
    from rich.console import Console

    from ..report.labels import visible
    from ..report.run_set_page import PAGE, headline, summary_table

    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(summary_table(found).to_rich())
    console.print(visible(headline(found)), markup=False, highlight=False)
    lines = [f"failed: {part.experiment}: {item.criterion}" for part in found.parts for item in part.failed]
    lines += [f"{part.status}: {part.experiment}: {part.reason}" for part in found.parts if part.reason]
    for line in lines:
        console.print(visible(line), markup=False, highlight=False)
    console.print(f"page: {folder / PAGE}", markup=False, highlight=False, soft_wrap=True)


def _show_plans(request: Request, json: bool) -> None:
    parts = plan_all(request)
    if json:
        print_json({"experiment": ALL, "experiments": [part.to_json_value() for part in parts]})
        for part in parts:
            if part.refusal is not None:
                say(part.in_words())
    else:
        sections = {part.name: as_plain(part.config) for part in parts}
        print(yaml.safe_dump(sections, sort_keys=False), end="")
        for part in parts:
            for note in part.prepared.notes if part.prepared else ():
                say(f"{part.name}: {note}")
            say(part.in_words())
        say("nothing was loaded")
    if any(part.refusal is not None for part in parts):
        raise typer.Exit(1)


def _from_file(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(read_text(path, max_bytes=2**20))
    except yaml.YAMLError as error:
        raise InputError("not valid YAML", where=str(path), received=str(error).splitlines()[0]) from error
    if not isinstance(value, dict):
        raise InputError("not settings", where=str(path), expected="lines of key: value")
    # A run directory's config.yaml also says where it ran, which is not a setting.
    return {key: part for key, part in value.items() if key not in ("experiment", "device", "public_text")}
