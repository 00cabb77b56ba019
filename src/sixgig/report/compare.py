"""Two results of one experiment side by side: what differs, by how much, and whether the intervals meet.

Intervals that do not overlap are a sure sign of a difference; intervals that do are no proof that there is
none, and nothing here says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .identity import config_differences
from .labels import alpha_label, arm_label, condition_label, format_value, score_label
from .plain_json import canonical
from .schema import Result, Score
from .table import Cell, Table
from .tables import score_cell

SCHEMA = "sixgig.comparison/1"


@dataclass(frozen=True, kw_only=True)
class ScorePair:
    """One place in both results; a side is None where that result lacks it."""

    left: Score | None
    right: Score | None

    @property
    def either(self) -> Score:
        found = self.left or self.right
        assert found is not None
        return found

    @property
    def difference(self) -> float | None:
        """Right minus left; None where a value is missing or the two are versions of different measures."""
        if self.left is None or self.right is None or not self.is_same_measure:
            return None
        if self.left.value is None or self.right.value is None:
            return None
        return self.right.value - self.left.value

    @property
    def is_same_measure(self) -> bool:
        if self.left is None or self.right is None:
            return False
        return (self.left.version, self.left.unit) == (self.right.version, self.right.unit)

    @property
    def intervals_apart(self) -> bool | None:
        """Whether the two intervals have no point in common; None where one of the four ends is missing."""
        if self.difference is None or self.left is None or self.right is None:
            return None
        ends = (self.left.low, self.left.high, self.right.low, self.right.high)
        if any(end is None for end in ends):
            return None
        left_low, left_high, right_low, right_high = (float(end) for end in ends if end is not None)
        return left_high < right_low or right_high < left_low


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`left` and `right` are the names under which the two results are shown."""

    experiment: str
    left: str
    right: str
    pairs: tuple[ScorePair, ...]
    config_differences: dict[str, tuple[Any, Any]]

    def to_json_value(self) -> dict[str, Any]:
        """Plain values, every pair of scores included."""
        differences = {
            name: {"left": pair[0], "right": pair[1]} for name, pair in self.config_differences.items()
        }
        return {
            "schema": SCHEMA,
            "experiment": self.experiment,
            "left": self.left,
            "right": self.right,
            "config_differences": differences,
            "scores": [_pair_value(pair) for pair in self.pairs],
        }


def compare(left: Result, right: Result, *, left_name: str = "left", right_name: str = "right") -> Comparison:
    """Pairs every score of `left` with the one at the same place of `right`.

    Raises `InputError` for results of different experiments: their scores share names, not meanings.
    """
    if left.experiment != right.experiment:
        raise InputError(
            "two different experiments cannot be compared",
            expected=f"two runs of {left.experiment}",
            received=f"{left_name} is {left.experiment}, {right_name} is {right.experiment}",
            todo="name two runs of one experiment",
        )
    lefts, rights = _by_place(left), _by_place(right)
    places = dict.fromkeys((*lefts, *rights))
    return Comparison(
        experiment=left.experiment,
        left=left_name,
        right=right_name,
        pairs=tuple(ScorePair(left=lefts.get(place), right=rights.get(place)) for place in places),
        config_differences=config_differences(left.config, right.config),
    )


def comparison_tables(comparison: Comparison) -> list[Table]:
    """The configuration's differences, then the scores side by side."""
    return [_config_table(comparison), _score_table(comparison)]


def _by_place(result: Result) -> dict[tuple[str, str, float | None, str], Score]:
    return {(score.name, score.arm, score.alpha, score.condition): score for score in result.scores}


def _config_table(comparison: Comparison) -> Table:
    rows = [
        (Cell(text=name), Cell(text=_plain(pair[0])), Cell(text=_plain(pair[1])))
        for name, pair in comparison.config_differences.items()
    ]
    return Table(
        title="What was set differently" if rows else "Both runs had the same settings",
        columns=("Setting", comparison.left, comparison.right),
        rows=tuple(rows),
        num_labels=3,
    )


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else canonical(value)


def _score_table(comparison: Comparison) -> Table:
    return Table(
        title="Scores side by side",
        columns=("Measure", "Model", "alpha", "Condition", comparison.left, comparison.right, "Difference"),
        rows=tuple(_score_row(pair) for pair in comparison.pairs),
        num_labels=4,
        caption="Difference: right minus left. Marked where the two intervals do not overlap.",
    )


def _score_row(pair: ScorePair) -> tuple[Cell, ...]:
    score = pair.either
    words = (
        score_label(score.name),
        arm_label(score.arm),
        alpha_label(score.alpha),
        condition_label(score.condition),
    )
    return (
        *(Cell(text=word) for word in words),
        score_cell(pair.left),
        score_cell(pair.right),
        _difference_cell(pair),
    )


def _difference_cell(pair: ScorePair) -> Cell:
    score, difference = pair.either, pair.difference
    if difference is None:
        changed = pair.left is not None and pair.right is not None and not pair.is_same_measure
        return Cell(text="-", detail="defined differently" if changed else "")
    sign = "+" if difference >= 0 else "-"
    text = f"{sign}{format_value(abs(difference), score.name, score.unit)}"
    if not pair.intervals_apart:
        return Cell(text=text)
    if score.higher_is_better is None:
        return Cell(text=text, detail="intervals apart", tone="unknown")
    is_better = (difference > 0) == score.higher_is_better
    return Cell(text=text, detail="intervals apart", tone="good" if is_better else "bad")


def _pair_value(pair: ScorePair) -> dict[str, Any]:
    score = pair.either
    return {
        "name": score.name,
        "arm": score.arm,
        "alpha": score.alpha,
        "condition": score.condition,
        "left": None if pair.left is None else pair.left.model_dump(mode="json"),
        "right": None if pair.right is None else pair.right.model_dump(mode="json"),
        "difference": pair.difference,
        "intervals_apart": pair.intervals_apart,
    }
