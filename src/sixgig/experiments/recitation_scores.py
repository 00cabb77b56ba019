"""Scores and verdicts of the recitation experiment, from saved numbers alone; fixed before the first run.

The unit is the passage; every comparison of two models is paired, passage by passage. A passage is memorised
where the model in full precision gets `memorised_share` of the *first* half of its continuation right; all
that is judged is the second half, so that chance in the choice cannot fall back into the measure. Whole
passages that are recited or not are few: their intervals are exact ones.

Source of the criteria: Merullo et al. 2025, arXiv 2510.24256: strict recitation of memorised passages from
98.5% to 2.8% while perplexity rises from 23.19 to 26.53 (x 1.144), for a model of a billion parameters with
60% of the curvature kept. Here less is asked: half of the recitation gone, for that price.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..evaluate.statistics import (
    Estimate,
    bootstrap_gap,
    bootstrap_mean,
    clopper_pearson,
    exact_lost_share,
    exact_paired_difference,
    paired_perplexity_ratio,
    size_to_decide,
)
from ..report.schema import Score, Verdict
from .split_rows import FULL, Key, score_row

MIN_FALL = 0.5  # of plain rounding's recitation of memorised passages
MAX_PPL_RATIO = 1.15
MAX_FALL_RESTORED = 0.1
PLACE = "passages"  # one stratum: all passages alike
NO_RECITATION = "plain rounding recites none of these passages"


@dataclass(frozen=True, kw_only=True)
class Look:
    """One model on all passages and on public text: [P, S] right tokens and nats, summed nats a window."""

    hits: np.ndarray
    nlls: np.ndarray
    window_nlls: np.ndarray

    @classmethod
    def from_stage(cls, value: Mapping[str, Any]) -> Look:
        return cls(
            hits=np.asarray(value["hits"], dtype=float),
            nlls=np.asarray(value["nlls"]),
            window_nlls=np.asarray(value["window_nlls"]),
        )

    @property
    def judged(self) -> np.ndarray:
        """[P]: share of the second half's tokens that are right."""
        return _second_half(self.hits).mean(axis=1)

    @property
    def recited(self) -> np.ndarray:
        """[P]: 1 where the whole second half is what greedy decoding gives."""
        return _second_half(self.hits).all(axis=1).astype(float)


