"""Scores and verdicts on answers made up so that every criterion is met, or one of them is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sixgig.experiments.saving_genius_config import SavingGeniusConfig
from sixgig.experiments.saving_genius_curves import curves
from sixgig.experiments.saving_genius_names import arm_names
from sixgig.experiments.saving_genius_scores import GeniusScores, Look
from sixgig.experiments.saving_genius_verdicts import verdicts
from sixgig.report.schema import Verdict

N = 1000
CONFIG = SavingGeniusConfig(
    scores=("hessian", "fisher", "random"),
    judged_score="fisher",
    shares=(0.01, 0.05),
    fitted=("fisher", "random"),
    fitted_shares=(0.01,),
    low_bits=0,
)
# Share of right answers. The first questions of each arm are wrong, so that arms differ question by question.
RIGHT = {
    "fp16": 1.0,
    "int3": 0.5,
    "int3-hessian-1pct": 0.8,
    "int3-fisher-1pct": 0.9,
    "int3-random-1pct": 0.52,
    "int3-hessian-5pct": 0.9,
    "int3-fisher-5pct": 0.99,
    "int3-random-5pct": 0.6,
    "int3-fisher-1pct-fitted": 0.995,
    "int3-random-1pct-fitted": 0.93,
}


def answers(share: float, n: int = N) -> np.ndarray:
    return (np.arange(n) >= round((1 - share) * n)).astype(float)


def made_up(
    changes: dict[str, float] | None = None,
    *,
    n: int = N,
    config: SavingGeniusConfig = CONFIG,
    **invented: float,
) -> GeniusScores:
    """`invented`: the share of right answers in invented digits, by arm with _ for -."""
    shares = RIGHT | (changes or {})
    measures = ("digits", "invented") if config.contrast else ("digits",)
    rng = np.random.default_rng(0)
    nlls = rng.normal(100, 5, size=8)
    looks = {}
    for seed in config.seeds:
        for arm in arm_names(config):
            right = {"digits": answers(shares.get(arm, 0.5), n)}
            if config.contrast:
                right["invented"] = answers(invented.get(arm.replace("-", "_"), 0.5), n)
            looks[seed, arm] = Look(nlls=nlls if arm == "fp16" else nlls + 1, right=right)
    # Questions in pairs, as a sum and its reverse, spread over right and wrong ones alike.
    units = {seed: [number % (n // 2) for number in range(n)] for seed in config.seeds}
    return GeniusScores(looks=looks, units=units, measures=measures, num_scored=31)


def verdict(found: list[Verdict], arm: str, words: str) -> Verdict:
    (one,) = [item for item in found if item.arm == arm and words in item.criterion]
    return one


def test_where_all_is_as_hoped_every_verdict_that_counts_is_met() -> None:
    found = verdicts(CONFIG, made_up())
    assert [one.passed for one in found if one.counts] == [True] * 6
    assert all(one.note == "n = 1,000" for one in found[1:]), "what they could see has a column of its own"
    assert verdict(found, "int3-fisher-1pct", "save it").passed is False, "shown, and does not count"
    assert verdict(found, "int3-random-1pct-fitted", "fitted").passed is False


@pytest.mark.parametrize(
    ("changes", "arm", "words"),
    [
        ({"int3": 0.7}, "int3", "rounding alone harms"),
        ({"int3-random-5pct": 0.8}, "int3-random-5pct", "drawn at random do not"),
        ({"int3-fisher-5pct": 0.93}, "int3-fisher-5pct", "save it"),
        ({"int3-fisher-1pct-fitted": 0.9}, "int3-fisher-1pct-fitted", "fitted on the rounded Base"),
        ({"int3-random-1pct-fitted": 0.999}, "int3-fisher-1pct-fitted", "does not explain"),
    ],
)
def test_each_criterion_can_fail(changes: dict[str, float], arm: str, words: str) -> None:
    assert verdict(verdicts(CONFIG, made_up(changes)), arm, words).passed is False


def test_what_lies_too_near_to_its_limit_is_left_open_and_says_how_many_questions_would_do() -> None:
    one = verdict(
        verdicts(CONFIG, made_up({"int3-fisher-5pct": 0.975}, n=200)), "int3-fisher-5pct", "save it"
    )
    assert one.passed is None
    assert one.needed_n is not None
    assert one.needed_n > 200


def test_a_skill_that_was_not_learned_voids_all_else() -> None:
    first, *others = verdicts(CONFIG, made_up({"fp16": 0.98}))
    assert first.passed is False
    assert [one.passed for one in others] == [None] * len(others)
    assert all(one.note.startswith("void") for one in others)


def test_accuracy_kept_is_of_full_precisions_and_paired() -> None:
    scores = made_up({"fp16": 0.992})
    kept = scores.keeps("int3-fisher-5pct")
    assert kept is not None
    assert kept.value == pytest.approx(0.99 / 0.992, abs=1e-9)
    assert kept.interval.high <= 1.0, "its wrong answers include full precision's"
    rows = {(row.name, row.arm): row for row in scores.all()}
    assert rows["accuracy", "fp16"].value == 0.992
    assert ("accuracy_kept", "fp16") not in rows
    assert "2 in full precision" in rows["accuracy_mcnemar_p_full", "int3-fisher-5pct"].note
    assert "count as two questions (500 of 1,000 are" in rows["accuracy_mcnemar_p_full", "int3"].note
    alone = replace(scores, units={0: range(N)})
    (row,) = [row for row in alone.all() if (row.name, row.arm) == ("accuracy_mcnemar_p_full", "int3")]
    assert row.note == "right alone: 0 here, 492 in full precision"
    assert rows["accuracy_mcnemar_p_full", "int3"].value < 1e-100  # type: ignore[operator]
    assert rows["ppl_ratio_full", "int3"].value == pytest.approx(np.exp(1 / 31))


def test_seeds_are_pooled() -> None:
    config = replace(CONFIG, seeds=(0, 1, 2))
    scores = made_up(config=config)
    assert scores.n == 3 * N
    assert scores.accuracy("int3").n == 3 * N
    one, three = made_up().keeps("int3-fisher-5pct"), scores.keeps("int3-fisher-5pct")
    assert one is not None
    assert three is not None
    ratio = (one.interval.high - one.interval.low) / (three.interval.high - three.interval.low)
    assert ratio == pytest.approx(np.sqrt(3), rel=0.2)


def test_scores_of_the_wrong_skill_must_not_save_the_right_one() -> None:
    config = replace(CONFIG, contrast=True, fitted=())
    wrong = {"int3-fisher-invented-5pct": 0.7}
    invented = {"fp16": 1.0, "int3_fisher_5pct": 0.7, "int3_fisher_invented_5pct": 0.99}
    found = verdicts(config, made_up(wrong, config=config, **invented))
    of_contrast = [one for one in found if "skill's score" in one.criterion or "other skill" in one.criterion]
    assert [one.passed for one in of_contrast] == [True] * 4
    alike = verdicts(config, made_up({"int3-fisher-invented-5pct": 0.99}, config=config, **invented))
    null = verdict(alike, "int3-fisher-invented-5pct", "null: the other skill's")
    assert null.passed is False
    assert verdict(alike, "int3-fisher-5pct", "sums in digits numbers").passed is not True


def test_curves_run_from_the_base_alone_through_every_share() -> None:
    found = {curve.arm: curve for curve in curves(CONFIG, made_up())}
    assert found["int3-fisher"].x == [0, 1, 5]
    assert found["int3-fisher"].y == pytest.approx([0.5, 0.9, 0.99])
    assert found["int3-fisher-fitted"].x == [0, 1]
