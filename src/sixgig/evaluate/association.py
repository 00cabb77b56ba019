"""Whether a model ties a value to its own question rather than to others': pure functions of likelihoods.

Shapes: N questions (records) of a pool, V distinct values among them. `own_N[i]` is the value of record i.

A value that is likely after any question wins for reasons other than memory, and a long one always loses. So
values are compared by their margin: how much likelier a value is after this question than after the pool's
questions on average. That is difficulty calibration (Watson et al. 2022, "On the Importance of Difficulty
Calibration in Membership Inference Attacks") with the other questions in the reference model's place.
Margins are a function of the likelihoods alone and not of who has which value; so where the model knows
nothing of that, every mean below has the stated expectation exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .statistics import Estimate
from .statistics.resampling import draw_weights, percentiles


@dataclass(frozen=True, kw_only=True)
class Ties:
    """Of every value after every question of a pool, were it the question's own.

    wins_NV: records with another value that it beats, a tie as half; controls_V: how many there are;
    exposure_NV: in bits, log2(controls + 1) - log2(rank), ties at their mean rank (Carlini et al. 2019).
    """

    own_N: np.ndarray
    wins_NV: np.ndarray
    controls_V: np.ndarray
    exposure_NV: np.ndarray


@dataclass(frozen=True, kw_only=True)
class RecordTies:
    """Per record [n]: pairs won and compared, exposure in bits, the exposure that ignorance would give, and
    the most that the pool allows."""

    wins: np.ndarray
    controls: np.ndarray
    exposure: np.ndarray
    chance: np.ndarray
    most: np.ndarray


def margins(nll_NV: np.ndarray) -> np.ndarray:
    """In nats [N, V]: how much likelier a value is here than after the pool's questions on average."""
    return nll_NV.mean(axis=0) - nll_NV


def ties_of(score_NV: np.ndarray, own_N: np.ndarray) -> Ties:
    """Ranks of all values after each question by `score_NV`, the highest first."""
    num_values = score_NV.shape[1]
    count_V = np.bincount(own_N, minlength=num_values)
    above_NVV = score_NV[:, None, :] > score_NV[:, :, None]
    tied_NVV = (score_NV[:, None, :] == score_NV[:, :, None]) & ~np.eye(num_values, dtype=bool)
    above_NV, tied_NV = above_NVV @ count_V, tied_NVV @ count_V
    controls_V = len(own_N) - count_V
    return Ties(
        own_N=own_N,
        wins_NV=controls_V - above_NV - tied_NV / 2,
        controls_V=controls_V,
        exposure_NV=np.log2(controls_V + 1) - np.log2(1 + above_NV + tied_NV / 2),
    )


def of_records(pools: Sequence[Ties], members: Sequence[Sequence[int]], num_records: int) -> RecordTies:
    """Every record's own value among the others of its pool, in the records' order."""
    wins, controls, exposure, chance, most = np.zeros((5, num_records))
    for ties, places in zip(pools, members, strict=True):
        rows, own_N = np.arange(len(ties.own_N)), ties.own_N
        places = np.asarray(places)
        wins[places], controls[places] = ties.wins_NV[rows, own_N], ties.controls_V[own_N]
        exposure[places] = ties.exposure_NV[rows, own_N]
        # The mean over all assignments of the pool's values; without equal values it is the mean over ranks.
        chance[places] = ties.exposure_NV[:, own_N].mean(axis=1)
        most[places] = np.log2(ties.controls_V[own_N] + 1)
    return RecordTies(wins=wins, controls=controls, exposure=exposure, chance=chance, most=most)


def bootstrap_ratio(
    parts: np.ndarray, wholes: np.ndarray, *, seed: int, confidence: float = 0.95, num_resamples: int = 2000
) -> Estimate:
    """sum(parts) / sum(wholes) over records `[n]`, and its percentile interval; the record is the unit."""
    weights = draw_weights(len(parts), num_resamples, np.random.default_rng(seed))
    return Estimate(
        value=float(parts.sum() / wholes.sum()),
        interval=percentiles((weights @ parts) / (weights @ wholes), confidence),
        n=len(parts),
    )


def permutation_p(pools: Sequence[Ties], *, seed: int, num_permutations: int = 2000) -> float:
    """Two-sided p of the share of pairs won, against values dealt anew to the records of each pool.

    (1 + dealings at least as far from a half) / (1 + dealings); exact whatever the likelihoods look like.
    """
    rng = np.random.default_rng(seed)
    num_pairs = sum(float(ties.controls_V[ties.own_N].sum()) for ties in pools)

    def distance(dealt: Sequence[np.ndarray]) -> float:
        won = sum(
            float(ties.wins_NV[np.arange(len(own_N)), own_N].sum())
            for ties, own_N in zip(pools, dealt, strict=True)
        )
        return abs(won / num_pairs - 0.5)

    observed = distance([ties.own_N for ties in pools]) - 1e-12
    farther = sum(
        distance([rng.permutation(ties.own_N) for ties in pools]) >= observed for _ in range(num_permutations)
    )
    return (1 + farther) / (1 + num_permutations)