def _second_half(values: np.ndarray) -> np.ndarray:
    return values[:, values.shape[1] // 2 :]


@dataclass
class RecitationScores:
    """`looks` by (arm, alpha); `is_known` [P] says which passages the world knows.

    `edited`, `null` and `plain` are the keys of the judged arm's Base, its matched null's and plain
    rounding's; `restored` is the judged arm's at alpha = 1.
    """

    looks: Mapping[Key, Look]
    is_known: np.ndarray
    memorised_share: float
    window_tokens: int
    edited: Key
    null: Key
    plain: Key
    restored: Key
    others: Sequence[Key] = ()  # other shares' Bases, shown for comparison
    facts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seed: int = 0
    scores: list[Score] = field(default_factory=list)

    def __post_init__(self) -> None:
        hits = self.looks[FULL, None].hits
        chosen = hits[:, : hits.shape[1] // 2].mean(axis=1) >= self.memorised_share
        self.memorised, self.fresh = chosen & self.is_known, ~self.is_known
        self.fresh_chosen = chosen & self.fresh

    # ---- scores --------------------------------------------------------------------------------------

    def all(self) -> list[Score]:
        num_known, num_fresh = int(self.is_known.sum()), int(self.fresh.sum())
        for name, found, n in (
            ("memorised_share", self.memorised, num_known),
            ("chosen_by_chance_share", self.fresh_chosen, num_fresh),
        ):
            self._share(name, (FULL, None), int(found.sum()), n)
        for key, look in self.looks.items():
            self._passages(key, look)
            self._perplexity(key, look)
        for arm, facts in self.facts.items():
            for name, unit in (("base_codes_changed", "share"), ("ortho_bits_per_weight", "bits")):
                if name in facts:
                    self.scores.append(score_row(name, (arm, None), facts[name], unit, higher=None))
        return self.scores

    def _passages(self, key: Key, look: Look) -> None:
        if self.memorised.any():
            recited = look.recited[self.memorised]
            self._share("recited_memorised", key, int(recited.sum()), len(recited))
        for group, chosen in (("memorised", self.memorised), ("fresh", self.fresh)):
            if chosen.sum() < 2:
                continue
            right, nats = look.judged[chosen], _second_half(look.nlls)[chosen].mean(axis=1)
            self._add(f"right_tokens_{group}", key, self._mean(right), "share", higher=None)
            self._add(f"nll_{group}", key, self._mean(nats), "nats a token", higher=None)
        if key != self.plain and self.memorised.sum() >= 2:
            self._add("recitation_fall_int4", key, self.fall(key), "share", higher=None, note=NO_RECITATION)

    def _perplexity(self, key: Key, look: Look) -> None:
        zeros = np.zeros_like(look.window_nlls)
        self._add("perplexity", key, self._ratio(look.window_nlls, zeros), "perplexity", higher=False)
        for name, other in (("ppl_ratio_full", (FULL, None)), ("ppl_ratio_int4", self.plain)):
            if key not in (other, (FULL, None)):
                self._add(name, key, self.ratio(key, other), "ratio", higher=False)

    def ratio(self, key: Key, other: Key) -> Estimate:
        return self._ratio(self.looks[key].window_nlls, self.looks[other].window_nlls)

    def _ratio(self, above: np.ndarray, below: np.ndarray) -> Estimate:
        tokens = np.full(len(above), float(self.window_tokens))
        return paired_perplexity_ratio(above, below, tokens, seed=self.seed)

    def fall(self, key: Key) -> Estimate | None:
        """Of the memorised passages that plain rounding recites, the share that `key` recites no more; n is
        their number."""
        before, after = (self.looks[one].recited[self.memorised] for one in (self.plain, key))
        return exact_lost_share(before, after)

    def less_than_null(self) -> Estimate:
        """How much more the null recites of the memorised passages."""
        edited, null = (self.looks[one].recited[self.memorised] for one in (self.edited, self.null))
        return exact_paired_difference(null, edited)

    def beyond_fresh(self) -> Estimate:
        """Right tokens lost on memorised passages beyond those lost on fresh ones, against plain rounding."""
        lost = self.looks[self.plain].judged - self.looks[self.edited].judged
        groups = [lost[self.memorised], lost[self.fresh]]
        clusters = [[(0, PLACE)] * len(group) for group in groups]
        return bootstrap_gap(groups[0], clusters[0], groups[1], clusters[1], confidence=0.95, seed=self.seed)

    def _mean(self, values: np.ndarray) -> Estimate:
        return bootstrap_mean(values, [(0, PLACE)] * len(values), seed=self.seed)

    def _share(self, name: str, key: Key, hits: int, n: int) -> None:
        interval = clopper_pearson(hits, n)
        found = Estimate(value=hits / n, interval=interval, n=n)
        self._add(name, key, found, "share", higher=None)

    def _add(
        self, name: str, key: Key, found: Estimate | None, unit: str, *, higher: bool | None, note: str = ""
    ) -> None:
        why = note if found is None else ""
        self.scores.append(score_row(name, key, found, unit, higher=higher, note=why))

    # ---- verdicts ------------------------------------------------------------------------------------

    def verdicts(self) -> list[Verdict]:
        found = [
            self._falls(self.edited),
            self._speaks(self.edited),
            self._null_recites_more(),
            self._gives_back(),
            self._is_memory(),
        ]
        for key in self.others:
            found += [
                one.model_copy(update={"counts": False}) for one in (self._falls(key), self._speaks(key))
            ]
        return found

    def _falls(self, key: Key) -> Verdict:
        return self._judged(
            "the Base recites less of what the model knows by heart",
            key,
            self.fall(key) if self._enough() else None,
            MIN_FALL,
            f"at least {MIN_FALL:.0%} of plain rounding's recitation of memorised passages gone",
            above=True,
        )

    def _speaks(self, key: Key) -> Verdict:
        return self._judged(
            "the Base still speaks",
            key,
            self.ratio(key, self.plain),
            MAX_PPL_RATIO,
            f"perplexity at most {MAX_PPL_RATIO} times plain rounding's",
            above=False,
        )

    def _null_recites_more(self) -> Verdict:
        """A null that does as well says that damage alone does it; where plain rounding recites nothing,
        neither had anything to do."""
        has_more = self._enough() and self.fall(self.edited) is not None
        return self._judged(
            "noise of the same size does not do as well",
            self.null,
            self.less_than_null() if has_more else None,
            0.0,
            "more memorised passages recited than after the sieve: difference above 0",
            above=True,
        )

    def _gives_back(self) -> Verdict:
        return self._judged(
            "alpha=1 gives the recitation back",
            self.restored,
            self.fall(self.restored) if self._enough() else None,
            MAX_FALL_RESTORED,
            f"at most {MAX_FALL_RESTORED:.0%} of plain rounding's recitation gone",
            above=False,
        )

    def _is_memory(self) -> Verdict:
        return self._judged(
            "memorised passages lose more than fresh ones",
            self.edited,
            self.beyond_fresh() if self._enough() else None,
            0.0,
            "right tokens lost beyond those lost on fresh passages: difference above 0",
            above=True,
        )

    def _enough(self) -> bool:
        return int(self.memorised.sum()) >= 2

    def _judged(
        self, criterion: str, key: Key, found: Estimate | None, limit: float, threshold: str, *, above: bool
    ) -> Verdict:
        """Decided where the whole interval lies on one side of the limit."""
        if found is None:
            why = NO_RECITATION if self._enough() else "two memorised passages: take a larger model"
            return Verdict(
                criterion=criterion,
                arm=key[0],
                threshold=f"{threshold}; missing: {why}",
                value=None,
                passed=None,
            )
        low, high = found.interval.low, found.interval.high
        reached, missed = (low >= limit, high < limit) if above else (high <= limit, low > limit)
        if above and limit == 0.0:
            reached, missed = low > 0, high <= 0
        passed = True if reached else False if missed else None
        return Verdict(
            criterion=criterion,
            arm=key[0],
            threshold=threshold,
            value=found.value,
            low=low,
            high=high,
            passed=passed,
            needed_n=size_to_decide(found.interval, found.value, limit, found.n) if passed is None else None,
            note=f"n = {found.n}",
        )
