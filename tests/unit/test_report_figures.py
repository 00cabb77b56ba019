from __future__ import annotations

import math
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fake_result import fake_result, score
from matplotlib.patches import Rectangle

from sixgig.report.figures import build_figures, exposure_against_alpha, overview, write_figures
from sixgig.report.labels import ARMS
from sixgig.report.line_figures import other_curve, relearning, roc
from sixgig.report.pictures import Picture, look, to_svg
from sixgig.report.schema import Curve, Score
from sixgig.report.story import tell


def _curve(name: str, arm: str = "wiener") -> Curve:
    return Curve(name=name, arm=arm, x_label="x", y_label="y", x=[0.0, 1.0], y=[0.5, 0.6])


def _picture(made: Picture | str) -> Picture:
    assert isinstance(made, Picture)
    return made


def _lines(picture: Picture) -> dict[str, tuple[list[float], list[float]]]:
    axes = picture.figure.axes[0]
    return {
        str(line.get_label()): (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for line in axes.lines
    }


def test_exposure_is_drawn_at_the_alphas_and_values_of_the_scores() -> None:
    result = fake_result()
    x, y = _lines(_picture(exposure_against_alpha(result)))["Wiener sieve"]
    assert x == [0.0, 0.25, 0.5, 0.75, 1.0]
    values = [found.value for alpha in x if (found := result.score("exposure_heldout", "wiener", alpha))]
    assert y == values


@pytest.mark.parametrize(
    ("config", "bits"),
    [({}, math.log2(math.e)), ({"num_decoys": 7}, 3 - math.log2(math.factorial(8)) / 8)],
)
def test_the_chance_line_is_that_of_the_runs_own_decoys(config: dict[str, int], bits: float) -> None:
    result = fake_result(config=config)
    picture = _picture(exposure_against_alpha(result))
    label, (_, y) = next(item for item in _lines(picture).items() if item[0].startswith("chance"))
    assert y == pytest.approx([bits] * 2)
    assert f"{bits:.2f}" in label
    assert f"{bits:.2f} is chance" in str(tell(result))


def test_the_control_band_is_where_it_belongs() -> None:
    picture = _picture(exposure_against_alpha(fake_result()))
    box = picture.figure.axes[0].patches[0].get_window_extent()
    low, high = (
        picture.figure.axes[0].transData.inverted().transform(point)[1] for point in (box.min, box.max)
    )
    assert (low, high) == pytest.approx((1.33, 1.59))


def test_the_relearning_figure_falls_back_on_the_scores_of_the_attack() -> None:
    scores = [
        score("exposure_heldout", "wiener", 0.0, 1.5),
        score("exposure_heldout", "wiener", 0.0, 1.9, condition="relearn-20"),
        score("exposure_heldout", "wiener", 0.0, 1.7, condition="relearn-5"),
        score("exposure_heldout", "wiener", 0.0, 9.9, condition="relearn-benign-20"),
    ]
    picture = _picture(relearning(fake_result(scores=scores, curves=[])))
    assert _lines(picture)["Wiener sieve"] == ([0.0, 5.0, 20.0], [1.5, 1.7, 1.9])


@pytest.mark.parametrize("log_x", [True, False])
def test_roc_keeps_every_point_and_shows_guessing(log_x: bool) -> None:
    picture = _picture(roc(fake_result(), log_x=log_x))
    x, y = _lines(picture)["Hessian sieve"]
    assert len(x) == len(y) == 7
    assert (min(x) > 0) is log_x
    assert "guessing" in _lines(picture)
    assert picture.figure.axes[0].get_xscale() == ("log" if log_x else "linear")


def test_the_overview_has_one_pair_of_bars_an_arm() -> None:
    picture = _picture(overview(fake_result()))
    axes = picture.figure.axes[0]
    heights = [round(bar.get_height(), 2) for bar in axes.patches if isinstance(bar, Rectangle)]
    assert heights[:6] == [1.48, 7.64, 5.6, 1.5, 5.4, 5.1]  # planted
    assert len(heights) == 6 + 5  # the reference has no controls here


def test_what_cannot_be_drawn_is_left_out_and_said() -> None:
    figures = build_figures(fake_result(scores=[], curves=[]))
    assert figures.pictures == ()
    assert len(figures.left_out) == 5
    assert any("ROC" in reason for reason in figures.left_out)


def test_one_alpha_is_no_curve() -> None:
    only = [score("exposure_heldout", "wiener", 0.0, 1.5)]
    assert isinstance(exposure_against_alpha(fake_result(scores=only)), str)


def test_a_curve_nobody_foresaw_gets_a_figure() -> None:
    curves = [_curve("loss $over$ time"), _curve("loss-$over$-time"), _curve("loss $over$ time", "_hidden")]
    pictures = build_figures(fake_result(scores=[], curves=curves)).pictures
    assert len(pictures) == 2
    assert len({picture.name for picture in pictures}) == 2
    assert len(_lines(pictures[0])) == 2
    assert all(re.fullmatch(r"[a-z0-9_]+", picture.name) for picture in pictures)
    to_svg(pictures[0])  # the dollar signs are not mathematics, and must not stop the drawing


def test_files_are_written_and_written_alike(tmp_path: Path) -> None:
    paths = write_figures(fake_result(), tmp_path)
    assert {path.name for path in paths} >= {"overview.png", "overview.svg", "roc.png", "relearning.svg"}
    again = write_figures(fake_result(), tmp_path / "again")
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]


