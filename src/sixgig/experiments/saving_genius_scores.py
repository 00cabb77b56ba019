"""Scores of saving-genius, from saved numbers alone.

The unit is the question; a sum and its reverse count as one where intervals are drawn, and questions belong
to a seed. Every arm answers the same questions, so that all comparisons are paired.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..evaluate.statistics import Estimate, clopper_pearson, mcnemar, paired_perplexity_ratio
from ..evaluate.statistics.paired_accuracy import paired_accuracy_difference, paired_accuracy_ratio
from ..report.schema import Score
from .split_rows import FULL, score_row

ALPHA = None  # the arms have no switch: what is kept is in place


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one arm of one seed was seen to do. `right` and the others: measure -> question by question."""

    nlls: np.ndarray  # summed nats of each test window
    right: Mapping[str, np.ndarray]
    calibration: Mapping[str, np.ndarray] = field(default_factory=dict)
    control: Mapping[str, np.ndarray] = field(default_factory=dict)
    facts: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_stage(cls, value: Mapping[str, Any]) -> Look:
        def arrays(key: str) -> dict[str, np.ndarray]:
            return {name: np.asarray(right, dtype=float) for name, right in value.get(key, {}).items()}

        return cls(
            nlls=np.asarray(value["nlls"]),
            right=arrays("right"),
            calibration=arrays("calibration"),
            control=arrays("control"),
            facts=value.get("facts", {}),
        )


@dataclass
class GeniusScores:
    """`looks` by (seed, arm), every seed with the same arms; `units` of each seed's questions in their order.

    The first of `measures` decides.
    """

    looks: Mapping[tuple[int, str], Look]
    units: Mapping[int, Sequence[Hashable]]
    measures: Sequence[str]
    num_scored: int  # tokens of a test window that count
    seed: int = 0

    def __post_init__(self) -> None:
        self.arms = list(dict.fromkeys(arm for _, arm in self.looks))
        self.seeds = list(dict.fromkeys(seed for seed, _ in self.looks))
        self._units = [(seed, unit) for seed in self.seeds for unit in self.units[seed]]

    # ---- comparisons ---------------------------------------------------------------------------------

    @property
    def n(self) -> int:
        return len(self._units)

    def right(self, arm: str, measure: str | None = None, *, group: str = "right") -> np.ndarray:
        """1 or 0 for each question of all seeds in turn."""
        measure = measure or self.measures[0]
        return np.concatenate([getattr(self.looks[seed, arm], group)[measure] for seed in self.seeds])

    def accuracy(self, arm: str, measure: str | None = None, *, group: str = "right") -> Estimate:
        """Clopper and Pearson's interval, which counts every question as one."""
        right = self.right(arm, measure, group=group)
        count, n = int(right.sum()), len(right)
        return Estimate(value=count / n, interval=clopper_pearson(count, n), n=n)

    def keeps(self, arm: str, measure: str | None = None) -> Estimate | None:
        """Accuracy over full precision's; None where that is 0."""
        ours, full = self.right(arm, measure), self.right(FULL, measure)
        return paired_accuracy_ratio(ours, full, self._units, seed=self.seed)

    def difference(self, arm: str, other: str, measure: str | None = None) -> Estimate:
        """Accuracy of `arm` less that of `other`."""
        ours, theirs = self.right(arm, measure), self.right(other, measure)
        return paired_accuracy_difference(ours, theirs, self._units, seed=self.seed)

    def perplexity_ratio(self, arm: str, other: str | None) -> Estimate:
        """Over `other`'s; over 1 where that is None, which makes it the perplexity."""
        ours = np.stack([self.looks[seed, arm].nlls for seed in self.seeds])
        theirs = (
            np.zeros_like(ours)
            if other is None
            else np.stack([self.looks[seed, other].nlls for seed in self.seeds])
        )
        tokens = np.full(ours.shape[1], float(self.num_scored))
        return paired_perplexity_ratio(ours, theirs, tokens, seed=self.seed)

    # ---- rows ----------------------------------------------------------------------------------------

    def all(self) -> list[Score]:
        return [row for arm in self.arms for row in self._of_arm(arm)]

    def _of_arm(self, arm: str) -> Iterator[Score]:
        for measure in self.measures:
            yield from self._answers(arm, measure)
        key = (arm, ALPHA)
        yield score_row("perplexity", key, self.perplexity_ratio(arm, None), "perplexity", higher=False)
        if arm != FULL:
            ratio = self.perplexity_ratio(arm, FULL)
            yield score_row("ppl_ratio_full", key, ratio, "ratio", higher=False)
        for group in ("calibration", "control"):
            if getattr(self.looks[self.seeds[0], arm], group):
                for measure in self.measures:
                    found = self.accuracy(arm, measure, group=group)
                    name = self._named(f"accuracy_{group}", measure)
                    yield score_row(name, key, found, "share", higher=None)
        facts = self.looks[self.seeds[0], arm].facts
        units = {"base_bytes": "bytes", "ortho_bytes": "bytes", "ortho_bits_per_weight": "bits"}
        for name, unit in units.items():
            if name in facts:
                yield score_row(name, key, facts[name], unit, higher=None)

    def _answers(self, arm: str, measure: str) -> Iterator[Score]:
        key = (arm, ALPHA)
        yield score_row(
            self._named("accuracy", measure), key, self.accuracy(arm, measure), "share", higher=True
        )
        if arm == FULL:
            return
        kept = self.keeps(arm, measure)
        yield score_row(
            self._named("accuracy_kept", measure),
            key,
            kept,
            "share",
            higher=True,
            n=self.n,
            note="" if kept else "in full precision no question is answered rightly",
        )
        ours, full = (self.right(one, measure).astype(bool).tolist() for one in (arm, FULL))
        test = mcnemar(ours, full)
        yield score_row(
            self._named("accuracy_mcnemar_p_full", measure),
            key,
            test.p_value,
            "p",
            higher=None,
            n=self.n,
            note=f"right alone: {test.only_a} here, {test.only_b} in full precision{self._dependent()}",
        )

    def _dependent(self) -> str:
        """What McNemar's test takes for granted and these questions do not give it."""
        num_units = len(set(self._units))
        if num_units == self.n:
            return ""
        return f"; a sum and its reverse count as two questions ({num_units:,} of {self.n:,} are independent)"

    def _named(self, name: str, measure: str) -> str:
        return name if measure == self.measures[0] else f"{name}_{measure.replace('-', '_')}"
