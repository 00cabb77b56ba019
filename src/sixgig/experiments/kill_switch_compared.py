"""Several sieves side by side: each one's exposure-gap equivalence, with Holm's correction over all of them.

Whoever tries a dozen sieves and takes the one that passes would find one by chance; Holm (1979) holds the
chance that *any* sieve is wrongly called equivalent to 5%. The sieve that decides a run is named before it
and is tested alone, as ever; here it is one among the others, and nothing here decides the run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import norm

from ..evaluate.statistics import (
    Interval,
    TostPValues,
    bootstrap_gap,
    bootstrap_tost,
    holm,
    tost_sample_size,
)
from ..evaluate.statistics.power import visible_difference
from ..report.pareto import BASE_OF
from ..report.schema import Verdict
from ..transform.sieve import SIEVES
from .kill_switch_pools import Pool
from .kill_switch_scores import Scorer

LEVEL = 0.05  # of the family
CRITERION = "held-out exposure equals the controls', corrected for the sieves compared"
NO_CANDIDATES = ("null", "quantisation aid")  # claims of sieves that are not said to hide anything


def compared(scorer: Scorer, arms: Sequence[str], margin: float) -> list[Verdict]:
    """One verdict a sieve of `arms` that claims to hide, if two or more were looked at; none decides."""
    candidates = [arm for arm in arms if SIEVES[arm].claim not in NO_CANDIDATES]
    pools = {arm: scorer.pools.get((BASE_OF.get(arm, arm), 0.0, "plain")) for arm in candidates}
    probed = {arm: pool for arm, pool in pools.items() if pool is not None and _has_exposures(pool)}
    if len(probed) < 2:
        return []
    found = {arm: _p_values(pool, margin, scorer.bootstrap_seed) for arm, pool in probed.items()}
    equivalent = holm(np.array([p.equivalent for p in found.values()]))
    different = holm(np.array([p.different for p in found.values()]))
    return [
        _verdict(scorer, arm, pool, margin, len(probed), TostPValues(equivalent=float(e), different=float(d)))
        for (arm, pool), e, d in zip(probed.items(), equivalent, different, strict=True)
    ]


def _has_exposures(pool: Pool) -> bool:
    return all(len(pool.exposures(group)[0]) > 1 for group in ("heldout", "control"))


def _p_values(pool: Pool, margin: float, seed: int) -> TostPValues:
    heldout, control = pool.exposures("heldout"), pool.exposures("control")
    return bootstrap_tost(*heldout, *control, margin=margin, seed=seed)


def _verdict(
    scorer: Scorer, arm: str, pool: Pool, margin: float, num_sieves: int, adjusted: TostPValues
) -> Verdict:
    (heldout, heldout_clusters), (control, control_clusters) = (
        pool.exposures(group) for group in ("heldout", "control")
    )
    gap = bootstrap_gap(heldout, heldout_clusters, control, control_clusters, seed=scorer.bootstrap_seed)
    passed = True if adjusted.equivalent <= LEVEL else False if adjusted.different <= LEVEL else None
    needed = None
    if passed is None:  # at the strictest level of Holm's steps, so that the size is enough for any place
        needed = tost_sample_size(
            float(heldout.std(ddof=1)),
            float(control.std(ddof=1)),
            ratio=len(control) / len(heldout),
            margin=margin,
            gap=gap.value,
            alpha=LEVEL / num_sieves,
        )
    words = f"of {num_sieves} sieves; n = {len(heldout)} held-out secrets and {len(control)} controls"
    return Verdict(
        criterion=CRITERION,
        arm=arm,
        threshold=f"within {margin} bit (TOST, Holm's p at most {LEVEL})",
        value=gap.value,
        low=gap.interval.low,
        high=gap.interval.high,
        passed=passed,
        needed_n=needed,
        note=f"Holm's p {adjusted.equivalent:.3g}, {words}"
        + ("; no sample shows this gap to be within" if passed is None and needed is None else ""),
        counts=False,
        visible_difference=_visible(gap.interval, num_sieves),
    )


def _visible(interval: Interval, num_sieves: int) -> float:
    """What the strictest of Holm's steps would have seen, from a 90% interval."""
    strictest = 1 - 2 * LEVEL / num_sieves
    half_width = (interval.high - interval.low) / 2 * float(norm.ppf(1 - LEVEL / num_sieves) / norm.ppf(0.95))
    return visible_difference(half_width, confidence=strictest)
