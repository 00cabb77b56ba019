"""What several verbs share: the --json option, sizes from text, tables for people, one JSON document."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

from ..cards import CARDS, Card, find_card, largest_card
from ..errors import InputError, UnknownNameError
from ..hardware import Hardware
from ..units import MIB, format_bytes, parse_bytes

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")
]
Vram = Annotated[
    str | None,
    typer.Option(
        "--vram",
        help="The card's memory, as in 6GiB, or its name, as in 'RTX 4050'; 0 means no card. "
        "Default: this machine's.",
    ),
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


def chosen_card(vram: str | None, hardware: Hardware) -> Card | None:
    """The card to plan for: the size or name that was asked, else the largest GPU here; None means no card.

    A size gives a card without bandwidth. A GPU that is here has its own memory, and the table's bandwidth
    where the table knows its name.
    """
    if vram is not None:
        return _asked_card(vram)
    return largest_card(hardware.gpus)


def _asked_card(text: str) -> Card | None:
    try:
        size = parse_bytes(text)
    except InputError:
        size = None
    if size is not None and size >= MIB:
        return Card(name=format_bytes(size), total_bytes=size)
    if size == 0 and not re.search("[1-9]", text):
        return None
    # What is left is a name; a bare "4050" is one too, since nobody means a card of 4050 bytes.
    try:
        return find_card(text)
    except UnknownNameError as error:
        raise InputError(
            "neither a size nor a card's name",
            expected=f"a number and a unit, as in 6GiB, or one of {', '.join(card.name for card in CARDS)}",
            received=repr(text),
            where="--vram",
            todo=error.todo or "give the size with its unit: 6GiB",
        ) from None


def device_bytes(vram: str | None, hardware: Hardware) -> int | None:
    """`chosen_card`'s memory; None means no card."""
    card = chosen_card(vram, hardware)
    return None if card is None else card.total_bytes


def ram_bytes(ram: str | None, hardware: Hardware) -> int:
    """The memory to plan for: what was asked, else this machine's."""
    return parse_bytes(ram, where="--ram") if ram is not None else hardware.ram_bytes


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
