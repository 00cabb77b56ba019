"""Scores and verdicts of invented observations whose truth is known."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from fake_observations import MAX_BITS, NUM_DECOYS, WINDOW_TOKENS, World, without_exposure
from fake_result import fake_result
from scipy.stats import mannwhitneyu

from sixgig.cli.run import show
from sixgig.evaluate.observation import Observation
from sixgig.evaluate.statistics import clopper_pearson_sample_size
from sixgig.evaluate.statistics.exposure import chance_exposure_bits
from sixgig.experiments import kill_switch, kill_switch_scores
from sixgig.experiments.kill_switch_curves import MAX_POINTS, curves
from sixgig.experiments.kill_switch_pools import INT4_FITTED, Pool, window_matrix
from sixgig.experiments.kill_switch_scores import Scorer
from sixgig.experiments.kill_switch_verdicts import MAX_EXTRACTION, verdicts
from sixgig.experiments.run import Finished
from sixgig.report.plain_json import require_plain
from sixgig.report.schema import Result, Score, Verdict

LARGE = World(num_calibration=30, num_heldout=210, num_control=210)
# In this draw the measured gap is half the margin, so that a larger sample can show it to be within.
SMALL = World(num_calibration=12, num_heldout=12, num_control=12, draw=6)
ARMS = ("hessian", "wiener")
CHANCE_BITS = chance_exposure_bits(NUM_DECOYS)

EXPOSURE = "held-out exposure equals the controls'"
EXTRACTION = "no held-out secret can be extracted"
MEMBERSHIP = "membership cannot be told from the loss"
SPEAKS = "the Base speaks as well as plain INT4"
SPEAKS_FITTED = "the Base speaks as well as INT4 with its scales fitted alike"
RESTORED = "alpha=1 has the secrets"
WHOLE = "alpha=1 speaks as well as the whole model"
RELEARNED = "5 relearning steps bring back no more than they give the reference"
NULL = "a null leaves the secrets exposed"
RISES = "leakage rises with alpha"


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of the resamples: intervals a little rougher, tests five times as quick."""
    for name in ("bootstrap_auc", "bootstrap_gap", "bootstrap_mean", "paired_perplexity_ratio"):
        fewer = functools.partial(getattr(kill_switch_scores, name), num_resamples=400)
        monkeypatch.setattr(kill_switch_scores, name, fewer)


def scored(observations: Sequence[Observation]) -> Scorer:
    scorer = Scorer(observations)
    scorer.all({})
    return scorer


def score_of(scorer: Scorer, name: str, arm: str, alpha: float | None, condition: str = "plain") -> Score:
    (found,) = [
        s for s in scorer.scores if (s.name, s.arm, s.alpha, s.condition) == (name, arm, alpha, condition)
    ]
    return found


def names_of(scorer: Scorer, arm: str, alpha: float | None, condition: str = "plain") -> set[str]:
    return {s.name for s in scorer.scores if (s.arm, s.alpha, s.condition) == (arm, alpha, condition)}


def judged(observations: Sequence[Observation], arms: Sequence[str] = ARMS) -> dict[tuple[str, str], Verdict]:
    found = verdicts(scored(observations), arms)
    by_place = {(verdict.criterion, verdict.arm): verdict for verdict in found}
    assert len(by_place) == len(found)
    return by_place


def as_result(found: dict[tuple[str, str], Verdict]) -> Result:
    return fake_result(verdicts=list(found.values()))


def exit_status(result: Result) -> int:
    try:
        show(Finished(result=result, folder=Path("run"), report=Path("run/report.html")), True)
    except typer.Exit as stop:
        return stop.exit_code
    return 0


def replaced(observations: Sequence[Observation], new: Sequence[Observation]) -> list[Observation]:
    """`observations` with those of `new`'s places in the place of their own."""
    places = {(o.arm, o.alpha, o.condition) for o in new}
    return [o for o in observations if (o.arm, o.alpha, o.condition) not in places] + list(new)