def test_svg_ids_do_not_clash_and_every_reference_has_its_target() -> None:
    all_ids: list[str] = []
    for picture in build_figures(fake_result()).pictures:
        svg = to_svg(picture)
        ids = re.findall(r'\bid="([^"]+)"', svg)
        targets = re.findall(r'href="#([^"]+)"', svg) + re.findall(r"url\(#([^)]+)\)", svg)
        assert targets
        assert set(targets) <= set(ids)
        all_ids += ids
    assert len(all_ids) == len(set(all_ids))


def test_svg_is_one_plain_element_in_the_colour_of_the_page() -> None:
    svg = to_svg(_picture(exposure_against_alpha(fake_result())))
    assert svg.startswith("<svg")
    assert svg.endswith("</svg>")
    assert "currentColor" in svg
    assert not re.search(r"<style|<metadata|<script|<!--|<image|#24292f", svg)
    assert not re.search(r'^<svg[^>]*\bwidth="', svg)
    assert ">Wiener sieve<" in svg  # text, not outlines


def test_hostile_labels_are_escaped_in_svg() -> None:
    scores = [
        Score(
            name="exposure_heldout",
            arm="</svg><script>alert(1)</script>\x1b",
            alpha=alpha,
            value=1.0,
            n=1,
            unit="bits",
            higher_is_better=False,
        )
        for alpha in (0.0, 1.0)
    ]
    svg = to_svg(_picture(exposure_against_alpha(fake_result(scores=scores))))
    assert "<script" not in svg
    assert "\x1b" not in svg
    assert svg.count("</svg>") == 1


def test_letters_that_the_font_lacks_do_not_stop_the_drawing(tmp_path: Path) -> None:
    curves = [_curve("roc", "机密")]
    assert "机密" in to_svg(_picture(roc(fake_result(curves=curves))))
    write_figures(fake_result(scores=[], curves=curves), tmp_path)


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    to_svg(_picture(overview(fake_result())))
    assert dict(matplotlib.rcParams) == before


def test_known_arms_all_look_different() -> None:
    assert len({look(arm) for arm in ARMS}) == len(ARMS)
    assert look("some new arm") == look("some new arm")


@pytest.mark.parametrize(("highest", "between"), [(45.0, False), (600.0, True), (2e7, False)])
def test_heights_between_powers_of_ten_are_written_only_where_there_is_room(
    highest: float, between: bool
) -> None:
    curve = Curve(
        name="leakage_wiener",
        arm="wiener-alpha",
        x_label="leakage",
        y_label="perplexity",
        x=[1.0, 2.0],
        y=[40.0 if highest < 1e3 else 50.0, highest],
    )
    axes = other_curve(0, [curve]).figure.axes[0]
    axes.figure.canvas.draw()
    assert axes.get_yscale() == ("linear" if highest < 100 else "log")
    written = [label for label in axes.yaxis.get_minorticklabels() if label.get_text()]
    assert bool(written) == between
