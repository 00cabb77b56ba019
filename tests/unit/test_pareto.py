"""Sieves side by side: which is beaten by none, and that a page of a dozen can be read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from fake_comparison import SIEVES, comparison
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation, Text

from sixgig.report.figures import build_figures
from sixgig.report.pareto import compared_sieves, pareto_optimal, pareto_table
from sixgig.report.pareto_figure import PLANES, pareto_figures, spread
from sixgig.report.pictures import Picture
from sixgig.report.schema import Result
from sixgig.report.tables import result_tables

points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20)


@given(points)
def test_the_optimal_points_beat_all_others_and_none_of_their_own(costs: list[tuple[int, ...]]) -> None:
    marks = pareto_optimal(costs)
    kept = [cost for cost, mark in zip(costs, marks, strict=True) if mark]
    assert kept
    for cost, mark in zip(costs, marks, strict=True):
        beaten = any(other != cost and (np.array(other) <= cost).all() for other in kept)
        assert beaten is not mark


@given(points)
def test_what_is_optimal_does_not_depend_on_the_order(costs: list[tuple[int, ...]]) -> None:
    assert pareto_optimal(costs[::-1]) == pareto_optimal(costs)[::-1]


def test_a_sieve_is_judged_by_the_worse_of_its_gaps_however_it_deviates() -> None:
    found = {one.arm: one for one in compared_sieves(comparison())}
    assert set(found) == set(SIEVES)
    assert found["learned"].leakage_bits == 4.20  # what relearning brings back counts
    assert found["subnet"].leakage_bits == 3.90
    assert found["isolated"].leakage_bits == 0.06  # its Base is the reference's; below 0 leaks as above it
    assert found["hessian"].ratio == 1.0
    assert {arm for arm, one in found.items() if one.optimal} == {"wiener", "isolated", "none"}


def test_relearning_counts_for_all_sieves_or_for_none() -> None:
    whole = comparison()
    scores = [one for one in whole.scores if (one.arm, one.condition) != ("kfac", "relearn-20")]
    found = compared_sieves(whole.model_copy(update={"scores": scores}))
    assert all(one.relearned is None for one in found)
    assert next(one for one in found if one.arm == "learned").leakage_bits == 0.02


def test_the_caption_says_which_gap_decided() -> None:
    def caption(left_out: set[str]) -> str:
        whole = comparison()
        scores = [one for one in whole.scores if one.condition == "plain" or one.arm not in left_out]
        table = pareto_table(whole.model_copy(update={"scores": scores}))
        assert table is not None
        return table.caption

    assert "(the worse of before and after relearning)" in caption(set())
    assert "(before relearning, which not all were attacked with)" in caption({"kfac"})
    assert "(before relearning, which was not tried)" in caption({*SIEVES, "reference"})


def test_three_sieves_are_no_comparison() -> None:
    few = comparison({arm: SIEVES[arm] for arm in ("hessian", "wiener", "random")})
    assert pareto_table(few) is None
    assert pareto_figures(few) == ["Sieves side by side: fewer than 4 were looked at."]


def test_the_table_has_a_row_a_sieve_and_says_what_was_not_measured_with_a_dash() -> None:
    table = pareto_table(comparison())
    assert table is not None
    assert table in result_tables(comparison())
    assert len(table.rows) == len(SIEVES)
    row = next(row for row in table.rows if row[0].text == "Wiener sieve")
    assert [cell.text for cell in row] == [
        *("Wiener sieve", "★", "0.09", "0.12", "0.800", "0.970", "99%", "0.37", "61")
    ]
    assert row[0].detail == "suppressed"
    whole = comparison()
    scores = [one for one in whole.scores if (one.arm, one.name) != ("wiener", "making_seconds")]
    without = pareto_table(whole.model_copy(update={"scores": scores}))
    assert without is not None
    assert next(row for row in without.rows if row[0].text == "Wiener sieve")[-1].text == "-"


def _pictures(result: Result) -> list[Picture]:
    return [picture for picture in pareto_figures(result) if isinstance(picture, Picture)]


def test_every_plane_names_every_sieve_and_no_two_names_overlap() -> None:
    pictures = _pictures(comparison())
    assert [picture.name for picture in pictures] == [plane.name for plane in PLANES]
    for picture in pictures:
        canvas = FigureCanvasAgg(picture.figure)
        canvas.draw()
        axes = picture.figure.axes[0]
        names = [child for child in axes.get_children() if isinstance(child, Annotation)]
        assert len(names) == len(SIEVES)
        boxes = sorted((Text.get_window_extent(name) for name in names), key=lambda box: box.y0)
        assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))
        assert all(box.x1 <= picture.figure.bbox.x1 and box.y1 <= picture.figure.bbox.y1 for box in boxes)


def test_a_cost_that_was_not_measured_has_no_plane_and_says_so() -> None:
    whole = comparison()
    scores = [one for one in whole.scores if one.name != "making_seconds"]
    figures = build_figures(whole.model_copy(update={"scores": scores}))
    assert "pareto_time" not in [picture.name for picture in figures.pictures]
    assert any("how long" in reason for reason in figures.left_out)


@given(st.lists(st.floats(-0.2, 1.2), min_size=1, max_size=13))
def test_names_keep_their_order_and_their_distance(heights: list[float]) -> None:
    places = spread(sorted(heights), step=0.07)
    assert places == sorted(places)
    assert all(b - a >= 0.07 - 1e-9 for a, b in itertools.pairwise(places))
    assert places[-1] <= 1.0
    assert places[0] >= 0.0 - 1e-9 or len(heights) * 0.07 > 1.0


def test_names_that_have_room_stay_beside_their_points() -> None:
    assert spread([0.1, 0.4, 0.9], step=0.07) == pytest.approx([0.1, 0.4, 0.9])
