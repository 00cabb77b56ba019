"""Scores and verdicts of the null test, from saved numbers alone. Criteria were fixed before the first run.

The unit is the window of text for perplexity and the question for MMLU; every comparison is paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..evaluate.multiple_choice import Outcome
from ..evaluate.statistics import (
    Estimate,
    bootstrap_stratified_mean,
    mcnemar,
    paired_perplexity_ratio,
    paired_recovered_share,
    size_to_decide,
)
from ..report.schema import Score, Verdict
from .split_rows import FULL, SPLIT, Key, at_most, score_row

MAX_PPL_RATIO = 1.05  # of alpha = 0 to INT4, as earlier implementations asked
GUESSING = 0.25  # MMLU has four choices


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one arm was seen to do: summed NLL in nats of each window, and its answers in one fixed order."""

    nlls: np.ndarray
    answers: tuple[Outcome, ...]

    @classmethod
    def from_stage(cls, value: Mapping[str, Any]) -> Look:
        answers = [Outcome(**(one | {"nlls": tuple(one["nlls"])})) for one in value["answers"]]
        return cls(nlls=np.asarray(value["nlls"]), answers=tuple(answers))


@dataclass
class NullTestScores:
    """`looks` by (arm, alpha): the full precision, the plain one named `plain_arm`, and the split at 0 and 1.

    `compared` is what the stage that compared logits kept; `subject_sizes` weigh MMLU's subjects.
    """

    looks: Mapping[Key, Look]
    num_scored: Sequence[int]
    plain_arm: str
    compared: Mapping[str, Any]
    facts: Mapping[str, float]
    subject_sizes: Mapping[str, float]
    seed: int = 0
    scores: list[Score] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.full, self.plain = self.looks[FULL, None], self.looks[self.plain_arm, None]
        self.base, self.whole = self.looks[SPLIT, 0.0], self.looks[SPLIT, 1.0]

    # ---- scores --------------------------------------------------------------------------------------

    def all(self) -> list[Score]:
        for key, look in self.looks.items():
            self._perplexity(key, look)
            self._mmlu(key, look)
        recovered = self.recovered()
        self._add("loss_recovered", (SPLIT, 1.0), recovered, "share", higher=True, note=_NO_LOSS)
        self._value(
            "largest_logit_difference",
            (SPLIT, 0.0),
            self.compared["alpha0"],
            "",
            n=self.compared["num_tokens"],
            note="from INT4's on the same tokens; 0 is equality to the bit",
        )
        for name, unit in (
            ("base_bytes", "bytes"),
            ("ortho_bytes", "bytes"),
            ("ortho_bits_per_weight", "bits"),
        ):
            self._value(name, (SPLIT, None), self.facts[name], unit)
        return self.scores

    def ratio(self, above: Look, below: Look) -> Estimate:
        return paired_perplexity_ratio(
            above.nlls, below.nlls, np.asarray(self.num_scored, dtype=float), seed=self.seed
        )

    def perplexity(self, look: Look) -> Estimate:
        return paired_perplexity_ratio(
            look.nlls, np.zeros_like(look.nlls), np.asarray(self.num_scored, dtype=float), seed=self.seed
        )

    def recovered(self) -> Estimate | None:
        return paired_recovered_share(self.plain.nlls, self.whole.nlls, self.full.nlls, seed=self.seed)

    def accuracy(self, look: Look, weights: Mapping[str, float] | None = None) -> Estimate:
        """Weighted by the subjects' sizes unless other weights are given."""
        right = np.asarray([float(one.is_right) for one in look.answers])
        return self._over_subjects(right, look, weights)

    def accuracy_difference(self, look: Look, other: Look) -> Estimate:
        pairs = zip(look.answers, other.answers, strict=True)
        return self._over_subjects(np.asarray([float(a.is_right) - b.is_right for a, b in pairs]), look)

    def _over_subjects(
        self, values: np.ndarray, look: Look, weights: Mapping[str, float] | None = None
    ) -> Estimate:
        strata = [one.subject for one in look.answers]
        return bootstrap_stratified_mean(values, strata, weights or self.subject_sizes, seed=self.seed)

    def _perplexity(self, key: Key, look: Look) -> None:
        self._add("perplexity", key, self.perplexity(look), "perplexity", higher=False)
        if look is not self.full:
            self._add("ppl_ratio_full", key, self.ratio(look, self.full), "ratio", higher=False)
        if key[0] == SPLIT:
            self._add("ppl_ratio_int4", key, self.ratio(look, self.plain), "ratio", higher=False)

    def _mmlu(self, key: Key, look: Look) -> None:
        if not look.answers:
            return
        self._add("mmlu", key, self.accuracy(look), "share", higher=True)
        alike = dict.fromkeys(self.subject_sizes, 1.0)
        self._add("mmlu_macro", key, self.accuracy(look, alike), "share", higher=True)
        for other, name in ((self.full, "full"), (self.plain, "int4")):
            if look is other or (name == "int4" and key[0] != SPLIT):
                continue
            difference = self.accuracy_difference(look, other)
            self._add(f"mmlu_difference_{name}", key, difference, "share", higher=True)
            test = mcnemar([a.is_right for a in look.answers], [b.is_right for b in other.answers])
            note = f"right alone: {test.only_a} here, {test.only_b} there"
            self._value(f"mmlu_mcnemar_p_{name}", key, test.p_value, "p", n=len(look.answers), note=note)
            changed = np.mean(
                [a.chosen != b.chosen for a, b in zip(look.answers, other.answers, strict=True)]
            )
            self._value(f"mmlu_changed_{name}", key, float(changed), "share", n=len(look.answers))

    def _add(
        self, name: str, key: Key, found: Estimate | None, unit: str, *, higher: bool, note: str = ""
    ) -> None:
        """`note` says why there is no estimate where there is none."""
        n, why = (len(self.num_scored), note) if found is None else (0, "")
        self.scores.append(score_row(name, key, found, unit, higher=higher, n=n, note=why))

    def _value(self, name: str, key: Key, value: float, unit: str, *, n: int = 0, note: str = "") -> None:
        self.scores.append(score_row(name, key, value, unit, higher=None, n=n, note=note))

    # ---- verdicts ------------------------------------------------------------------------------------

    def verdicts(self) -> list[Verdict]:
        found = [self._within(), self._same_logits(), self._same_windows()]
        found += [self._same_answers()] if self.base.answers else []
        return [*found, self._between()]

    def _within(self) -> Verdict:
        return at_most(
            self.ratio(self.base, self.plain),
            MAX_PPL_RATIO,
            criterion="with alpha at 0 the model speaks as well as INT4",
            threshold=f"perplexity at most {MAX_PPL_RATIO} times INT4's",
        )

    def _same_logits(self) -> Verdict:
        """At alpha = 1 the logits must differ, or the comparison could not have failed."""
        moved = self.compared["alpha1"]
        return Verdict(
            criterion="with alpha at 0 it is INT4, to the bit",
            arm=SPLIT,
            threshold=f"largest difference of {self.compared['num_logits']:,} logits is 0",
            value=self.compared["alpha0"],
            passed=self.compared["alpha0"] == 0 if moved > 0 else None,
            note=f"alpha = 1 moves them by up to {moved:.3g}"
            if moved > 0
            else "alpha = 1 moves no logit either, so that this says nothing: there is no Ortho part",
        )

    def _same_windows(self) -> Verdict:
        differing = int((self.base.nlls != self.plain.nlls).sum())
        return Verdict(
            criterion="with alpha at 0 every window of text is as likely as with INT4",
            arm=SPLIT,
            threshold=f"0 of {len(self.base.nlls)} windows differ, to the last bit",
            value=float(differing),
            passed=differing == 0,
        )

    def _same_answers(self) -> Verdict:
        pairs = list(zip(self.base.answers, self.plain.answers, strict=True))
        differing = sum(a.nlls != b.nlls for a, b in pairs)
        return Verdict(
            criterion="with alpha at 0 every MMLU question is answered as with INT4",
            arm=SPLIT,
            threshold=f"likelihoods of 0 of {len(pairs)} questions differ, to the last bit",
            value=float(differing),
            passed=differing == 0,
        )

    def _between(self) -> Verdict:
        """alpha = 1 takes back a part of what rounding cost: more than nothing, no more than all of it."""
        found = self.recovered()
        criterion = "with alpha at 1 it lies between INT4 and full precision"
        threshold = "share of rounding's loss that is taken back lies between 0 and 1"
        if found is None:
            return Verdict(
                criterion=criterion, arm=SPLIT, threshold=threshold, value=None, passed=None, note=_NO_LOSS
            )
        low, high = found.interval.low, found.interval.high
        inside, outside = low > 0 and high <= 1, high <= 0 or low > 1
        nearer = 0.0 if found.value < 0.5 else 1.0
        needed = size_to_decide(found.interval, found.value, nearer, found.n)
        return Verdict(
            criterion=criterion,
            arm=SPLIT,
            threshold=threshold,
            value=found.value,
            low=low,
            high=high,
            passed=True if inside else False if outside else None,
            needed_n=None if inside or outside else needed,
        )

    # ---- for people ----------------------------------------------------------------------------------

    def warnings(self) -> list[str]:
        if not self.full.answers:
            return []
        accuracy = self.accuracy(self.full)
        if accuracy.interval.low > GUESSING:
            return []
        return [
            f"in full precision the model's MMLU ({accuracy.value:.0%}, {accuracy.n} questions) cannot be "
            "told from guessing (25%): its accuracies say nothing of what rounding costs, here only the "
            "paired counts do"
        ]

    def seed_block(self, bits: int) -> dict[str, Any]:
        """The earlier implementations' own keys; MMLU's are absent where it was not measured."""
        block: dict[str, Any] = {
            "ppl_fp16": self.perplexity(self.full).value,
            "ppl_int4": self.perplexity(self.plain).value,
            "ppl_libortho_alpha0": self.perplexity(self.base).value,
            "ppl_ratio_libortho": self.ratio(self.base, self.plain).value,
        }
        if self.full.answers:
            block |= {
                "mmlu_fp16": self.accuracy(self.full).value,
                "mmlu_int4": self.accuracy(self.plain).value,
                "mmlu_libortho_alpha0": self.accuracy(self.base).value,
            }
        return block | {"bits": bits}


_NO_LOSS = "on these windows INT4's loss cannot be told from none, so there is nothing to take back"