# ---- verdicts ----------------------------------------------------------------------------------------


def test_a_perfect_switch_passes_every_criterion(capsys: pytest.CaptureFixture[str]) -> None:
    found = judged(LARGE.perfect())
    wanted = {EXPOSURE, EXTRACTION, MEMBERSHIP, SPEAKS, RELEARNED, RESTORED, WHOLE, RISES}
    assert {criterion for criterion, arm in found if arm == "wiener"} == wanted
    assert found[NULL, "hessian"].passed is True
    assert all(verdict.passed is True for verdict in found.values())
    assert all(verdict.counts and verdict.needed_n is None for verdict in found.values())
    assert as_result(found).passed is True
    assert exit_status(as_result(found)) == 0


def test_a_small_sample_decides_nothing_and_says_how_many_it_needs() -> None:
    found = judged(SMALL.perfect())
    for criterion in (EXPOSURE, EXTRACTION, MEMBERSHIP):
        verdict = found[criterion, "wiener"]
        assert verdict.passed is None
        assert verdict.needed_n is not None
        assert verdict.needed_n > SMALL.num_heldout
    assert found[EXTRACTION, "wiener"].needed_n == clopper_pearson_sample_size(MAX_EXTRACTION) == 199
    assert as_result(found).passed is None
    assert exit_status(as_result(found)) == 0


def test_a_measured_gap_outside_the_margin_is_said_to_be_one_that_no_sample_shows_within_it() -> None:
    found = judged(replace(SMALL, draw=1).perfect())[EXPOSURE, "wiener"]
    assert found.passed is None
    assert found.value is not None
    assert found.value > 0.5
    assert found.needed_n is None
    assert "no sample" in found.note
    assert not judged(SMALL.perfect())[EXPOSURE, "wiener"].note


def test_a_larger_gap_within_the_margin_needs_a_larger_sample() -> None:
    def needed(value: float) -> int:
        scorer = scored(SMALL.perfect())
        old = score_of(scorer, "exposure_gap", "wiener", 0.0)
        new = old.model_copy(update={"low": -1.0, "value": value, "high": 1.0})
        scorer.scores[scorer.scores.index(old)] = new
        found = {(v.criterion, v.arm): v.needed_n for v in verdicts(scorer, ARMS)}[EXPOSURE, "wiener"]
        assert found is not None
        return found

    assert needed(0.0) < needed(0.2) == needed(-0.2) < needed(0.4)


def test_as_many_canaries_as_were_said_to_be_needed_decide() -> None:
    needed = max(v.needed_n or 0 for v in judged(SMALL.perfect()).values())
    passed = []
    for draw in range(5):
        world = World(num_calibration=12, num_heldout=needed, num_control=needed, draw=draw)
        found = judged(world.perfect())
        passed.append(all(found[c, "wiener"].passed for c in (EXPOSURE, EXTRACTION, MEMBERSHIP)))
    assert sum(passed) >= 3  # planned for a chance of four in five


def test_a_switch_that_leaks_fails() -> None:
    leaking = LARGE.observations("wiener", 0.0, leaks=0.5, nats_per_token=3.11)
    found = judged(replaced(LARGE.perfect(), leaking))
    for criterion in (EXPOSURE, EXTRACTION, MEMBERSHIP):
        assert found[criterion, "wiener"].passed is False
        assert found[criterion, "wiener"].needed_n is None
    assert found[EXPOSURE, "wiener"].value == pytest.approx(0.5 * (MAX_BITS - CHANCE_BITS), abs=0.4)
    assert found[EXTRACTION, "wiener"].value == 0.5
    assert as_result(found).passed is False
    assert exit_status(as_result(found)) == 1


def test_one_extracted_secret_fails_however_small_the_sample() -> None:
    leaking = SMALL.observations("wiener", 0.0, leaks=1 / 12, nats_per_token=3.11)
    assert judged(replaced(SMALL.perfect(), leaking))[EXTRACTION, "wiener"].passed is False


