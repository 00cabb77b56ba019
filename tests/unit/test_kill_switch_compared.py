"""Several sieves in one run: each one's equivalence is corrected for how many were tried; none decides."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from fake_observations import World

from sixgig.evaluate.observation import Observation
from sixgig.evaluate.statistics import bootstrap_gap, bootstrap_tost, tost
from sixgig.experiments import kill_switch_scores
from sixgig.experiments.kill_switch_compared import CRITERION, compared
from sixgig.experiments.kill_switch_scores import Scorer
from sixgig.experiments.kill_switch_verdicts import EXPOSURE_MARGIN_BITS, verdicts
from sixgig.report.schema import Verdict

LARGE = World(num_calibration=30, num_heldout=300, num_control=300)
ARMS = ("hessian", "wiener", "isolated", "random", "look-alike")


def scorer_of(observations: list[Observation]) -> Scorer:
    return Scorer(observations)


def with_scores(observations: list[Observation]) -> Scorer:
    scorer = Scorer(observations)
    scorer.all({})
    return scorer


def observed(world: World, leaks: dict[str, float]) -> list[Observation]:
    arms = [one for arm, share in leaks.items() for one in world.observations(arm, 0.0, leaks=share)]
    return [*world.common(), *arms]


def judged(observations: list[Observation], arms: tuple[str, ...] = ARMS) -> dict[str, Verdict]:
    found = compared(scorer_of(observations), arms, EXPOSURE_MARGIN_BITS)
    return {verdict.arm: verdict for verdict in found}


def test_every_sieve_that_claims_to_hide_is_judged_and_none_decides() -> None:
    found = judged(observed(LARGE, {"wiener": 0.0, "look-alike": 0.5, "random": 0.9}))
    assert list(found) == ["wiener", "isolated", "look-alike"]  # nulls and INT4 claim nothing
    assert found["wiener"].passed is True
    assert found["isolated"].passed is True  # its Base is the reference's
    assert found["look-alike"].passed is False
    assert not any(verdict.counts for verdict in found.values())
    assert all("of 3 sieves; n = 300 held-out secrets and 300 controls" in v.note for v in found.values())


def test_one_sieve_is_no_comparison() -> None:
    assert judged(observed(LARGE, {"wiener": 0.0}), ("hessian", "wiener", "random")) == {}


def test_the_more_sieves_the_stricter() -> None:
    draws = [World(num_calibration=12, num_heldout=60, num_control=90, draw=draw) for draw in range(12)]
    alone = together = 0
    for world in draws:
        scorer = scorer_of(observed(world, {"wiener": 0.0, "look-alike": 0.0}))
        (heldout, clusters), (control, others) = (
            scorer.pools["wiener", 0.0, "plain"].exposures(group) for group in ("heldout", "control")
        )
        gap = bootstrap_gap(heldout, clusters, control, others, seed=0)
        alone += tost(gap.interval, EXPOSURE_MARGIN_BITS) == "equivalent"
        found = {v.arm: v for v in compared(scorer, ARMS, EXPOSURE_MARGIN_BITS)}
        together += found["wiener"].passed is True
        if found["wiener"].passed is None and abs(found["wiener"].value or 0.0) < EXPOSURE_MARGIN_BITS:
            assert (found["wiener"].needed_n or 0) > 60
    assert together < alone


def test_a_gap_beyond_the_margin_needs_no_size() -> None:
    world = World(num_calibration=12, num_heldout=12, num_control=12, draw=1)
    found = judged(observed(world, {"wiener": 0.0, "look-alike": 0.0}))
    for verdict in found.values():
        if verdict.passed is None and abs(verdict.value or 0.0) >= EXPOSURE_MARGIN_BITS:
            assert verdict.needed_n is None
            assert "no sample" in verdict.note
            break
    else:
        pytest.fail("this draw was chosen for a measured gap outside the margin")


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bootstrap_auc", "bootstrap_gap", "bootstrap_mean", "paired_perplexity_ratio"):
        fewer = functools.partial(getattr(kill_switch_scores, name), num_resamples=200)
        monkeypatch.setattr(kill_switch_scores, name, fewer)


@pytest.mark.usefixtures("few_resamples")
def test_they_stand_among_the_verdicts_of_a_run_without_deciding_it() -> None:
    scorer = with_scores(
        [
            *LARGE.perfect(),
            *LARGE.observations("look-alike", 0.0, leaks=0.5),
            *LARGE.observations("none", 0.0, leaks=0.8),
        ]
    )
    found = verdicts(scorer, ("hessian", "none", "wiener", "look-alike"))
    assert [v.arm for v in found if v.criterion == CRITERION] == ["wiener", "look-alike"]
    assert all(v.passed for v in found if v.counts)
    nulls = [v for v in found if v.criterion == "a null leaves the secrets exposed"]
    assert [(v.arm, v.passed) for v in nulls] == [("hessian", True), ("none", True)]


@pytest.mark.usefixtures("few_resamples")
def test_a_null_that_hides_fails_the_run_as_before() -> None:
    scorer = with_scores([*LARGE.perfect(), *LARGE.observations("none", 0.0)])
    found = {v.arm: v for v in verdicts(scorer, ("hessian", "none", "wiener")) if "null" in v.criterion}
    assert found["none"].passed is False
    assert found["none"].counts


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.5, 0.7, -0.6, 1.5])
def test_p_values_agree_with_the_interval(shift: float) -> None:
    rng = np.random.default_rng(3)
    clusters = [(0, f"t{number % 5}") for number in range(120)]
    a, b = rng.normal(shift, 1.0, 120), rng.normal(0.0, 1.0, 120)
    gap = bootstrap_gap(a, clusters, b, clusters, seed=0)
    p_values = bootstrap_tost(a, clusters, b, clusters, margin=0.5, seed=0)
    answer = tost(gap.interval, 0.5)
    assert (p_values.equivalent <= 0.05) is (answer == "equivalent")
    assert (p_values.different <= 0.05) is (answer == "different")
    assert min(p_values.equivalent, p_values.different) > 0
