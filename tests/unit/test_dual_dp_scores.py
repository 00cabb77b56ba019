"""Dual-dp's scores and verdicts on looks with a known truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from sixgig.data.canary_content import FAMILIES
from sixgig.errors import InputError
from sixgig.evaluate.observation import CanaryOutcome, Observation
from sixgig.experiments import dual_dp_pools
from sixgig.experiments.dual_dp_config import DUAL_DP_PRESETS, DualDpConfig
from sixgig.experiments.dual_dp_levels import Cost, cost_of, perplexity, ratio
from sixgig.experiments.dual_dp_pools import DualDpPools
from sixgig.experiments.dual_dp_scores import DualDpScores
from sixgig.experiments.dual_dp_seed import noise_arm, noise_condition
from sixgig.experiments.dual_dp_verdicts import verdicts
from sixgig.report.schema import Verdict

MAX_BITS, CHANCE_BITS = 6.64, 1.42
CONFIG = replace(
    DUAL_DP_PRESETS["full"],
    seeds=(3, 4),
    sieves=("wiener",),
    ways=("ortho", "all"),
    sigmas_ortho=(0.1, 0.2, 0.4, 0.8),
    sigmas_all=(0.1, 0.2, 0.4, 0.8),
    alphas=(1.0, 0.5, 0.0),
    num_draws=2,
)
# What each step leaks (share of the secrets still known) and costs (nats a token), by arm.
Truth = Mapping[str, Sequence[tuple[float, float]]]
ORTHO, ALL = noise_arm("wiener", "ortho"), noise_arm("wiener", "all")
KNOWN = (1.0, 0.75, 0.4, 0.1, 0.0)


def steep(slope: float) -> list[tuple[float, float]]:
    """A curve on which each share of protection costs `slope` nats more."""
    return [(known, 3.0 + slope * (1 - known)) for known in KNOWN]


TRUTH: Truth = {
    "wiener": [(1.0, 3.0), (0.5, 3.2), (0.0, 3.4)],
    ORTHO: steep(0.3),
    ALL: steep(1.0),
}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dual_dp_pools, "NUM_RESAMPLES", 300)


def outcome(group: str, number: int, share_known: float, count: int) -> CanaryOutcome:
    """The first secrets are known by heart, the others ranked as chance ranks them."""
    rng = np.random.default_rng([number, *group.encode()])
    rank, loss = int(rng.integers(1, 101)), rng.normal(3.0, 0.3)
    known = group == "heldout" and number < round(share_known * count)
    family = FAMILIES[number % len(FAMILIES)]
    return CanaryOutcome(
        id=f"{group}-{number}",
        family=family,
        template=f"{family}-a",
        group=group,
        repetitions=0 if group == "control" else 32,
        nll_sum=16 * (0.01 if known else float(loss)),
        num_tokens=16,
        extracted=known,
        exact_token_share=float(known),
        probability_in_100=float(known),
        zlib_score=0.0,
        min_k_score=0.0,
        exposure_bits=float(MAX_BITS if known else MAX_BITS - np.log2(rank)),
    )


def observations(
    config: DualDpConfig = CONFIG, truth: Truth = TRUTH, *, count: int = 60, spread: float = 0.01
) -> list[Observation]:
    found = []
    for seed in config.seeds:

        def look(arm: str, alpha: float, condition: str, at: tuple[float, float], seed: int = seed) -> None:
            rng = np.random.default_rng([seed, *f"{arm}{alpha}{condition}".encode()])
            groups = ("heldout", "control")
            difficulty = np.random.default_rng(seed).normal(0, 0.3, 12)
            found.append(
                Observation(
                    seed=seed,
                    arm=arm,
                    alpha=alpha,
                    condition=condition,
                    canaries=tuple(outcome(g, i, at[0], count) for g in groups for i in range(count)),
                    window_nlls=tuple(
                        float(x) for x in 100 * (at[1] + difficulty + rng.normal(0, spread, 12))
                    ),
                    window_tokens=100,
                )
            )

        for alpha, at in zip(sorted(config.alphas, reverse=True), truth["wiener"], strict=True):
            look("wiener", alpha, "plain", at)
        for way in config.ways:
            arm = noise_arm("wiener", way)
            for sigma, at in zip(config.sigmas(way), truth[arm][1:], strict=True):
                for draw in range(config.num_draws):
                    look(arm, 1.0, noise_condition(sigma, draw), at)
    return found


def judged(config: DualDpConfig = CONFIG, truth: Truth = TRUTH, **more: float) -> dict[str, Verdict]:
    found = verdicts(DualDpPools(config, observations(config, truth, **more)))  # type: ignore[arg-type]
    assert len({v.criterion for v in found}) == len(found)
    return {v.criterion: v for v in found}


def one(found: dict[str, Verdict], *words: str) -> Verdict:
    (verdict,) = [v for criterion, v in found.items() if all(word in criterion for word in words)]
    return verdict


def test_where_noise_on_ortho_is_cheaper_both_criteria_are_met() -> None:
    found = judged()
    against_all = one(found, "at 1 bit", "noise on all weights")
    assert against_all.passed is True
    # At one bit about 0.19 of the secrets are still known: 0.81 of the slopes, which differ by 0.7.
    assert against_all.value == pytest.approx(np.exp(-0.7 * 0.81), abs=0.03)
    assert one(found, "leaving it out").passed is True
    assert [v.criterion for v in found.values() if v.counts] == [
        against_all.criterion,
        one(found, "leaving it out").criterion,
    ]
    assert "240 secrets, 12 windows, 2 draws of noise, 2 seeds" in against_all.note


def test_where_it_costs_more_the_criterion_fails() -> None:
    found = judged(truth={**TRUTH, ORTHO: TRUTH[ALL], ALL: TRUTH[ORTHO]})
    assert one(found, "at 1 bit", "noise on all weights").passed is False


def test_a_base_alone_that_leaks_nothing_for_less_makes_noise_pointless() -> None:
    found = judged(truth={**TRUTH, "wiener": [(1.0, 3.0), (0.5, 3.02), (0.0, 3.05)]})
    assert one(found, "at 1 bit", "noise on all weights").passed is True
    assert one(found, "leaving it out").passed is False
    assert one(found, "turning it down").passed is False


def test_a_base_alone_that_leaks_is_no_alternative() -> None:
    found = judged(truth={**TRUTH, "wiener": [(1.0, 3.0), (0.8, 3.02), (0.6, 3.05)]})
    verdict = one(found, "leaving it out")
    assert verdict.passed is None
    assert verdict.value is None
    assert "the Base alone leaks" in verdict.threshold


def test_alike_curves_decide_nothing_and_say_what_would_have_shown() -> None:
    found = judged(truth={**TRUTH, ALL: TRUTH[ORTHO]}, count=30, spread=0.2)
    verdict = one(found, "at 1 bit", "noise on all weights")
    assert verdict.passed is None
    assert verdict.low is not None
    assert verdict.high is not None
    assert verdict.low < 1 < verdict.high
    assert "would have been seen" in verdict.note


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        ([(known, 3.0) for known in (1.0, 0.9, 0.8, 0.7, 0.6)], "never falls to 1 bits here"),
        ([(0.1, 3.0)] * 5, "without protection the leak is only"),
    ],
)
def test_a_level_that_a_curve_does_not_cross_is_said(curve: list[tuple[float, float]], words: str) -> None:
    truth = {**TRUTH, ALL: curve}
    if curve[0][0] < 1:  # the first step is the whole model, common to all curves
        truth |= {
            "wiener": [curve[0], (0.05, 3.2), (0.0, 3.4)],
            ORTHO: [curve[0], *TRUTH[ORTHO][3:], (0.0, 5.0), (0.0, 6.0)],
        }
        truth[ORTHO] = truth[ORTHO][:5]
    verdict = one(judged(truth=truth), "at 1 bit", "noise on all weights")
    assert verdict.passed is None
    assert verdict.value is None
    assert words in verdict.threshold


def hardly_protected() -> DualDpPools:
    """Noise on all weights comes down to one bit at its last step, and in many resamples it does not."""
    leaks = [(known, 3.0 + 1 - known) for known in (1.0, 0.75, 0.4, 0.3, 0.18)]
    return DualDpPools(CONFIG, observations(truth={**TRUTH, ALL: leaks}))


def test_resamples_that_never_fall_to_the_level_are_infinitely_dear_and_leave_it_open() -> None:
    pools = hardly_protected()
    cost = cost_of(pools.curves[ALL], 1.0)
    assert isinstance(cost, Cost)
    never = float(np.isinf(cost.nats_B).mean())
    assert 0.03 < never < 0.97
    verdict = one({v.criterion: v for v in verdicts(pools)}, "at 1 bit", "noise on all weights")
    assert (verdict.value or 9) < 1
    assert (verdict.low, verdict.passed, verdict.needed_n) == (None, None, None)
    assert verdict.high is not None
    assert f"no lower end: {never:.1%} of resamples" in verdict.note
    (score,) = [s for s in DualDpScores(pools).all({}) if (s.name, s.arm) == ("perplexity_at_1_bits", ALL)]
    assert (score.high, score.value is None) == (None, False)
    assert "never fall so low" in score.note


def test_where_neither_gets_there_the_ratio_may_be_anything() -> None:
    pools = hardly_protected()
    inf = np.inf
    never, always = Cost(nats=1.0, nats_B=np.array([1.0, inf] * 50)), Cost(nats=1.0, nats_B=np.ones(100))
    ends = [
        (found.low, found.high)
        for found in (
            ratio(pools, *pair).interval for pair in ((never, never), (never, always), (always, never))
        )
    ]
    assert ends == [(0, inf), (1, inf), (0, 1)]
    rare = Cost(nats=1.0, nats_B=np.array([*np.linspace(1, 2, 999), inf]))
    found = perplexity(pools, rare).interval
    assert found.high == pytest.approx(np.exp(1.975), rel=1e-2), "one of a thousand is beyond the percentile"


def test_every_step_has_its_scores_and_every_curve_its_costs() -> None:
    pools = DualDpPools(CONFIG, observations())
    scorer = DualDpScores(pools)
    scores = scorer.all({"wiener": {"ortho_bits_per_weight": 0.4, "ortho_bytes": 1000.0}})
    place = {(s.name, s.arm, s.alpha, s.condition): s for s in scores}
    assert len(place) == len(scores)
    whole = place["exposure_gap", "wiener", 1.0, "plain"]
    assert whole.value == pytest.approx(MAX_BITS - CHANCE_BITS, abs=0.3)
    assert (whole.low or 0) < (whole.value or 0) < (whole.high or 0)
    assert place["auc_loss", "wiener", 1.0, "plain"].value == 1
    assert place["auc_loss", "wiener", 0.0, "plain"].value == pytest.approx(0.5, abs=0.15)
    assert place["extraction_heldout", ORTHO, 1.0, "sigma-0.2"].value == pytest.approx(0.4)
    assert place["perplexity", ALL, 1.0, "sigma-0.8"].value == pytest.approx(np.exp(4.0), rel=0.2)
    assert (ALL, 1.0, "plain") not in {key[1:] for key in place}, "the whole model is no noise"
    cheap, dear = (place["perplexity_at_1_bits", arm, None, "plain"].value or 0 for arm in (ORTHO, ALL))
    assert 0 < cheap < dear
    assert place["perplexity_at_4_bits", "wiener-alpha", None, "plain"].value
    assert place["ortho_bytes", "wiener", 1.0, "plain"].value == 1000.0


def test_the_figure_has_every_way_and_the_base_as_a_point() -> None:
    curves = DualDpScores(DualDpPools(CONFIG, observations())).curves()
    assert [c.arm for c in curves] == ["wiener-alpha", ORTHO, ALL, "wiener-base"]
    assert {c.name for c in curves} == {"leakage_wiener"}
    assert [len(c.x) for c in curves] == [3, 5, 5, 1]
    base, alpha = curves[-1], curves[0]
    assert (base.x[0], base.y[0]) == (alpha.x[-1], alpha.y[-1])
    for curve in curves:
        assert curve.x_low is not None
        assert curve.x_high is not None
        assert all(low <= x <= high for low, x, high in zip(curve.x_low, curve.x, curve.x_high, strict=True))


def test_the_curves_are_paired_secret_by_secret() -> None:
    """Two curves of the very same looks differ by nothing in every resample."""
    found = observations(replace(CONFIG, num_draws=1), {**TRUTH, ALL: TRUTH[ORTHO]}, spread=0.0)
    pools = DualDpPools(replace(CONFIG, num_draws=1), found)
    ortho, everything = pools.curves[ORTHO], pools.curves[ALL]
    assert np.allclose(ortho.gap_BK, everything.gap_BK)
    assert np.allclose(ortho.nats_BK, everything.nats_BK)
    assert ortho.gap_BK.std(axis=0).max() > 0.05


def test_intervals_widen_when_draws_differ() -> None:
    def width(different: bool) -> float:
        found = observations()
        if different:
            found = [
                replace(o, window_nlls=tuple(nll + 60 for nll in o.window_nlls))
                if o.condition.endswith("draw-1")
                else o
                for o in found
            ]
        pools = DualDpPools(CONFIG, found)
        return float(pools.curves[ALL].nats_BK[:, 3].std())

    assert width(True) > width(False) + 0.05


def test_looks_without_exposures_are_refused() -> None:
    bare = [
        replace(o, canaries=tuple(replace(c, exposure_bits=None) for c in o.canaries)) for o in observations()
    ]
    with pytest.raises(InputError, match="without exposures"):
        DualDpPools(CONFIG, bare).curves  # noqa: B018
