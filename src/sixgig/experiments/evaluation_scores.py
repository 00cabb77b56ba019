"""The scores of `sixgig eval` from what its stages kept: intervals, floors, and what could have been seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..evaluate.harness_intervals import Spread, spread, values_of
from ..report.schema import Score, Verdict

VISIBLE = "visible_difference"
# MMLU's 57 subjects stand in samples.jsonl, too few questions each for a score of their own unless asked for.
GROUPS = ("mmlu_stem", "mmlu_other", "mmlu_social_sciences", "mmlu_humanities")


class EvaluationScores:
    """`kept` is what each task's stage kept: lm-eval's scores and its rows, one a document and filter."""

    def __init__(self, kept: Mapping[str, Mapping[str, Any]], *, arm: str, alpha: float | None) -> None:
        self._arm, self._alpha = arm, alpha
        self._rows = [
            (score, spread(score["value"], score["stderr"], values, score["metric"]))
            for asked, task in kept.items()
            for score in task["scores"]
            if score["task"] == asked or score["task"] in GROUPS
            for values in [values_of(task["samples"], score["task"], score["metric"], score["filter"])]
        ]

    def all(self) -> list[Score]:
        """Every metric, and after it the smallest difference that it could have seen."""
        return [row for score, found in self._rows for row in self._both(score, found)]

    def verdicts(self) -> list[Verdict]:
        """Whether a task with a floor lies above it. Told, never counted: an evaluation sets no criterion."""
        return [
            self._above_floor(score, found)
            for score, found in self._rows
            if score["floor"] is not None and found is not None
        ]

    def warnings(self) -> list[str]:
        """One for each interval that holds what guessing gets."""
        return [
            f"{score_name(score)}: {score['value']:.1%} ({found.low:.1%} to {found.high:.1%}, "
            f"n = {score['n']:,}) is not above {score['floor']:.0%}, what guessing gets: that something was "
            "retained, or lost, cannot be seen here"
            for score, found in self._rows
            if score["floor"] is not None and found is not None and found.low <= score["floor"]
        ]

    def _both(self, score: Mapping[str, Any], found: Spread | None) -> Iterator[Score]:
        name, unit = score_name(score), _unit(score["metric"])
        floor = "" if score["floor"] is None else f"guessing gets {score['floor']:.0%}; "
        yield self._score(
            name,
            score["value"],
            low=None if found is None else found.low,
            high=None if found is None else found.high,
            n=score["n"],
            unit=unit,
            higher_is_better=score["higher_is_better"],
            note=floor + ("too few documents for an interval" if found is None else found.how),
        )
        if found is not None:
            yield self._score(
                f"{name}.{VISIBLE}",
                found.visible_difference,
                n=score["n"],
                unit=unit,
                higher_is_better=False,
                note="found in 80 of 100 pairs of runs on documents of their own, at 5%; "
                "on the same documents smaller ones are",
            )

    def _score(self, name: str, value: float, **fields: Any) -> Score:
        return Score(name=name, arm=self._arm, alpha=self._alpha, value=value, **fields)

    def _above_floor(self, score: Mapping[str, Any], found: Spread) -> Verdict:
        floor = score["floor"]
        return Verdict(
            criterion=f"{score_name(score)} above guessing",
            arm=self._arm,
            threshold=f"interval above {floor:.0%}",
            value=score["value"],
            low=found.low,
            high=found.high,
            passed=True if found.low > floor else False if found.high < floor else None,
            note="" if found.low > floor else "what guessing gets is not excluded",
            counts=False,
        )


def score_name(score: Mapping[str, Any]) -> str:
    """ "gsm8k.exact_match.strict-match"; the filter is left out where lm-eval has none."""
    parts = (score["task"], score["metric"], "" if score["filter"] == "none" else score["filter"])
    return ".".join(part for part in parts if part)


def samples(
    kept: Mapping[str, Mapping[str, Any]], *, arm: str, alpha: float | None
) -> Iterator[dict[str, Any]]:
    """One row a document and filter."""
    for task in kept.values():
        for row in task["samples"]:
            yield {"kind": "document", "arm": arm, "alpha": alpha, **row}


def joined(kept: Mapping[str, Mapping[str, Any]], name: str) -> Sequence[Any]:
    """The stages' lists under `name`, without repetition."""
    return list(dict.fromkeys(item for task in kept.values() for item in task[name]))


def _unit(metric: str) -> str:
    if metric.endswith("perplexity"):
        return "perplexity"
    return "bits" if metric == "bits_per_byte" else "share"