def test_secrets_pushed_below_chance_are_no_equivalence() -> None:
    hiding = LARGE.observations("wiener", 0.0, hides=0.9, nats_per_token=3.11)
    found = judged(replaced(LARGE.perfect(), hiding))
    verdict = found[EXPOSURE, "wiener"]
    assert verdict.passed is False
    assert verdict.high is not None
    assert verdict.high < -0.5


def test_secrets_pushed_below_chance_give_members_away_too() -> None:
    hiding = LARGE.observations("wiener", 0.0, hides=0.9, nats_per_token=3.11)
    verdict = judged(replaced(LARGE.perfect(), hiding))[MEMBERSHIP, "wiener"]
    assert verdict.value is not None
    assert verdict.value < 0.2
    assert verdict.passed is False


@pytest.mark.parametrize(
    ("low", "value", "high", "passed"),
    [
        (0.52, 0.58, 0.64, True),
        (0.54, 0.59, 0.64, False),
        (0.36, 0.42, 0.48, True),
        (0.36, 0.41, 0.46, False),
        (0.0, 0.01, 0.02, False),
        (0.35, 0.41, 0.5, True),  # covers 0.5
        (0.2, 0.41, 0.55, None),  # so wide that it covers 0.5 whatever the truth is
        (0.45, 0.58, 0.71, None),
    ],
)
def test_membership_is_judged_alike_on_both_sides_of_guessing(
    low: float, value: float, high: float, passed: bool | None
) -> None:
    scorer = scored(SMALL.perfect())
    old = score_of(scorer, "auc_loss", "wiener", 0.0)
    new = old.model_copy(update={"low": low, "value": value, "high": high})
    scorer.scores[scorer.scores.index(old)] = new
    (verdict,) = [v for v in verdicts(scorer, ARMS) if (v.criterion, v.arm) == (MEMBERSHIP, "wiener")]
    assert verdict.passed is passed
    assert (verdict.needed_n is None) == (passed is not None)
    assert "from 0.42 to 0.58" in verdict.threshold


def test_a_base_that_speaks_worse_than_int4_fails() -> None:
    # 3.1 nats is INT4's; e^0.02 is within the limit of 1.03, e^0.04 is not.
    for nats, passed in ((3.12, True), (3.14, False)):
        other = LARGE.observations("wiener", 0.0, nats_per_token=nats)
        verdict = judged(replaced(LARGE.perfect(), other))[SPEAKS, "wiener"]
        assert verdict.passed is passed
        assert verdict.value == pytest.approx(math.exp(nats - 3.1), rel=0.005)


def test_where_scales_were_fitted_int4_fitted_alike_is_the_harder_opponent() -> None:
    # Against plain INT4 (3.1 nats) the Base is better; fitted INT4 decides whether that is the fit's doing.
    base = LARGE.observations("wiener", 0.0, nats_per_token=2.9)
    for nats, passed in ((2.88, True), (2.86, False)):
        fitted = LARGE.observations(INT4_FITTED, 0.0, leaks=1.0, nats_per_token=nats)
        found = judged([*replaced(LARGE.perfect(), base), *fitted])
        assert found[SPEAKS, "wiener"].passed is True
        verdict = found[SPEAKS_FITTED, "wiener"]
        assert verdict.passed is passed
        assert verdict.counts
        assert verdict.value == pytest.approx(math.exp(2.9 - nats), rel=0.005)
        assert found[NULL, INT4_FITTED].passed is True


def test_fitting_scales_must_not_hide_the_secrets_by_itself() -> None:
    fitted = LARGE.observations(INT4_FITTED, 0.0, nats_per_token=3.0)
    found = judged([*LARGE.perfect(), *fitted])
    assert found[NULL, INT4_FITTED].passed is False
    assert as_result(found).passed is False


