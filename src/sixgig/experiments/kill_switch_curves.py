"""The ROC curves of the kill-switch report; its other curves are drawn from the scores."""

from __future__ import annotations

import numpy as np

from ..evaluate.statistics import roc_curve
from ..report.schema import Curve
from .kill_switch_pools import FULL
from .kill_switch_scores import Scorer

MAX_POINTS = 200


def curves(scorer: Scorer) -> list[Curve]:
    """Membership by loss, held-out against controls, of every Base and of the whole model."""
    wanted = [
        (arm, alpha)
        for arm, alpha, condition in scorer.pools
        if condition == "plain" and (alpha == 0.0 or arm == FULL)
    ]
    return [curve for arm, alpha in wanted if (curve := _roc(scorer, arm, alpha)) is not None]


def _roc(scorer: Scorer, arm: str, alpha: float | None) -> Curve | None:
    pool = scorer.pools[arm, alpha, "plain"]
    members = [-c.nll_sum / c.num_tokens for _, c in pool.outcomes("heldout")]
    controls = [-c.nll_sum / c.num_tokens for _, c in pool.outcomes("control")]
    if not members or not controls:
        return None
    fpr, tpr = roc_curve(np.array(members), np.array(controls))
    # A page needs no more points than it has pixels; the first and the last always stay.
    kept = np.unique(np.linspace(0, len(fpr) - 1, MAX_POINTS).round().astype(int))
    return Curve(
        name="roc",
        arm=arm,
        x_label="false positive rate",
        y_label="true positive rate",
        x=[float(value) for value in fpr[kept]],
        y=[float(value) for value in tpr[kept]],
    )
