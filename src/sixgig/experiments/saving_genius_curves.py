"""What is kept of a skill against how many weights are kept whole: a line a score, and one for each fit."""

from __future__ import annotations

from collections.abc import Iterator

from ..report.schema import Curve
from .saving_genius_config import SavingGeniusConfig
from .saving_genius_names import Arm, arms
from .saving_genius_scores import GeniusScores


def curves(config: SavingGeniusConfig, scores: GeniusScores) -> list[Curve]:
    """Of the first measure. A line begins at the Base alone; arms of fitted parts have lines of their own."""
    base = Arm(bits=config.bits)
    lines: dict[tuple[str, bool], list[Arm]] = {}
    for arm in arms(config):
        if arm.score is not None and arm.bits == config.bits:
            lines.setdefault((arm.score, arm.fitted), [base]).append(arm)
    return [
        curve
        for (score, fitted), points in lines.items()
        for curve in _curve(f"int{config.bits}-{score}{'-fitted' if fitted else ''}", points, scores)
    ]


def _curve(name: str, points: list[Arm], scores: GeniusScores) -> Iterator[Curve]:
    found = [(arm, scores.keeps(arm.name)) for arm in sorted(points, key=lambda arm: arm.share)]
    known = [(arm, kept) for arm, kept in found if kept is not None]
    if not known:
        return
    yield Curve(
        name="what is kept of the skill",
        arm=name,
        x_label="weights kept whole (%)",
        y_label="right answers / full precision's",
        x=[100 * arm.share for arm, _ in known],
        y=[kept.value for _, kept in known],
        low=[kept.interval.low for _, kept in known],
        high=[kept.interval.high for _, kept in known],
    )
