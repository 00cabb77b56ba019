"""The figures of a result: exposure against alpha, relearning, ROC, the overview, and any other curve.

A figure whose data are not in the result is left out and the reason said; no figure is drawn from a guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from .bar_figures import BAR_FIGURES, bar_figures
from .chance import chance_bits, chance_label
from .labels import arm_label, sorted_arms, visible
from .line_figures import is_relearning, is_roc, line_of_scores, other_curve, relearning, roc
from .pareto_figure import pareto_figures
from .pictures import (
    COLOURS,
    CONTROL_COLOUR,
    INK,
    Picture,
    describe,
    draw_band,
    draw_chance,
    draw_legend,
    draw_lines,
    new_axes,
    write_files,
)
from .schema import Result, Score

MOST_UPRIGHT = 9  # arms whose bars still stand beside one another


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What could be drawn, and for what could not, why."""

    pictures: tuple[Picture, ...]
    left_out: tuple[str, ...]


def build_figures(result: Result) -> Figures:
    """Every figure that the result has the data for, in the order of the page."""
    if result.experiment in BAR_FIGURES:
        made: list[Picture | str] = bar_figures(result)
    else:
        made = [
            overview(result),
            *pareto_figures(result),
            exposure_against_alpha(result),
            relearning(result),
            roc(result),
        ]
    others = [curve for curve in result.curves if not is_relearning(curve) and not is_roc(curve)]
    for place, name in enumerate(dict.fromkeys(curve.name for curve in others)):
        made.append(other_curve(place, [curve for curve in others if curve.name == name]))
    return Figures(
        pictures=tuple(item for item in made if isinstance(item, Picture)),
        left_out=tuple(item for item in made if isinstance(item, str)),
    )


def write_figures(result: Result, folder: Path) -> list[Path]:
    """Writes every figure as PNG and SVG under `folder`; returns the paths."""
    return [path for picture in build_figures(result).pictures for path in write_files(picture, folder)]


def _plain(result: Result, name: str) -> list[Score]:
    of_that_name = [score for score in result.scores if score.name == name and score.condition == "plain"]
    return [score for score in of_that_name if score.value is not None]


def _control_band(result: Result) -> tuple[float, float] | None:
    """The widest interval of never-planted secrets' exposure over all arms and alphas."""
    scores = _plain(result, "exposure_control")
    ends = [end for score in scores for end in (score.low, score.value, score.high) if end is not None]
    return (min(ends), max(ends)) if ends else None


def exposure_against_alpha(result: Result) -> Picture | str:
    """Exposure of held-out secrets while the switch moves from Base alone to the whole model."""
    scores = [score for score in _plain(result, "exposure_heldout") if score.alpha is not None]
    lines = []
    for arm in sorted_arms([score.arm for score in scores]):
        points = sorted((score.alpha or 0.0, score) for score in scores if score.arm == arm)
        if len(points) > 1:
            lines.append(line_of_scores(arm, points))
    if not lines:
        return "Exposure against alpha: no arm was measured at two settings of the switch."
    figure, axes = new_axes("alpha (0: Base alone, 1: whole model)", "exposure of planted secrets (bits)")
    band = _control_band(result)
    if band:
        draw_band(axes, *band, "never-planted secrets")
    draw_chance(axes, chance_bits(result), chance_label(result))
    draw_lines(axes, lines)
    axes.set_ylim(bottom=0)
    draw_legend(axes)
    return Picture(
        name="exposure_against_alpha",
        title="How much is left at each setting of the switch",
        how_to_read="A switch that works starts in the grey band at alpha = 0, where planted secrets look "
        "like secrets the model never saw, and climbs as alpha goes to 1.",
        description=describe(lines, "alpha", "exposure in bits"),
        figure=figure,
    )


def overview(result: Result) -> Picture | str:
    """Bars at alpha 0: exposure of planted beside never-planted secrets, per arm, with the chance line."""
    planted = {score.arm: score for score in _plain(result, "exposure_heldout") if score.alpha in (0.0, None)}
    control = {score.arm: score for score in _plain(result, "exposure_control") if score.alpha in (0.0, None)}
    arms = sorted_arms(list(planted))
    if not arms:
        return "Overview: no exposure was measured at alpha = 0."
    draw = _draw_bars_across if len(arms) > MOST_UPRIGHT else _draw_bars_upright
    figure = draw(arms, planted, control, (chance_bits(result), chance_label(result)))
    return Picture(
        name="overview",
        title="What the Base alone still knows",
        how_to_read="Where the two bars of a model are equally high, planted secrets cannot be told from "
        "secrets it never saw; a tall first bar means that the secrets are still inside.",
        description="; ".join(f"{arm_label(arm)}: {planted[arm].value:.3g} bits" for arm in arms),
        figure=figure,
    )


_Bars = dict[str, Score]  # by arm


def _draw_bars_upright(arms: list[str], planted: _Bars, control: _Bars, chance: tuple[float, str]) -> Figure:
    figure, axes = new_axes("", "exposure (bits)", width=max(6.0, 1.5 + 1.1 * len(arms)))
    for label, scores, colour, shift in _pairs_of_bars(planted, control):
        present = [(place + shift, scores[arm]) for place, arm in enumerate(arms) if arm in scores]
        heights = [score.value or 0.0 for _, score in present]
        axes.bar([x for x, _ in present], heights, width=0.36, color=colour, label=label)
        for x, score in present:
            if score.low is not None and score.high is not None:
                axes.vlines(x, score.low, score.high, color=CONTROL_COLOUR, linewidth=1.6)
    draw_chance(axes, *chance)
    axes.set_xticks(
        range(len(arms)), [_two_lines(visible(arm_label(arm))) for arm in arms], parse_math=False, fontsize=8
    )
    draw_legend(axes)
    return figure


def _draw_bars_across(arms: list[str], planted: _Bars, control: _Bars, chance: tuple[float, str]) -> Figure:
    """One row an arm, names at the left: a page is not wide enough for more than a few beside one another."""
    figure, axes = new_axes("exposure (bits)", "", height=1.2 + 0.42 * len(arms))
    for label, scores, colour, shift in _pairs_of_bars(planted, control):
        present = [(place + shift, scores[arm]) for place, arm in enumerate(arms) if arm in scores]
        widths = [score.value or 0.0 for _, score in present]
        axes.barh([y for y, _ in present], widths, height=0.36, color=colour, label=label)
        for y, score in present:
            if score.low is not None and score.high is not None:
                axes.hlines(y, score.low, score.high, color=CONTROL_COLOUR, linewidth=1.6)
    axes.axvline(chance[0], color=INK, linewidth=1.0, linestyle=":", label=chance[1])
    axes.set_yticks(range(len(arms)), [visible(arm_label(arm)) for arm in arms], parse_math=False, fontsize=9)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    draw_legend(axes)
    return figure


def _pairs_of_bars(planted: _Bars, control: _Bars) -> tuple[tuple[str, _Bars, str, float], ...]:
    """(label, scores, colour, shift)."""
    return ("planted", planted, COLOURS[1], -0.2), ("never planted", control, COLOURS[0], 0.2)


def _two_lines(label: str) -> str:
    words = label.split(" ")
    middle = (len(words) + 1) // 2
    return "\n".join(part for part in (" ".join(words[:middle]), " ".join(words[middle:])) if part)
