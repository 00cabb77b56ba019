"""Intervals around lm-eval's numbers, floors, and the smallest difference that could have been seen."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from sixgig.evaluate.harness_intervals import spread
from sixgig.experiments.evaluation_scores import EvaluationScores, samples


def test_right_and_wrong_have_the_exact_binomial_interval() -> None:
    found = spread(0.3, 0.1, [1.0] * 6 + [0.0] * 14, "acc")
    exact = binomtest(6, 20).proportion_ci(method="exact")
    assert found is not None
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    assert found.stderr == pytest.approx(math.sqrt(0.3 * 0.7 / 19))


def test_none_right_still_has_an_error() -> None:
    found = spread(0.0, 0.0, [0.0] * 100, "exact_match")
    assert found is not None
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 100))
    assert found.visible_difference > 0.01


def test_the_visible_difference_is_found_in_four_of_five_pairs_of_runs() -> None:
    n, share = 500, 0.4
    found = spread(share, None, [1] * 200 + [0] * 300, "acc")
    assert found is not None
    generator = np.random.default_rng(0)
    a = generator.binomial(n, share, 20_000) / n
    b = generator.binomial(n, share + found.visible_difference, 20_000) / n
    error = np.sqrt(a * (1 - a) / n + b * (1 - b) / n)
    assert np.mean(np.abs(a - b) / error > 1.96) == pytest.approx(0.8, abs=0.02)


def test_a_perplexity_is_bootstrapped_over_documents_and_covers_its_truth() -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(60):
        words = generator.integers(50, 400, 40)
        sums = [[float(-3.0 * n + generator.normal(0, 2 * math.sqrt(n))), int(n)] for n in words]
        value = math.exp(-sum(one[0] for one in sums) / sum(one[1] for one in sums))
        found = spread(value, None, sums, "word_perplexity")
        assert found is not None
        hits += found.low <= math.exp(3.0) <= found.high
    assert hits >= 51  # of 60, at 95% less than one in two hundred would have fewer


def test_shares_of_instructions_are_drawn_by_prompt() -> None:
    values = [[True, False], [True], [False, False, True]] * 5
    found = spread(15 / 30, None, values, "inst_level_strict_acc")
    assert found is not None
    assert found.low < 0.5 < found.high
    assert spread(0.4, None, values, "inst_level_strict_acc") is None  # not the quotient that is known here
    assert spread(0.5, None, values[:3], "inst_level_strict_acc") is None  # too few


def test_bits_per_byte_and_other_means() -> None:
    pairs = [[-float(n), 2 * n] for n in range(5, 25)]
    found = spread(0.5 / math.log(2), None, pairs, "bits_per_byte")
    assert found is not None
    assert found.low == pytest.approx(found.high)  # every document has the same quotient
    mean = spread(0.35, 0.05, [0.3, 0.4], "f1")
    assert mean is not None
    assert (mean.low, mean.high) == pytest.approx((0.252, 0.448), abs=1e-4)


def kept(num_right: int, n: int) -> dict[str, Any]:
    score = {
        "task": "mmlu",
        "metric": "acc",
        "filter": "none",
        "value": num_right / n,
        "stderr": None,
        "n": n,
        "floor": 0.25,
        "higher_is_better": True,
    }
    rows = [
        {
            "task": "mmlu_anatomy",
            "tasks": ["mmlu", "mmlu_anatomy"],
            "filter": "none",
            "doc_id": place,
            "metrics": {"acc": float(place < num_right)},
        }
        for place in range(n)
    ]
    subject = score | {"task": "mmlu_anatomy"}
    return {"mmlu": {"scores": [score, subject], "samples": rows, "versions": {}, "warnings": []}}


def test_a_model_at_the_floor_is_warned_of() -> None:
    scores = EvaluationScores(kept(26, 100), arm="eval-split", alpha=0.0)
    assert [verdict.passed for verdict in scores.verdicts()] == [None]
    assert "is not above 25%" in scores.warnings()[0]
    assert "n = 100" in scores.warnings()[0]


def test_a_model_above_the_floor_is_not() -> None:
    scores = EvaluationScores(kept(60, 100), arm="eval-split", alpha=1.0)
    assert [verdict.passed for verdict in scores.verdicts()] == [True]
    assert not any(verdict.counts for verdict in scores.verdicts())
    assert scores.warnings() == []


def test_subjects_have_no_rows_of_their_own_and_every_score_says_what_it_could_see() -> None:
    rows = EvaluationScores(kept(60, 100), arm="eval-split", alpha=1.0).all()
    assert [row.name for row in rows] == ["mmlu.acc", "mmlu.acc.visible_difference"]
    assert rows[0].n == rows[1].n == 100
    assert rows[1].value == pytest.approx(3.962 * math.sqrt(0.24 / 99), rel=1e-3)
    assert len(list(samples(kept(60, 100), arm="eval-split", alpha=1.0))) == 100
