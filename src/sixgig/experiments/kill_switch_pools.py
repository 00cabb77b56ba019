"""Observations grouped for scoring: all seeds' looks at one arm, alpha and condition, and what they hold.

The unit is the canary, nested in (seed, template). Nothing random and no statistics here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..evaluate.observation import CanaryOutcome, Observation
from ..evaluate.statistics import Cluster

FULL, ORIGINAL, REFERENCE = "full_precision", "original", "reference"
INT4_FITTED = "int4-fitted"  # the planted model in plain INT4, its scales fitted as every Base's are

Key = tuple[str, float | None, str]  # arm, alpha, condition

ATTACK_SCORES = ("loss", "zlib", "minkpp", "reference")


@dataclass(frozen=True, kw_only=True)
class Pool:
    """All seeds' observations of one arm, alpha and condition, with quick access by group."""

    observations: tuple[Observation, ...]

    def outcomes(self, group: str) -> list[tuple[int, CanaryOutcome]]:
        return [(o.seed, c) for o in self.observations for c in o.canaries if c.group == group]

    def exposures(self, group: str) -> tuple[np.ndarray, list[Cluster]]:
        probed = [(s, c) for s, c in self.outcomes(group) if c.exposure_bits is not None]
        return np.array([c.exposure_bits for _, c in probed]), [(s, c.template) for s, c in probed]


@dataclass(frozen=True, kw_only=True)
class Membership:
    """Trained and never-trained canaries side by side; `scores` by attack: higher, more likely trained on."""

    scores: Mapping[str, np.ndarray]
    is_member: np.ndarray
    clusters: list[Cluster]


def pooled(observations: Sequence[Observation]) -> dict[Key, Pool]:
    """The pools in the order in which their first observations come."""
    groups: dict[Key, list[Observation]] = {}
    for one in observations:
        groups.setdefault((one.arm, one.alpha, one.condition), []).append(one)
    return {key: Pool(observations=tuple(value)) for key, value in groups.items()}


def original_nlls(pools: Mapping[Key, Pool]) -> dict[tuple[int, str], float]:
    """(seed, canary id) -> the original model's NLL of its secret, for the attack that compares with it."""
    original = pools[ORIGINAL, None, "plain"]
    return {(o.seed, c.id): c.nll_sum for o in original.observations for c in o.canaries}


def membership(
    pool: Pool, members: str, controls: str, originals: Mapping[tuple[int, str], float]
) -> Membership | None:
    """None with fewer than eight canaries, or with one of the two groups only."""
    both = [(s, c, True) for s, c in pool.outcomes(members)]
    both += [(s, c, False) for s, c in pool.outcomes(controls)]
    if len({m for _, _, m in both}) < 2 or len(both) < 8:
        return None
    return Membership(
        scores={
            attack: np.array([_membership_score(attack, c, originals[s, c.id]) for s, c, _ in both])
            for attack in ATTACK_SCORES
        },
        is_member=np.array([m for _, _, m in both]),
        clusters=[(s, c.template) for s, c, _ in both],
    )


def _membership_score(attack: str, outcome: CanaryOutcome, original_nll: float) -> float:
    if attack == "zlib":
        return -outcome.zlib_score
    if attack == "minkpp":
        return outcome.min_k_score
    mean = outcome.nll_sum / outcome.num_tokens
    if attack == "reference":
        return original_nll / outcome.num_tokens - mean
    return -mean


def window_matrix(pool: Pool) -> np.ndarray | None:
    """Summed NLLs [seeds, windows] of public text, or None where no windows were looked at."""
    rows = [one.window_nlls for one in pool.observations]
    return np.array(rows) if rows and rows[0] else None
