"""What several verbs share: the --json option, sizes from text, tables for people, one JSON document."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

from ..hardware import Hardware
from ..units import parse_bytes

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")
]
Vram = Annotated[
    str | None,
    typer.Option("--vram", help="The card's memory, as in 6GiB; 0 means no card. Default: this machine's."),
]
Ram = Annotated[
    str | None, typer.Option("--ram", help="The machine's memory, as in 16GiB. Default: this machine's.")
]


def print_json(value: Any) -> None:
    """One JSON document on stdout; NaN and Infinity are refused, since they are not JSON."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def say(message: str) -> None:
    """A line for people, on stderr."""
    print(message, file=sys.stderr)


def device_bytes(vram: str | None, hardware: Hardware) -> int | None:
    """The card to plan for: what was asked, else the largest GPU here; None means no card."""
    if vram is not None:
        return parse_bytes(vram) or None
    return max((gpu.total_bytes for gpu in hardware.gpus), default=None)


def ram_bytes(ram: str | None, hardware: Hardware) -> int:
    """The memory to plan for: what was asked, else this machine's."""
    return parse_bytes(ram) if ram is not None else hardware.ram_bytes


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """A table on stdout, drawn for the terminal's width."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # Text, not markup: a name from outside with [brackets] is shown as it is.
        table.add_row(*(Text(cell) for cell in row))
    # A pipe or file has no width of its own; 120 keeps rows on one line there.
    Console(width=None if sys.stdout.isatty() else 120).print(table)
