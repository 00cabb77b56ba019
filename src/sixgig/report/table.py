"""A table of words and numbers, built once and printed on a terminal, in Markdown or in a page.

What differs between the three is only how a cell is dressed; the page's template dresses its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import rich.table
from rich import box
from rich.console import Group, RenderableType
from rich.text import Text

from .labels import visible

Tone = Literal["", "good", "bad", "unknown"]
_RICH_STYLES: dict[Tone, str] = {"": "", "good": "green", "bad": "bold red", "unknown": "yellow"}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """`text`, and under it `detail` (an interval, a note) in smaller type."""

    text: str
    detail: str = ""
    tone: Tone = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """`columns` are headers; every row has one cell a column. The first `num_labels` columns are words."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    num_labels: int = 1
    caption: str = ""

    def to_rich(self) -> RenderableType:
        """For a terminal. Text is never read as Rich markup."""
        if not self.caption:
            return self._rich_table()
        # Below the table, not as its own caption: that is as wide as the table, and cut on narrow terminals.
        return Group(self._rich_table(), Text(self.caption, style="dim italic"))

    def _rich_table(self) -> rich.table.Table:
        table = rich.table.Table(title=Text(self.title), title_justify="left", box=box.SIMPLE_HEAD)
        table.collapse_padding, table.pad_edge = True, False  # nine columns of numbers must fit into 80
        for place, header in enumerate(self.columns):
            justify = "left" if place < self.num_labels else "right"
            # Where the terminal is narrow, words give way and numbers stay whole; of more columns than
            # that Rich would cut the last ones off.
            whole = place >= self.num_labels and len(self.columns) <= 8
            cells = [row[place] for row in self.rows]
            width = _longest_word(cells) if whole else 0
            # Rich shrinks all columns alike and only then minds `min_width`, so that the table grows too wide
            # and is cut; a column that cannot be broken anyway is therefore kept out of it.
            fixed = whole and _has_no_blank(header, cells)
            table.add_column(Text(header), justify=justify, overflow="fold", min_width=width, no_wrap=fixed)
        for row in self.rows:
            table.add_row(*(_rich_text(cell) for cell in row))
        return table

    def to_markdown(self) -> str:
        """For README and docs; ends in a newline."""
        marks = ["---" if place < self.num_labels else "---:" for place in range(len(self.columns))]
        lines = [_markdown_row(self.columns), _markdown_row(marks, escape=False)]
        lines += [_markdown_row(f"{cell.text} {cell.detail}".strip() for cell in row) for row in self.rows]
        return "\n".join(lines) + "\n"


def _longest_word(cells: Iterable[Cell]) -> int:
    words = [word for cell in cells for word in _rich_text(cell).plain.split()]
    return max(map(len, words), default=0)


def _has_no_blank(header: str, cells: Iterable[Cell]) -> bool:
    lines = [header, *(line for cell in cells for line in _rich_text(cell).plain.splitlines())]
    return all(len(line.split()) <= 1 for line in lines)


def _rich_text(cell: Cell) -> Text:
    text = Text(visible(cell.text), style=_RICH_STYLES[cell.tone])
    if cell.detail:
        # [1.10, 1.80] as 1.10..1.80: shorter, and never broken over two lines
        short = re.sub(r"^\[(.+), (.+)\](%?)$", r"\1..\2\3", visible(cell.detail))
        text.append(f"\n{short}", style="dim")
    return text


def _markdown_row(cells: Iterable[str], *, escape: bool = True) -> str:
    texts = [visible(text).replace("\n", " ") for text in cells]
    if escape:
        texts = [text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;") for text in texts]
    return f"| {' | '.join(texts)} |"
