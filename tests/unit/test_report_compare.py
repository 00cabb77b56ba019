from __future__ import annotations

import pytest
from fake_result import fake_result, score
from hypothesis import given, settings
from hypothesis import strategies as st

from sixgig.errors import InputError
from sixgig.report.compare import ScorePair, compare, comparison_tables
from sixgig.report.schema import Score


def test_a_run_beside_itself_differs_in_nothing() -> None:
    comparison = compare(fake_result(), fake_result())
    assert comparison.config_differences == {}
    assert {pair.difference for pair in comparison.pairs} <= {0.0, None}
    assert not any(pair.intervals_apart for pair in comparison.pairs)
    assert len(comparison.pairs) == len(fake_result().scores)


def test_differences_of_settings_are_named_in_full() -> None:
    config = fake_result().config | {"bits": 3, "canaries": {"num_heldout": 128}, "new": True}
    differences = compare(fake_result(), fake_result(config=config)).config_differences
    assert differences == {"bits": (4, 3), "canaries.num_heldout": (64, 128), "new": ("(absent)", True)}


def test_different_experiments_are_refused() -> None:
    with pytest.raises(InputError, match="null-test"):
        compare(fake_result(), fake_result(experiment="null-test"), left_name="a", right_name="b")


def _pair(left: Score | None, right: Score | None) -> ScorePair:
    return ScorePair(left=left, right=right)


ends = st.tuples(st.floats(0, 10), st.floats(0, 10)).map(sorted)


def _with_interval(interval: list[float]) -> Score:
    low, high = interval
    middle = (low + high) / 2
    return score("exposure_heldout", "a", 0.0, middle).model_copy(update={"low": low, "high": high})


@given(ends, ends)
@settings(deadline=None, max_examples=100)
def test_intervals_are_apart_exactly_when_they_share_no_point(left: list[float], right: list[float]) -> None:
    shares_a_point = max(left[0], right[0]) <= min(left[1], right[1])
    one, other = (
        _pair(_with_interval(left), _with_interval(right)),
        _pair(_with_interval(right), _with_interval(left)),
    )
    assert one.intervals_apart is (not shares_a_point)
    assert other.intervals_apart is one.intervals_apart


def test_what_is_missing_or_defined_otherwise_has_no_difference() -> None:
    here = score("auc_loss", "a", 0.0, 0.5, 0.1, unit="")
    assert _pair(here, None).difference is None
    assert _pair(None, here).intervals_apart is None
    assert _pair(here, here.model_copy(update={"version": 2})).difference is None
    assert _pair(here, here.model_copy(update={"low": None})).intervals_apart is None


def test_the_table_marks_better_worse_and_does_not_judge_without_a_direction() -> None:
    def scores(value: float) -> list[Score]:
        return [
            score("exposure_heldout", "wiener", 0.0, value, 0.1, better=False),
            score("exposure_heldout", "isolated", 0.0, value, 0.1, better=True),
            score("exposure_heldout", "random", 0.0, value, 0.1, better=None),
            score("exposure_heldout", "hessian", 0.0, value, 9.0, better=False),
        ]

    comparison = compare(fake_result(scores=scores(1.0)), fake_result(scores=scores(3.0)))
    table = comparison_tables(comparison)[1]
    assert [row[-1].tone for row in table.rows] == ["bad", "good", "unknown", ""]
    assert table.rows[0][-1].text == "+2.00"
    assert table.rows[0][-1].detail == "intervals apart"


def test_a_score_of_one_side_only_is_shown() -> None:
    left = fake_result(scores=[])
    right = fake_result(scores=[score("auc_loss", "wiener", 0.0, 0.5, unit="")])
    table = comparison_tables(compare(left, right))[1]
    assert [cell.text for cell in table.rows[0]][-3:] == ["-", "0.50", "-"]


def test_the_document_holds_both_scores_and_the_difference() -> None:
    left = fake_result(scores=[score("auc_loss", "wiener", 0.0, 0.5, 0.1, unit="")])
    right = fake_result(scores=[score("auc_loss", "wiener", 0.0, 0.9, 0.1, unit="")])
    value = compare(left, right, left_name="l", right_name="r").to_json_value()["scores"][0]
    assert (value["left"]["value"], value["right"]["value"]) == (0.5, 0.9)
    assert value["difference"] == pytest.approx(0.4)
    assert value["intervals_apart"] is True
