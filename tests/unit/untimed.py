"""What two runs must have alike: everything but how long it took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sixgig.report.schema import Score


def untimed_scores(scores: Iterable[Score]) -> list[Score]:
    """Without those that are seconds."""
    return [score for score in scores if score.unit != "s"]


def untimed_facts(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each arm's, without seconds."""
    return {
        arm: {name: value for name, value in own.items() if not name.endswith("_seconds")}
        for arm, own in facts.items()
    }
