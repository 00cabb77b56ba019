"""`sixgig report`: a finished run's tables and page again, and two runs side by side; recomputes nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .common import Json, print_json

if TYPE_CHECKING:
    from ..report.compare import Comparison
    from ..report.run_set import RunSet
    from ..report.schema import Result

SET_FILE = "all.json"

EXAMPLES = (
    "sixgig report runs/kill-switch-20270102-030405-0a1b2c3d",
    "sixgig report RUN --compare RUN2",
    "sixgig report RUN --html",
    "sixgig report RUN RUN2 --json",
    "sixgig report runs/all-20270102-030405-0a1b2c3d",
)


def report(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Run folders, or their result.json; or the folder of `run all`."),
    ],
    compare: Annotated[
        str | None, typer.Option("--compare", metavar="RUN2", help="Show this run beside each RUN.")
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help="Print nothing but the page's path, one line a run.")
    ] = False,
    json: Json = False,
) -> None:
    """Tables and page of finished runs, from their result.json."""
    if html and json:
        raise InputError("--html and --json both claim stdout", todo="give one of them")
    # everything is read and compared before anything is written
    sets = [_read_set(run) for run in runs if _is_set(run)]
    results = [_read(run) for run in runs if not _is_set(run)]
    if compare is not None:
        _refuse_sets(compare, *runs)
    comparisons = _comparisons(results, compare) if compare is not None else []
    pages = _write(results)
    set_pages = _write_sets(sets)
    if json:
        print_json(_document(results, pages, comparisons) | _set_document(sets, set_pages))
    elif html:
        sys.stdout.write("".join(f"{page}\n" for page in [*pages, *set_pages]))
    else:
        _print(results, pages, comparisons)
        _print_sets(sets)


def _is_set(run: str) -> bool:
    """Whether this is what `sixgig run all` left behind."""
    return Path(run).name == SET_FILE or (Path(run) / SET_FILE).is_file()


def _read_set(run: str) -> tuple[Path, RunSet]:
    from ..report.run_set import RunSet

    folder = Path(run).parent if Path(run).name == SET_FILE else Path(run)
    return folder, RunSet.read(folder)


def _refuse_sets(*runs: str) -> None:
    for run in filter(_is_set, runs):
        raise InputError(
            "--compare holds two runs of one experiment against each other, and this is a set of several",
            received=run,
            todo="name a run directory within each set",
        )


def _write_sets(sets: list[tuple[Path, RunSet]]) -> list[Path]:
    """The sets' pages, and those of every run within."""
    from ..report.html import write_report
    from ..report.run_set_page import write_page
    from ..report.schema import Result

    for folder, found in sets:
        for part in found.parts:
            if part.status == "complete" and part.folder:
                write_report(Result.read(folder / part.folder / "result.json"), folder / part.folder)
    return [write_page(found, folder) for folder, found in sets]


def _print_sets(sets: list[tuple[Path, RunSet]]) -> None:
    from .run import show_set  # not above: it brings in what running needs

    for folder, found in sets:
        show_set(found, folder)


def _set_document(sets: list[tuple[Path, RunSet]], pages: list[Path]) -> dict[str, Any]:
    """Nothing where only single runs were named, so that their document is what it was."""
    found = [
        {"folder": str(folder), "page": str(page), "summary": one.to_json_value()}
        for (folder, one), page in zip(sets, pages, strict=True)
    ]
    return {"sets": found} if found else {}


def _read(run: str) -> tuple[Path, Result]:
    """The run's folder and its result; `InputError` where the run has none yet."""
    from ..report.schema import Result

    path = Path(run)
    folder = path.parent if path.name == "result.json" else path
    if folder.is_dir() and not (folder / "result.json").exists():
        raise InputError(
            "this run has no result yet",
            expected="a finished run's folder",
            where=str(folder),
            todo="finish it with the same `sixgig run` command and --resume",
        )
    return folder, Result.read(folder / "result.json")


def _comparisons(results: list[tuple[Path, Result]], other: str) -> list[Comparison]:
    from ..report.compare import compare

    right_folder, right = _read(other)
    return [
        compare(left, right, left_name=_name(folder), right_name=_name(right_folder))
        for folder, left in results
    ]


def _name(folder: Path) -> str:
    return folder.resolve().name


def _write(results: list[tuple[Path, Result]]) -> list[Path]:
    from ..report.html import write_report

    return [write_report(result, folder) for folder, result in results]


def _document(
    results: list[tuple[Path, Result]], pages: list[Path], comparisons: list[Comparison]
) -> dict[str, Any]:
    reports = [
        {"run": str(folder), "page": str(page), "passed": result.passed, "result": result.to_json_value()}
        for (folder, result), page in zip(results, pages, strict=True)
    ]
    return {
        "schema": "sixgig.report/1",
        "reports": reports,
        "comparisons": [comparison.to_json_value() for comparison in comparisons],
    }


def _print(results: list[tuple[Path, Result]], pages: list[Path], comparisons: list[Comparison]) -> None:
    from rich.console import Console

    from ..report.compare import comparison_tables
    from ..report.labels import visible
    from ..report.story import tell
    from ..report.tables import terminal_tables

    # A pipe or file has no width of its own; 120 keeps rows on one line there.
    console = Console(width=None if sys.stdout.isatty() else 120)
    for (folder, result), page in zip(results, pages, strict=True):
        console.print(_name(folder), markup=False, highlight=False)
        for table in terminal_tables(result):
            console.print(table)
        console.print(visible(tell(result).headline), markup=False, highlight=False)
        console.print(f"page: {page}\n", markup=False, highlight=False, soft_wrap=True)
    for comparison in comparisons:
        for table in comparison_tables(comparison):
            console.print(table.to_rich())
