"""Hierarchical bootstrap: canaries nested in (seed, template), windows of text scored by two models.

Each resample gives every unit a weight; a statistic is a ratio of weighted sums. Within a cell of n units,
n - 1 are drawn and weighted by n / (n - 1): drawing n would make the variance too small by (n - 1) / n,
a tenth of it or more in the small cells of a quick run (Rao and Wu 1988, JASA 83, section 2). Cells of one
unit are pooled within their seed, since a unit alone says nothing of its spread.

Resampling seeds asks about seeds not run; not resampling them, about the seeds that were. With three seeds
the first says little: a resample of three has only ten distinct make-ups, the spread between seeds comes out
a third too small, and the spread of canaries is counted twice. So it is offered, not the default.

Intervals are percentiles of the resamples; they have no width where all units agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import InputError
from .intervals import Estimate, Interval, finite, require_between, sample
from .ranking import stratified_auc

Cluster = tuple[int, str]  # (seed, template)


@dataclass(frozen=True, kw_only=True)
class TostPValues:
    """Of the hypotheses that the gap is not within the margin, and that it is not beyond it."""

    equivalent: float
    different: float


# The units of one seed: their indices [n], and their weights in each resample that uses the seed [uses, n].
_Weighted = tuple[np.ndarray, np.ndarray]


def bootstrap_mean(
    values: np.ndarray,
    clusters: Sequence[Cluster],
    *,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int,
    resample_seeds: bool = False,
) -> Estimate:
    """Mean of `values` `[n]` over all units, with its interval."""
    values = sample("values", values)

    def sums(weighted: _Weighted) -> np.ndarray:
        return _weighted_sums(values, weighted)

    total, weight = _resample([clusters], [values], sums, num_resamples, seed, resample_seeds)
    return Estimate(
        value=float(values.mean()), interval=percentiles(total / weight, confidence), n=len(values)
    )


def bootstrap_gap(
    values_a: np.ndarray,
    clusters_a: Sequence[Cluster],
    values_b: np.ndarray,
    clusters_b: Sequence[Cluster],
    *,
    num_resamples: int = 2000,
    confidence: float = 0.90,
    seed: int,
    resample_seeds: bool = False,
) -> Estimate:
    """mean(a) - mean(b), two independent groups of units within the same seeds; `n` counts both.

    A seed that is drawn is drawn for both groups, since it is one model.
    """
    gaps = _gaps(values_a, clusters_a, values_b, clusters_b, num_resamples, seed, resample_seeds)
    return Estimate(
        value=float(np.mean(values_a) - np.mean(values_b)),
        interval=percentiles(gaps, confidence),
        n=len(values_a) + len(values_b),
    )


def bootstrap_tost(
    values_a: np.ndarray,
    clusters_a: Sequence[Cluster],
    values_b: np.ndarray,
    clusters_b: Sequence[Cluster],
    *,
    margin: float,
    num_resamples: int = 2000,
    seed: int,
) -> TostPValues:
    """p-values of `tost`'s two answers on mean(a) - mean(b), from the resamples of `bootstrap_gap`.

    Below 0.05 exactly where `bootstrap_gap`'s 90% interval lies within the margin, or beyond it, up to the
    one resample that is added, so that no p is 0 (Davison and Hinkley 1997, section 4.4). What Holm's
    correction of several sieves needs, which an interval at one confidence cannot give.
    """
    if margin <= 0:
        raise InputError("an equivalence margin must be positive", received=str(margin))
    gaps = _gaps(values_a, clusters_a, values_b, clusters_b, num_resamples, seed, False)

    def p_value(against: np.ndarray) -> float:
        return float((against.sum() + 1) / (len(gaps) + 1))

    return TostPValues(
        equivalent=max(p_value(gaps >= margin), p_value(gaps <= -margin)),
        different=min(p_value(gaps <= margin), p_value(gaps >= -margin)),
    )


def _gaps(
    values_a: np.ndarray,
    clusters_a: Sequence[Cluster],
    values_b: np.ndarray,
    clusters_b: Sequence[Cluster],
    num_resamples: int,
    seed: int,
    resample_seeds: bool,
) -> np.ndarray:
    """[num_resamples]: mean(a) - mean(b) in each."""
    values_a, values_b = sample("values a", values_a), sample("values b", values_b)

    def sums(a: _Weighted, b: _Weighted) -> np.ndarray:
        return np.concatenate([_weighted_sums(values_a, a), _weighted_sums(values_b, b)])

    total_a, weight_a, total_b, weight_b = _resample(
        [clusters_a, clusters_b], [values_a, values_b], sums, num_resamples, seed, resample_seeds
    )
    return total_a / weight_a - total_b / weight_b


def bootstrap_auc(
    scores: np.ndarray,
    is_member: np.ndarray,
    clusters: Sequence[Cluster],
    *,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int,
    resample_seeds: bool = False,
) -> Estimate:
    """`stratified_auc` with (seed, template) as strata, and its interval; members and controls apart.

    Resamples in which no stratum has a member and a control (only with a handful of units) are left out.
    """
    scores, is_member = sample("scores", scores), np.asarray(is_member, dtype=bool)
    value = stratified_auc(scores, is_member, clusters)
    groups = [np.flatnonzero(is_member), np.flatnonzero(~is_member)]
    group_clusters = [[clusters[int(i)] for i in group] for group in groups]
    templates = [np.array([template for _, template in group], dtype=object) for group in group_clusters]
    members, controls = (scores[group] for group in groups)

    def sums(a: _Weighted, b: _Weighted) -> np.ndarray:
        wins, pairs = np.zeros((2, len(a[1])))
        for template in sorted(set(templates[0][a[0]]) & set(templates[1][b[0]])):
            in_a, in_b = templates[0][a[0]] == template, templates[1][b[0]] == template
            ahead = (np.sign(members[a[0][in_a], None] - controls[None, b[0][in_b]]) + 1) / 2
            weights_a, weights_b = a[1][:, in_a], b[1][:, in_b]
            wins += np.einsum("un,un->u", weights_a @ ahead, weights_b)
            pairs += weights_a.sum(axis=1) * weights_b.sum(axis=1)
        return np.stack([wins, pairs])

    wins, pairs = _resample(group_clusters, [members, controls], sums, num_resamples, seed, resample_seeds)
    usable = pairs > 0
    return Estimate(
        value=value, interval=percentiles(wins[usable] / pairs[usable], confidence), n=len(scores)
    )


def paired_perplexity_ratio(
    nll_a: np.ndarray,
    nll_b: np.ndarray,
    num_tokens: np.ndarray,
    *,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int,
    resample_seeds: bool = False,
) -> Estimate:
    """exp(sum nll_a / sum tokens) / exp(sum nll_b / sum tokens), paired by window; `n` counts windows.

    `nll_*` are summed nats `[windows]`, or `[seeds, windows]` when models of several seeds read the same
    windows: a window is then drawn for all seeds at once, and seeds are drawn across it.
    The logarithm of value and interval is the gap in nats per token.
    """
    difference = np.atleast_2d(finite("NLLs of a", nll_a) - finite("NLLs of b", nll_b))
    tokens = sample("token counts", num_tokens)
    if difference.shape[1] != len(tokens) or len(tokens) < 2 or tokens.min() <= 0:
        raise InputError(
            "windows do not fit",
            expected="at least two windows, each with NLLs of both models and a positive token count",
            received=f"NLLs {difference.shape}, token counts {tokens.shape}",
        )
    rng = np.random.default_rng(seed)
    num_seeds = len(difference)
    windows_weight = draw_weights(len(tokens), num_resamples, rng)
    seeds_weight = np.ones((num_resamples, num_seeds))
    if resample_seeds:
        seeds_weight = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=num_resamples)
    gaps = (windows_weight @ difference.T * seeds_weight).sum(axis=1) / (windows_weight @ tokens * num_seeds)
    return Estimate(
        value=float(np.exp(difference.sum() / (tokens.sum() * num_seeds))),
        interval=percentiles(np.exp(gaps), confidence),
        n=len(tokens),
    )


def _weighted_sums(values: np.ndarray, weighted: _Weighted) -> np.ndarray:
    """[2, uses]: the weighted sum of the values, and the sum of the weights."""
    indices, weights = weighted
    return np.stack([weights @ values[indices], weights.sum(axis=1)])


def _resample(
    cluster_lists: Sequence[Sequence[Cluster]],
    value_lists: Sequence[np.ndarray],
    sums: Callable[..., np.ndarray],
    num_resamples: int,
    seed: int,
    resample_seeds: bool,
) -> np.ndarray:
    """[k, num_resamples]: `sums`' k sums, added over the seeds that each resample uses.

    A seed used twice in a resample has its canaries drawn anew for each use.
    """
    layouts = [
        _cells_by_seed(clusters, len(values))
        for clusters, values in zip(cluster_lists, value_lists, strict=True)
    ]
    seeds = sorted(layouts[0])
    if any(sorted(layout) != seeds for layout in layouts):
        raise InputError("the groups come from different seeds", received=str([sorted(x) for x in layouts]))
    rng = np.random.default_rng(seed)
    used = np.tile(np.arange(len(seeds)), (num_resamples, 1))
    if resample_seeds:
        used = rng.integers(len(seeds), size=used.shape)
    totals = []
    for number, key in enumerate(seeds):
        rows = np.nonzero(used == number)[0]
        parts = sums(*(_weigh(layout[key], len(rows), rng) for layout in layouts))
        totals.append([np.bincount(rows, weights=part, minlength=num_resamples) for part in parts])
    return np.sum(totals, axis=0)


def _cells_by_seed(clusters: Sequence[Cluster], num_units: int) -> dict[int, list[np.ndarray]]:
    """seed -> cells of unit indices, each of two or more."""
    if len(clusters) != num_units:
        raise InputError("clusters do not fit the values", received=f"{len(clusters)} and {num_units}")
    cells: dict[int, dict[str, list[int]]] = {}
    for index, (seed, template) in enumerate(clusters):
        cells.setdefault(seed, {}).setdefault(template, []).append(index)
    return {seed: _pool_single_units(seed, list(by_template.values())) for seed, by_template in cells.items()}


def _pool_single_units(seed: int, cells: list[list[int]]) -> list[np.ndarray]:
    kept = [cell for cell in cells if len(cell) > 1]
    single = [cell[0] for cell in cells if len(cell) == 1]
    if len(single) == 1 and kept:
        smallest = min(range(len(kept)), key=lambda i: len(kept[i]))
        kept[smallest] = [*kept[smallest], *single]
    elif len(single) == 1:
        raise InputError(
            "an interval needs at least two units of each group in each seed",
            received=f"one unit in seed {seed}",
            todo="plan more canaries",
        )
    elif single:
        kept.append(single)
    return [np.array(cell) for cell in kept]


def _weigh(cells: list[np.ndarray], num: int, rng: np.random.Generator) -> _Weighted:
    weights = [draw_weights(len(cell), num, rng) for cell in cells]
    return np.concatenate(cells), np.concatenate(weights, axis=1)


def draw_weights(n: int, num: int, rng: np.random.Generator) -> np.ndarray:
    """[num, n]: how often each of n units is among n - 1 drawn with replacement, times n / (n - 1)."""
    drawn = rng.integers(n, size=(num, n - 1)) + n * np.arange(num)[:, None]
    return np.bincount(drawn.ravel(), minlength=num * n).reshape(num, n) * (n / (n - 1))


def percentiles(resampled: np.ndarray, confidence: float) -> Interval:
    require_between("confidence", confidence, 0, 1)
    if not resampled.size:
        raise InputError("too few units for an interval", todo="plan more canaries")
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(low=float(low), high=float(high), confidence=confidence)


def unit_weights(clusters: Sequence[str], num: int, rng: np.random.Generator) -> np.ndarray:
    """[num, n]: the weights of one seed's n units in each resample, drawn within their clusters: for
    statistics of several curves that must be resampled alike."""
    (cells,) = _cells_by_seed([(0, cluster) for cluster in clusters], len(clusters)).values()
    indices, drawn = _weigh(cells, num, rng)
    weights = np.empty_like(drawn)
    weights[:, indices] = drawn
    return weights