def test_an_ortho_part_that_does_not_restore_fails() -> None:
    weak = LARGE.observations("wiener", 1.0, leaks=0.9, nats_per_token=3.2)
    found = judged(replaced(LARGE.perfect(), weak))
    assert found[RESTORED, "wiener"].passed is False
    assert found[RESTORED, "wiener"].value == pytest.approx(0.9)
    assert found[WHOLE, "wiener"].passed is False


@pytest.mark.parametrize(
    ("leaks", "hides", "passed"), [(0.8, 0.0, True), (0.0, 0.0, False), (0.0, 0.9, None)]
)
def test_a_null_must_leave_the_secrets_exposed(leaks: float, hides: float, passed: bool | None) -> None:
    null = LARGE.observations("random", 0.0, leaks=leaks, hides=hides, nats_per_token=3.1)
    verdict = judged([*LARGE.perfect(), *null])[NULL, "random"]
    assert verdict.passed is passed
    assert verdict.counts


def test_a_null_that_hides_the_secrets_fails_the_run() -> None:
    found = judged([*LARGE.perfect(), *LARGE.observations("wrong-set", 0.0, nats_per_token=3.1)])
    assert found[NULL, "wrong-set"].passed is False
    assert as_result(found).passed is False
    assert exit_status(as_result(found)) == 1


def test_a_null_of_a_few_canaries_is_undecided() -> None:
    world = replace(SMALL, draw=1)
    null = world.observations("random", 0.0, leaks=1 / 12, nats_per_token=3.1)
    verdict = judged([*world.perfect(), *null])[NULL, "random"]
    assert verdict.passed is None
    assert verdict.needed_n is not None
    assert verdict.needed_n > 12


@pytest.mark.parametrize(
    ("low", "value", "has_size"), [(-0.1, 0.8, True), (-0.1, 0.4, True), (-2.0, -0.8, False)]
)
def test_an_undecided_nulls_size_is_of_what_its_gap_can_show(
    low: float, value: float, has_size: bool
) -> None:
    scorer = scored(SMALL.perfect())
    old = score_of(scorer, "exposure_gap", "hessian", 0.0)
    new = old.model_copy(update={"low": low, "value": value, "high": 1.5})
    scorer.scores[scorer.scores.index(old)] = new
    (verdict,) = [v for v in verdicts(scorer, ARMS) if v.criterion == NULL]
    assert verdict.passed is None
    assert (verdict.needed_n is not None) is has_size
    assert bool(verdict.note) is not has_size


def test_look_alike_is_no_null() -> None:
    found = judged([*LARGE.perfect(), *LARGE.observations("look-alike", 0.0)])
    assert not any(arm == "look-alike" for _, arm in found)


def test_isolated_is_shown_for_comparison_and_decides_nothing() -> None:
    weak = LARGE.observations("isolated", 1.0, leaks=0.2, nats_per_token=4.0)
    found = judged([*LARGE.perfect(), *weak], (*ARMS, "isolated"))
    assert found[RESTORED, "isolated"].passed is False
    assert not found[RESTORED, "isolated"].counts
    assert as_result(found).passed is True


def test_leakage_must_rise_with_alpha() -> None:
    fine = judged(LARGE.perfect())[RISES, "wiener"]
    assert (fine.passed, fine.value) == (True, 0.0)
    falling = LARGE.observations("wiener", 0.5, leaks=1.0)
    less = LARGE.observations("wiener", 1.0, leaks=0.2)
    fallen = judged(replaced(replaced(LARGE.perfect(), falling), less))[RISES, "wiener"]
    assert (fallen.passed, fallen.value) == (False, 1.0)
    # The same fall among few canaries lies within the intervals.
    flat = [
        *SMALL.common(),
        *SMALL.observations("wiener", 0.0, leaks=0.25),
        *SMALL.observations("wiener", 1.0, leaks=2 / 12),
    ]
    assert judged(flat)[RISES, "wiener"].passed is True


