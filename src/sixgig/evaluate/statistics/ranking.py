"""How well a score tells trained canaries (members) from never-trained ones (controls).

Higher scores mean "more like a member". A score far *below* the controls gives a member away just as well,
which is how over-suppression shows; so the true-positive rate comes for both directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

from ...errors import InputError
from .intervals import Interval, clopper_pearson, require_between, sample


@dataclass(frozen=True, kw_only=True)
class TprAtFpr:
    """Share of members above a threshold that at most the asked share of controls passes.

    `fpr` is the share of controls that did pass. `interval` is Clopper-Pearson over members with the
    threshold taken as given; with fewer than 1/fpr controls the threshold is the highest control.
    """

    tpr: float
    interval: Interval
    threshold: float
    fpr: float
    num_members: int
    num_controls: int


@dataclass(frozen=True, kw_only=True)
class TwoSidedTpr:
    """`leak`: members score higher than controls; `opposite`: lower. Scores of `opposite` are negated."""

    leak: TprAtFpr
    opposite: TprAtFpr


def auc(positives: np.ndarray, negatives: np.ndarray) -> float:
    """P(positive > negative) + P(equal) / 2 over all pairs (Mann-Whitney's U / mn)."""
    positives, negatives = sample("positives", positives), sample("negatives", negatives)
    ranks = rankdata(np.concatenate([positives, negatives]))[: len(positives)]
    wins = ranks.sum() - len(positives) * (len(positives) + 1) / 2
    return float(wins / (len(positives) * len(negatives)))


def stratified_auc(scores: np.ndarray, is_member: np.ndarray, strata: Sequence[object]) -> float:
    """Mean of the AUCs within strata, weighted by their pairs; pairs across strata are never compared.

    A stratum without members or without controls has no pairs and no say.

    Raises:
        InputError: no stratum has both.
    """
    scores, is_member = sample("scores", scores), np.asarray(is_member, dtype=bool)
    groups: dict[object, list[int]] = {}
    for index, stratum in enumerate(strata):
        groups.setdefault(stratum, []).append(index)
    wins = pairs = 0.0
    for members in groups.values():
        inside = np.zeros(len(scores), dtype=bool)
        inside[members] = True
        positives, negatives = scores[inside & is_member], scores[inside & ~is_member]
        num_pairs = len(positives) * len(negatives)
        if num_pairs:
            wins += auc(positives, negatives) * num_pairs
            pairs += num_pairs
    if not pairs:
        raise InputError("no stratum has both members and controls", received=f"{len(groups)} strata")
    return wins / pairs


def roc_curve(members: np.ndarray, controls: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(fpr, tpr), each from 0 to 1, one point for each distinct score; ties move both at once."""
    members, controls = np.sort(sample("members", members)), np.sort(sample("controls", controls))
    thresholds = np.unique(np.concatenate([members, controls]))[::-1]
    tpr = 1 - np.searchsorted(members, thresholds, side="left") / len(members)
    fpr = 1 - np.searchsorted(controls, thresholds, side="left") / len(controls)
    return np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr])


def tpr_at_fpr(
    members: np.ndarray, controls: np.ndarray, fpr: float, *, confidence: float = 0.95
) -> TprAtFpr:
    """True-positive rate where at most `fpr` of the controls pass (Carlini et al. 2022, "Membership Inference
    Attacks From First Principles", section III)."""
    require_between("fpr", fpr, 0, 1)
    members, controls = sample("members", members), np.sort(sample("controls", controls))[::-1]
    allowed = math.floor(fpr * len(controls) + 1e-9)  # 0.29 * 100 is 28.999999999999996
    threshold = controls[allowed]  # strictly above it lie at most `allowed` controls
    passed = int((members > threshold).sum())
    return TprAtFpr(
        tpr=passed / len(members),
        interval=clopper_pearson(passed, len(members), confidence=confidence),
        threshold=float(threshold),
        fpr=float((controls > threshold).mean()),
        num_members=len(members),
        num_controls=len(controls),
    )


def two_sided_tpr_at_fpr(
    members: np.ndarray, controls: np.ndarray, fpr: float, *, confidence: float = 0.95
) -> TwoSidedTpr:
    """The true-positive rate in the leaking direction and in the opposite one, each at `fpr`."""
    return TwoSidedTpr(
        leak=tpr_at_fpr(members, controls, fpr, confidence=confidence),
        opposite=tpr_at_fpr(-np.asarray(members), -np.asarray(controls), fpr, confidence=confidence),
    )


def auc_sample_size(
    half_width: float, *, ratio: float = 1.0, expected_auc: float = 0.5, confidence: float = 0.95
) -> int:
    """Members needed for an AUC interval of +- `half_width`, with `ratio` controls to each member.

    By the standard error of Hanley and McNeil 1982, Radiology 143, with exponential scores assumed.
    """
    require_between("half_width", half_width, 0, 1)
    require_between("expected_auc", expected_auc, 0, 1)
    if ratio <= 0:
        raise InputError("ratio must be positive", received=str(ratio))
    wanted_se = half_width / float(norm.ppf((1 + confidence) / 2))
    low, high = 1, 2
    while _hanley_mcneil_se(high, ratio * high, expected_auc) > wanted_se:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        if _hanley_mcneil_se(middle, ratio * middle, expected_auc) > wanted_se:
            low = middle + 1
        else:
            high = middle
    return high


def _hanley_mcneil_se(num_members: float, num_controls: float, area: float) -> float:
    two_members, two_controls = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (
        area * (1 - area)
        + (num_members - 1) * (two_members - area**2)
        + (num_controls - 1) * (two_controls - area**2)
    )
    return math.sqrt(max(variance, 0.0) / (num_members * num_controls))
