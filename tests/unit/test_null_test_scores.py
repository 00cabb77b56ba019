"""Scores and verdicts of the null test, from invented looks whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_looks import INT4, looks, null_test_scores, outcomes, with_last_bit

from sixgig.experiments.split_rows import FULL, SPLIT
from sixgig.report.schema import BLOCK_KEYS, Verdict


def verdict(found: list[Verdict], words: str) -> Verdict:
    (one,) = [item for item in found if words in item.criterion]
    return one


def test_a_split_that_is_int4_at_0_and_better_at_1_passes() -> None:
    found = null_test_scores().verdicts()
    assert [one.passed for one in found] == [True] * 5
    assert verdict(found, "speaks as well").value == 1
    assert verdict(found, "between").value == pytest.approx(0.7, abs=0.05)


def test_the_last_bit_of_one_window_is_enough_to_fail() -> None:
    seen = looks()
    seen[SPLIT, 0.0] = with_last_bit(seen[SPLIT, 0.0])
    found = null_test_scores(seen).verdicts()
    assert verdict(found, "every window").passed is False
    assert verdict(found, "speaks as well").passed is True


def test_so_is_one_logit_and_one_answer() -> None:
    compared = {"num_tokens": 8, "num_logits": 800, "alpha0": 1e-7, "alpha1": 3.0}
    assert verdict(null_test_scores(compared=compared).verdicts(), "to the bit").passed is False
    seen = looks()
    answers = list(seen[SPLIT, 0.0].answers)
    answers[0] = replace(answers[0], nlls=tuple(np.nextafter(answers[0].nlls, 9).tolist()))
    seen[SPLIT, 0.0] = replace(seen[SPLIT, 0.0], answers=tuple(answers))
    assert verdict(null_test_scores(seen).verdicts(), "MMLU").passed is False


def test_a_comparison_that_could_not_fail_decides_nothing() -> None:
    compared = {"num_tokens": 8, "num_logits": 800, "alpha0": 0.0, "alpha1": 0.0}
    one = verdict(null_test_scores(compared=compared).verdicts(), "to the bit")
    assert one.passed is None
    assert "no Ortho part" in one.note


def test_a_base_six_per_cent_worse_fails_and_a_noisy_one_says_how_many_windows_it_needs() -> None:
    seen = looks()
    plain = seen[INT4, None].nlls
    seen[SPLIT, 0.0] = replace(seen[SPLIT, 0.0], nlls=plain + 100 * np.log(1.08))
    assert verdict(null_test_scores(seen).verdicts(), "speaks as well").passed is False
    noise = 100 * 0.2 * np.random.default_rng(5).normal(size=len(plain))
    seen[SPLIT, 0.0] = replace(seen[SPLIT, 0.0], nlls=plain + noise - noise.mean() + 100 * np.log(1.04))
    one = verdict(null_test_scores(seen).verdicts(), "speaks as well")
    assert one.passed is None
    assert one.needed_n is not None
    assert one.needed_n > len(plain)


@pytest.mark.parametrize(("back", "passed"), [(-0.3, False), (1.5, False), (0.02, None), (0.5, True)])
def test_alpha_1_must_lie_between(back: float, passed: bool | None) -> None:
    seen = looks()
    full, plain = seen[FULL, None].nlls, seen[INT4, None].nlls
    noise = np.random.default_rng(6).normal(size=len(full)) * 2
    seen[SPLIT, 1.0] = replace(seen[SPLIT, 1.0], nlls=plain - back * (plain - full) + noise - noise.mean())
    one = verdict(null_test_scores(seen).verdicts(), "between")
    assert one.passed is passed
    assert (one.needed_n is not None) == (passed is None)


def test_where_rounding_costs_nothing_there_is_nothing_to_take_back() -> None:
    seen = looks()
    seen[FULL, None] = replace(seen[FULL, None], nlls=seen[INT4, None].nlls)
    scores = null_test_scores(seen)
    one = verdict(scores.verdicts(), "between")
    assert (one.passed, one.value) == (None, None)
    (score,) = [s for s in scores.all() if s.name == "loss_recovered"]
    assert score.value is None
    assert "nothing to take back" in score.note


def test_scores_are_what_the_looks_say() -> None:
    scores = null_test_scores()
    found = {(s.name, s.arm, s.alpha): s for s in scores.all()}
    nlls = scores.looks[FULL, None].nlls
    assert found["perplexity", FULL, None].value == pytest.approx(np.exp(nlls.sum() / (100 * len(nlls))))
    assert found["ppl_ratio_int4", SPLIT, 0.0].value == 1
    assert found["ppl_ratio_full", INT4, None].value == pytest.approx(np.exp(0.1), rel=0.01)
    right = [one.is_right for one in scores.looks[FULL, None].answers]
    assert found["mmlu_macro", FULL, None].value == pytest.approx(np.mean(right))
    assert found["mmlu_changed_int4", SPLIT, 0.0].value == 0
    assert found["mmlu_mcnemar_p_full", INT4, None].value < 0.05
    assert found["mmlu_difference_full", INT4, None].value == pytest.approx(-0.1, abs=0.02)
    assert ("mmlu_difference_int4", INT4, None) not in found


def test_without_mmlu_there_is_no_row_of_it_and_no_zero() -> None:
    scores = null_test_scores(looks(mmlu=False))
    assert not [s for s in scores.all() if s.name.startswith("mmlu")]
    assert len(scores.verdicts()) == 4
    block = scores.seed_block(4)
    assert set(block) == {*BLOCK_KEYS["exp2_null_test"], "bits"}
    with_it = null_test_scores().seed_block(4)
    assert {"mmlu_fp16", "mmlu_int4", "mmlu_libortho_alpha0"} <= set(with_it)
    assert with_it["ppl_ratio_libortho"] == 1


def test_a_model_that_guesses_is_said_to() -> None:
    assert null_test_scores().warnings() == []
    seen = {key: replace(look, answers=outcomes(0.27, count=60)) for key, look in looks().items()}
    (warning,) = null_test_scores(seen).warnings()
    assert "guessing" in warning