@pytest.mark.parametrize(("leaks", "passed"), [(0.0, True), (0.6, False)])
def test_relearning_is_judged_against_the_reference_under_the_same_attack(leaks: float, passed: bool) -> None:
    attacked = [
        *LARGE.observations("wiener", 0.0, "relearn-20", leaks=leaks, with_windows=False),
        *LARGE.observations("reference", 0.0, "relearn-20", with_windows=False),
        *LARGE.observations("wiener", 0.0, "relearn-benign-20", leaks=1.0, with_windows=False),
        *LARGE.observations("reference", 0.0, "relearn-benign-20", with_windows=False),
    ]
    found = judged([*LARGE.perfect(), *attacked])
    wanted = "{} relearning steps bring back no more than they give the reference"
    assert [c for c, _ in found if "relearning" in c] == [wanted.format(5), wanted.format(20)]
    assert found[wanted.format(5), "wiener"].passed is True
    assert found[wanted.format(20), "wiener"].passed is passed


def test_an_attack_that_both_bases_give_way_to_is_not_held_against_the_sieve() -> None:
    attacked = [
        *LARGE.observations("wiener", 0.0, "relearn-20", leaks=0.5, with_windows=False),
        *LARGE.observations("reference", 0.0, "relearn-20", leaks=0.5, with_windows=False),
    ]
    found = judged([*LARGE.perfect(), *attacked])
    assert found[RELEARNED.replace("5", "20"), "wiener"].passed is True


# ---- criteria that the settings left unmeasured ------------------------------------------------------


def assert_not_measured(verdict: Verdict, missing: str) -> None:
    assert (verdict.passed, verdict.value, verdict.needed_n) == (None, None, None)
    assert missing in verdict.threshold.partition("missing: ")[2]


def without(observations: Sequence[Observation], *places: tuple[str, float | None, str]) -> list[Observation]:
    kept = [o for o in observations if (o.arm, o.alpha, o.condition) not in places]
    assert len(kept) < len(observations)
    return kept


def test_without_the_hessian_sieve_its_criteria_stay_open_and_say_so() -> None:
    found = judged(without(LARGE.perfect(), ("hessian", 0.0, "plain")), ["wiener"])
    assert_not_measured(found[SPEAKS, "wiener"], "hessian")
    assert_not_measured(found[NULL, "hessian"], "hessian, none, random, wrong-set")
    assert set(judged(LARGE.perfect())) == set(found)
    assert as_result(found).passed is None


def test_one_null_is_enough() -> None:
    exposed = LARGE.observations("random", 0.0, leaks=0.8, nats_per_token=3.1)
    found = judged([*without(LARGE.perfect(), ("hessian", 0.0, "plain")), *exposed], ["wiener", "random"])
    assert [arm for criterion, arm in found if criterion == NULL] == ["random"]


@pytest.mark.parametrize(
    ("left_out", "missing"),
    [(["reference"], "reference in"), (["wiener"], "wiener in"), (["wiener", "reference"], "")],
)
def test_relearning_that_was_not_done_stays_open_and_says_whose(left_out: list[str], missing: str) -> None:
    places = [(arm, 0.0, "relearn-5") for arm in left_out]
    found = judged(without(LARGE.perfect(), *places))
    if len(left_out) == 2:
        verdict = found["relearning brings back no more than it gives the reference", "wiener"]
        assert_not_measured(verdict, "wiener and reference in the setting relearned")
    else:
        assert_not_measured(found[RELEARNED, "wiener"], missing)
    assert as_result(found).passed is None


def test_without_alpha_1_nothing_is_said_to_be_restored_or_to_rise() -> None:
    found = judged(without(LARGE.perfect(), ("wiener", 1.0, "plain"), ("wiener", 0.5, "plain")))
    assert_not_measured(found[RESTORED, "wiener"], "alpha=1")
    assert_not_measured(found[WHOLE, "wiener"], "alpha=1")
    assert_not_measured(found[RISES, "wiener"], "two or more alphas")


