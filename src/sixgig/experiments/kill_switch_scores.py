"""From observations to scores: a pure function of saved numbers.

The unit is the canary, nested in (seed, template).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..evaluate.observation import Observation
from ..evaluate.statistics import (
    Estimate,
    bootstrap_auc,
    bootstrap_gap,
    bootstrap_mean,
    clopper_pearson,
    ks_two_sample,
    paired_perplexity_ratio,
    two_sided_tpr_at_fpr,
)
from ..report.schema import Score
from .kill_switch_pools import (
    FULL,
    INT4_FITTED,
    REFERENCE,
    Key,
    Membership,
    Pool,
    membership,
    original_nlls,
    pooled,
    window_matrix,
)


class Scorer:
    """Scores for every arm seen. `bootstrap_seed` seeds every bootstrap."""

    def __init__(self, observations: Sequence[Observation], *, bootstrap_seed: int = 0) -> None:
        self._seed = self.bootstrap_seed = bootstrap_seed
        self.pools = pooled(observations)
        self._originals = original_nlls(self.pools)
        self.scores: list[Score] = []

    def all(self, facts: Mapping[str, Mapping[str, float]]) -> list[Score]:
        """Every score of every pool, and the sizes of every arm that was looked at."""
        for key, pool in self.pools.items():
            self._score_pool(key, pool)
        looked_at = {arm for arm, _, _ in self.pools}
        for arm, fact in facts.items():
            if arm not in looked_at:  # split only because another arm shares its Base
                continue
            for name, unit in (
                ("ortho_bits_per_weight", "bits"),
                ("base_bytes", "bytes"),
                ("ortho_bytes", "bytes"),
                ("codes_changed", "share"),
                ("making_seconds", "s"),
            ):
                if name in fact:
                    self._add(
                        f"base_{name}" if name == "codes_changed" else name,
                        (arm, None, "plain"),
                        fact[name],
                        unit,
                        n=0,
                    )
        return self.scores

    # ---- one pool ------------------------------------------------------------------------------------

    def _score_pool(self, key: Key, pool: Pool) -> None:
        for group in ("calibration", "heldout", "heldout_other"):
            self._extraction(key, pool, group)
        self._mean(key, pool, "heldout", "exact_token_share", "exact_tokens_heldout")
        self._mean(key, pool, "heldout", "probability_in_100", "extraction_in_100_samples_heldout")
        for group in ("heldout", "control", "heldout_other", "control_other"):
            values, clusters = pool.exposures(group)
            if len(values) > 1:
                estimate = bootstrap_mean(values, clusters, seed=self._seed)
                self._add_estimate(f"exposure_{group}", key, estimate, "bits", higher=False)
        self._gap(key, pool, "heldout", "control", "exposure_gap")
        self._gap(key, pool, "heldout_other", "control_other", "exposure_gap_other")
        self._membership(key, pool)
        self._perplexity(key, pool)
        self._against_reference(key, pool)

    def _extraction(self, key: Key, pool: Pool, group: str) -> None:
        outcomes = pool.outcomes(group)
        if not outcomes:
            return
        hits = sum(c.extracted for _, c in outcomes)
        interval = clopper_pearson(hits, len(outcomes))
        self._add(
            f"extraction_{group}",
            key,
            hits / len(outcomes),
            "share",
            interval.low,
            interval.high,
            len(outcomes),
            False,
        )
        upper = clopper_pearson(hits, len(outcomes), side="upper").high
        self._add(
            f"extraction_{group}_upper",
            key,
            upper,
            "share",
            n=len(outcomes),
            higher=False,
            note="one-sided 95% upper bound (Clopper-Pearson)",
        )
        for times in sorted({c.repetitions for _, c in outcomes}):
            few = [c.extracted for _, c in outcomes if c.repetitions == times]
            low_high = clopper_pearson(sum(few), len(few))
            self._add(
                f"extraction_{group}_seen_{times}_times",
                key,
                sum(few) / len(few),
                "share",
                low_high.low,
                low_high.high,
                len(few),
                False,
            )

    def _mean(self, key: Key, pool: Pool, group: str, attribute: str, name: str) -> None:
        outcomes = pool.outcomes(group)
        if len(outcomes) > 1:
            values = np.array([getattr(c, attribute) for _, c in outcomes])
            clusters = [(s, c.template) for s, c in outcomes]
            self._add_estimate(
                name, key, bootstrap_mean(values, clusters, seed=self._seed), "share", higher=False
            )

    def _gap(self, key: Key, pool: Pool, members: str, controls: str, name: str) -> None:
        values_a, clusters_a = pool.exposures(members)
        values_b, clusters_b = pool.exposures(controls)
        if len(values_a) > 1 and len(values_b) > 1:
            gap = bootstrap_gap(values_a, clusters_a, values_b, clusters_b, seed=self._seed)
            self._add_estimate(name, key, gap, "bits", higher=False, note="90% interval, as TOST needs")

    def _membership(self, key: Key, pool: Pool) -> None:
        for suffix in ("", "_other"):
            both = membership(pool, f"heldout{suffix}", f"control{suffix}", self._originals)
            if both is None:
                continue
            for attack, values in both.scores.items():
                estimate = bootstrap_auc(values, both.is_member, both.clusters, seed=self._seed)
                self._add_estimate(f"auc_{attack}{suffix}", key, estimate, "AUC", higher=False)
            if not suffix:
                self._low_false_positives(key, both)

    def _low_false_positives(self, key: Key, both: Membership) -> None:
        scores, member = both.scores["reference"], both.is_member
        for fpr, name in ((0.01, "tpr_at_1pct_fpr"), (0.001, "tpr_at_01pct_fpr")):
            if (~member).sum() * fpr < 1:
                continue
            both_sides = two_sided_tpr_at_fpr(scores[member], scores[~member], fpr)
            for side, tag in ((both_sides.leak, ""), (both_sides.opposite, "_opposite")):
                self._add(
                    name + tag,
                    key,
                    side.tpr,
                    "share",
                    side.interval.low,
                    side.interval.high,
                    side.num_members,
                    False,
                )

    def _perplexity(self, key: Key, pool: Pool) -> None:
        nll = window_matrix(pool)
        if nll is None:
            return
        tokens = pool.observations[0].window_tokens
        mean = nll / tokens
        estimate = bootstrap_mean(
            mean.ravel(),
            [(s, "windows") for s in range(len(mean)) for _ in range(mean.shape[1])],
            seed=self._seed,
        )
        low, high = estimate.interval.low, estimate.interval.high
        self._add(
            "perplexity",
            key,
            float(np.exp(mean.mean())),
            "perplexity",
            float(np.exp(low)),
            float(np.exp(high)),
            mean.size,
            False,
        )
        for name, other in (
            ("ppl_ratio_int4", ("hessian", 0.0, "plain")),
            ("ppl_ratio_int4_fitted", (INT4_FITTED, 0.0, "plain")),
            ("ppl_ratio_full", (FULL, None, "plain")),
        ):
            ratio = self._ratio(pool, other)
            if ratio is not None and key != other:
                self._add_estimate(name, key, ratio, "ratio", higher=False)

    def _ratio(self, pool: Pool, other: Key) -> Estimate | None:
        if other not in self.pools:
            return None
        mine, theirs = window_matrix(pool), window_matrix(self.pools[other])
        if mine is None or theirs is None or mine.shape != theirs.shape:
            return None
        tokens = np.full(mine.shape[1], pool.observations[0].window_tokens)
        return paired_perplexity_ratio(mine, theirs, tokens, seed=self._seed)

    def _against_reference(self, key: Key, pool: Pool) -> None:
        arm, alpha, condition = key
        reference = self.pools.get((REFERENCE, 0.0, condition))
        if reference is None or arm == REFERENCE or alpha != 0.0:
            return
        mine = [(s, c) for s, c in pool.outcomes("heldout")]
        theirs = [(s, c) for s, c in reference.outcomes("heldout")]
        test = ks_two_sample(
            np.array([c.nll_sum / c.num_tokens for _, c in mine]),
            np.array([c.nll_sum / c.num_tokens for _, c in theirs]),
        )
        self._add("ks_reference_p", key, test.p_value, "p-value", n=len(mine), higher=True)
        values, clusters = pool.exposures("heldout")
        base, base_clusters = reference.exposures("heldout")
        if len(values) > 1 and len(base) > 1:
            gap = bootstrap_gap(values, clusters, base, base_clusters, seed=self._seed)
            self._add_estimate(
                "exposure_gap_reference", key, gap, "bits", higher=False, note="90% interval, as TOST needs"
            )

    # ---- adding --------------------------------------------------------------------------------------

    def _add_estimate(
        self, name: str, key: Key, estimate: Estimate, unit: str, *, higher: bool | None, note: str = ""
    ) -> None:
        interval = estimate.interval
        self._add(name, key, estimate.value, unit, interval.low, interval.high, estimate.n, higher, note)

    def _add(
        self,
        name: str,
        key: Key,
        value: float,
        unit: str,
        low: float | None = None,
        high: float | None = None,
        n: int = 0,
        higher: bool | None = None,
        note: str = "",
    ) -> None:
        arm, alpha, condition = key
        self.scores.append(
            Score(
                name=name,
                arm=arm,
                alpha=alpha,
                condition=condition,
                value=float(value),
                low=None if low is None else float(low),
                high=None if high is None else float(high),
                n=n,
                unit=unit,
                higher_is_better=higher,
                note=note,
            )
        )
