"""Statistics of the verdicts: pure functions on numpy arrays; every random one takes a seed.

The unit is the canary, nested in (seed, template); for perplexity it is the window of text.
"""

from .equivalence import KsTest, TostOutcome, holm, ks_two_sample, tost, tost_sample_size
from .exposure import chance_exposure_bits, exposure_bits, max_exposure_bits
from .intervals import Estimate, Interval, clopper_pearson, clopper_pearson_sample_size
from .paired import (
    McNemar,
    bootstrap_median,
    bootstrap_stratified_mean,
    exact_lost_share,
    exact_paired_difference,
    mcnemar,
    paired_median_ratio,
    paired_recovered_share,
    size_to_decide,
)
from .power import trials_of_upper_bound, visible_difference, visible_rate
from .ranking import (
    TprAtFpr,
    TwoSidedTpr,
    auc,
    auc_sample_size,
    roc_curve,
    stratified_auc,
    tpr_at_fpr,
    two_sided_tpr_at_fpr,
)
from .resampling import (
    Cluster,
    TostPValues,
    bootstrap_auc,
    bootstrap_gap,
    bootstrap_mean,
    bootstrap_tost,
    paired_perplexity_ratio,
)

__all__ = [
    "Cluster",
    "Estimate",
    "Interval",
    "KsTest",
    "McNemar",
    "TostOutcome",
    "TostPValues",
    "TprAtFpr",
    "TwoSidedTpr",
    "auc",
    "auc_sample_size",
    "bootstrap_auc",
    "bootstrap_gap",
    "bootstrap_mean",
    "bootstrap_median",
    "bootstrap_stratified_mean",
    "bootstrap_tost",
    "chance_exposure_bits",
    "clopper_pearson",
    "clopper_pearson_sample_size",
    "exact_lost_share",
    "exact_paired_difference",
    "exposure_bits",
    "holm",
    "ks_two_sample",
    "max_exposure_bits",
    "mcnemar",
    "paired_median_ratio",
    "paired_perplexity_ratio",
    "paired_recovered_share",
    "roc_curve",
    "size_to_decide",
    "stratified_auc",
    "tost",
    "tost_sample_size",
    "tpr_at_fpr",
    "trials_of_upper_bound",
    "two_sided_tpr_at_fpr",
    "visible_difference",
    "visible_rate",
]