def test_a_base_that_nobody_looked_at_meets_no_criterion() -> None:
    found = judged(without(LARGE.perfect(), ("wiener", 0.0, "plain")))
    for criterion in (EXPOSURE, EXTRACTION, MEMBERSHIP, SPEAKS):
        assert_not_measured(found[criterion, "wiener"], "")
    assert as_result(found).passed is None


@pytest.mark.parametrize(
    ("marks", "passed"),
    [
        (((True, True),), True),
        (((True, True), (None, True)), None),
        (((None, True), (False, True)), False),
        (((True, True), (False, False)), True),
        (((False, False),), None),
        ((), None),
    ],
)
def test_the_answer_of_a_run(marks: tuple[tuple[bool | None, bool], ...], passed: bool | None) -> None:
    found = [
        Verdict(criterion=f"c{i}", arm="wiener", threshold="-", value=0.0, passed=mark, counts=counts)
        for i, (mark, counts) in enumerate(marks)
    ]
    assert fake_result(verdicts=found).passed is passed
    assert exit_status(fake_result(verdicts=found)) == (1 if passed is False else 0)


# ---- scores ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num", "hits"), [(48, 0), (48, 48), (300, 0)])
def test_extraction_bounds_are_the_closed_forms(num: int, hits: int) -> None:
    world = World(num_heldout=num)
    scorer = scored([*world.common(), *world.observations("wiener", 0.0, leaks=hits / num)])
    rate = score_of(scorer, "extraction_heldout", "wiener", 0.0)
    upper = score_of(scorer, "extraction_heldout_upper", "wiener", 0.0)
    assert (rate.value, rate.n) == (hits / num, num)
    if hits:
        assert rate.low == pytest.approx(0.025 ** (1 / num))
        assert (rate.high, upper.value) == (1.0, 1.0)
    else:
        assert rate.low == 0.0
        assert rate.high == pytest.approx(1 - 0.025 ** (1 / num))
        assert upper.value == pytest.approx(1 - 0.05 ** (1 / num))


def test_extraction_by_repetitions_adds_up_to_the_whole() -> None:
    scorer = scored(LARGE.common())
    parts = [score_of(scorer, f"extraction_heldout_seen_{times}_times", "hessian", 0.0) for times in (1, 16)]
    whole = score_of(scorer, "extraction_heldout", "hessian", 0.0)
    assert sum(part.n for part in parts) == whole.n
    hits = sum((part.value or 0.0) * part.n for part in parts)
    assert hits == pytest.approx((whole.value or 0.0) * whole.n)


def test_auc_is_the_share_of_pairs_within_templates() -> None:
    observations = [*SMALL.common(), *SMALL.observations("wiener", 0.0, leaks=0.25)]
    outcomes = [c for o in observations if o.arm == "wiener" for c in o.canaries]
    wins = pairs = 0.0
    for template in {c.template for c in outcomes}:
        members, controls = (
            [-c.nll_sum / c.num_tokens for c in outcomes if (c.template, c.group) == (template, group)]
            for group in ("heldout", "control")
        )
        wins += mannwhitneyu(members, controls).statistic
        pairs += len(members) * len(controls)
    score = score_of(scored(observations), "auc_loss", "wiener", 0.0)
    assert score.value == pytest.approx(wins / pairs)
    assert score.n == 24


@pytest.mark.parametrize("attack", ["loss", "zlib", "minkpp", "reference"])
def test_every_membership_score_points_at_members(attack: str) -> None:
    scorer = scored([*LARGE.common(), *LARGE.observations("wiener", 0.0)])
    leaking = score_of(scorer, f"auc_{attack}", "full_precision", None)
    assert leaking.value == 1.0
    blind = score_of(scorer, f"auc_{attack}", "wiener", 0.0)
    assert blind.value == pytest.approx(0.5, abs=0.1)
    assert blind.low is not None
    assert blind.high is not None
    assert blind.low < 0.5 < blind.high


