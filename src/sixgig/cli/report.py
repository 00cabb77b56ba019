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
    from ..report.schema import Result

EXAMPLES = (
    "sixgig report runs/kill-switch-20270102-030405-0a1b2c3d",
    "sixgig report RUN --compare RUN2",
    "sixgig report RUN --html",
    "sixgig report RUN RUN2 --json",
)


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Run folders, or their result.json.")],
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
    results = [_read(run) for run in runs]
    comparisons = _comparisons(results, compare) if compare is not None else []
    pages = _write(results)
    if json:
        print_json(_document(results, pages, comparisons))
    elif html:
        sys.stdout.write("".join(f"{page}\n" for page in pages))
    else:
        _print(results, pages, comparisons)


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
