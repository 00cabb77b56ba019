"""A score as a cell of a table."""

from __future__ import annotations

from .labels import format_interval, format_value
from .schema import Score
from .table import Cell

NOT_KNOWN = "not known"


def score_cell(score: Score | None) -> Cell:
    """A score as a cell: value over interval; its note where it has no value; a dash where it is absent."""
    if score is None:
        return Cell(text="-")
    if score.value is None:
        return Cell(text=NOT_KNOWN, detail=score.note, tone="unknown")
    return Cell(
        text=format_value(score.value, score.name, score.unit),
        detail=format_interval(score.low, score.high, score.name, score.unit),
    )