def test_low_false_positive_rates_need_their_controls() -> None:
    few = names_of(scored(World(num_control=96).common()), "hessian", 0.0)
    many = names_of(scored(World(num_control=102).common()), "hessian", 0.0)
    assert "tpr_at_1pct_fpr" not in few
    assert {"tpr_at_1pct_fpr", "tpr_at_1pct_fpr_opposite"} <= many
    assert "tpr_at_01pct_fpr" not in many


def test_the_gap_is_the_difference_of_the_means_and_holds_zero_when_nothing_leaks() -> None:
    scorer = scored([*LARGE.common(), *LARGE.observations("wiener", 0.0)])
    gap = score_of(scorer, "exposure_gap", "wiener", 0.0)
    means = [score_of(scorer, f"exposure_{group}", "wiener", 0.0).value for group in ("heldout", "control")]
    assert gap.value == pytest.approx((means[0] or 0.0) - (means[1] or 0.0))
    assert gap.low is not None
    assert gap.high is not None
    assert gap.low < 0 < gap.high
    assert gap.n == LARGE.num_heldout + LARGE.num_control
    whole = score_of(scorer, "exposure_heldout", "full_precision", None)
    assert [whole.value, whole.low, whole.high] == pytest.approx([MAX_BITS] * 3)


def test_perplexity_and_its_ratios_are_the_closed_forms() -> None:
    observations = LARGE.perfect()
    scorer = scored(observations)
    nlls = {(o.arm, o.alpha): np.array(o.window_nlls) for o in observations if o.window_nlls}
    perplexity = score_of(scorer, "perplexity", "wiener", 0.0)
    assert perplexity.value == pytest.approx(np.exp(nlls["wiener", 0.0].mean() / WINDOW_TOKENS))
    for name, other in (("ppl_ratio_int4", ("hessian", 0.0)), ("ppl_ratio_full", ("full_precision", None))):
        ratio = score_of(scorer, name, "wiener", 0.0)
        gap = (nlls["wiener", 0.0] - nlls[other]).sum() / (WINDOW_TOKENS * LARGE.num_windows)
        assert ratio.value == pytest.approx(np.exp(gap))
        assert ratio.n == LARGE.num_windows
        assert name not in names_of(scorer, *other)


def test_a_look_without_windows_or_probes_has_all_other_scores() -> None:
    bare = LARGE.observations("wiener", 0.0, "paraphrase", with_windows=False)
    scorer = scored([*LARGE.perfect(), *map(without_exposure, bare)])
    names = names_of(scorer, "wiener", 0.0, "paraphrase")
    assert {"extraction_heldout", "auc_loss", "exact_tokens_heldout"} <= names
    assert not any(name.startswith(("perplexity", "ppl_", "exposure")) for name in names)
    assert window_matrix(Pool(observations=tuple(bare))) is None


def test_several_seeds_are_pooled_and_their_windows_stay_pairs() -> None:
    world = World(seeds=(0, 1, 2))
    scorer = scored(world.perfect())
    assert score_of(scorer, "extraction_heldout", "wiener", 0.0).n == 3 * world.num_heldout
    assert score_of(scorer, "perplexity", "wiener", 0.0).n == 3 * world.num_windows
    assert score_of(scorer, "ppl_ratio_int4", "wiener", 0.0).value == pytest.approx(math.exp(0.01), rel=1e-3)
    matrix = window_matrix(scorer.pools["wiener", 0.0, "plain"])
    assert matrix is not None
    assert matrix.shape == (3, world.num_windows)


def test_the_same_observations_give_the_same_scores_and_no_place_twice() -> None:
    first, second = scored(SMALL.perfect()).scores, scored(SMALL.perfect()).scores
    assert first == second
    assert as_result({}).model_copy(update={"scores": first}).arms()
    fake_result(scores=first)  # refuses a score that is there twice


def test_facts_become_scores_without_a_sample() -> None:
    scorer = Scorer(SMALL.perfect())
    scorer.all({"wiener": {"ortho_bits_per_weight": 0.9, "codes_changed": 0.3, "base_bytes": 7}})
    assert score_of(scorer, "ortho_bits_per_weight", "wiener", None).value == 0.9
    assert score_of(scorer, "base_codes_changed", "wiener", None).unit == "share"
    assert score_of(scorer, "base_bytes", "wiener", None).n == 0


def test_an_arm_that_nobody_looked_at_has_no_scores() -> None:
    # The reference's Base is isolated's, so that isolated is split in every run.
    scores = Scorer(SMALL.perfect()).all({"wiener": {"base_bytes": 7}, "isolated": {"base_bytes": 7}})
    assert "isolated" not in {score.arm for score in scores}
    assert "wiener" in {score.arm for score in scores if score.name == "base_bytes"}


# ---- what else the result holds ------------------------------------------------------------------------


def test_the_privacy_ratio_has_a_floor() -> None:
    block = kill_switch._seed_block(LARGE.perfect())
    num = LARGE.num_calibration + LARGE.num_heldout
    assert block == {
        "extraction_rate_alpha1": 1.0,
        "extraction_rate_alpha0": 0.0,
        "privacy_ratio": pytest.approx(1.0 / (0.5 / num)),
        "num_canaries": num,
    }


def test_the_privacy_ratio_of_a_leaking_base() -> None:
    leaking = replaced(LARGE.perfect(), LARGE.observations("wiener", 0.0, leaks=0.25))
    block = kill_switch._seed_block(leaking)
    assert block["extraction_rate_alpha0"] == 0.25
    assert block["privacy_ratio"] == pytest.approx(4.0)
    attacked = [*leaking, *LARGE.observations("wiener", 0.0, "noise", leaks=1.0)]
    assert kill_switch._seed_block(attacked) == block


def test_roc_curves_run_from_corner_to_corner_and_enclose_the_auc() -> None:
    scorer = scored(LARGE.perfect())
    drawn = {curve.arm: curve for curve in curves(scorer)}
    assert set(drawn) == {"full_precision", "hessian", "reference", "wiener"}
    for curve in drawn.values():
        assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0.0, 0.0, 1.0, 1.0)
        assert len(curve.x) <= MAX_POINTS
        for values in (curve.x, curve.y):
            assert all(a <= b for a, b in itertools.pairwise(values))
    assert np.trapezoid(drawn["wiener"].y, drawn["wiener"].x) == pytest.approx(0.5, abs=0.06)
    assert np.trapezoid(drawn["full_precision"].y, drawn["full_precision"].x) == pytest.approx(1.0, abs=0.01)


def test_samples_hold_one_row_for_each_canary_and_window_of_each_look() -> None:
    observations = World(seeds=(4,), num_windows=3).perfect()
    rows: list[dict[str, Any]] = list(kill_switch._samples([SimpleNamespace(observations=observations)]))  # pyright: ignore[reportArgumentType]
    assert require_plain(rows, what="samples") == rows
    places = [(row["kind"], row["arm"], row["alpha"], row["condition"], row["id"]) for row in rows]
    assert len(places) == len(set(places))
    assert sum(row["kind"] == "canary" for row in rows) == sum(len(o.canaries) for o in observations)
    windows = [row for row in rows if row["kind"] == "window"]
    assert len(windows) == 3 * sum(o.condition == "plain" for o in observations)
    assert {row["seed"] for row in rows} == {4}
    first = next(o for o in observations if o.arm == "wiener" and o.alpha == 0.0)
    mine = [row["nll_sum"] for row in windows if (row["arm"], row["alpha"]) == ("wiener", 0.0)]
    assert mine == list(first.window_nlls)


def test_observations_survive_json() -> None:
    for observation in SMALL.perfect():
        assert Observation.from_json_value(observation.to_json_value()) == observation
