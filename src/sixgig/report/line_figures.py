"""Figures of lines: relearning, ROC, and curves of any other name."""

from __future__ import annotations

import re

from matplotlib.ticker import FuncFormatter

from .chance import chance_bits, chance_label
from .labels import CURVES, arm_label, condition_label, sorted_arms
from .pictures import (
    CONTROL_COLOUR,
    Line,
    Picture,
    describe,
    draw_chance,
    draw_legend,
    draw_lines,
    legend_label,
    look,
    new_axes,
)
from .schema import Curve, Result, Score

_WIDE = 5  # times: heights further apart than this are drawn on a logarithmic axis
_DECADES = 100  # of heights on a logarithmic axis: beyond it only powers of ten are written
_LONG_LABEL = 24  # letters: three such labels do not fit beside one another


def line_of_scores(arm: str, points: list[tuple[float, Score]]) -> Line:
    known = [(x, score) for x, score in points if score.value is not None]
    return Line(
        arm=arm,
        label=arm_label(arm),
        x=[x for x, _ in known],
        y=[score.value for _, score in known if score.value is not None],
        low=[score.low for _, score in known],
        high=[score.high for _, score in known],
    )


def line_of_curve(curve: Curve) -> Line:
    return Line(
        arm=curve.arm,
        label=arm_label(curve.arm),
        x=curve.x,
        y=curve.y,
        low=curve.low,
        high=curve.high,
        x_low=curve.x_low,
        x_high=curve.x_high,
    )


def is_relearning(curve: Curve) -> bool:
    return "relearn" in curve.name and "benign" not in curve.name


def is_roc(curve: Curve) -> bool:
    return curve.name == "roc" or curve.name.startswith("roc_")


def _relearning_scores(result: Result) -> list[Line]:
    """Lines from the scores at alpha 0 before the attack and after `relearn-<steps>`."""
    lines = []
    for arm in sorted_arms([score.arm for score in result.scores if score.condition.startswith("relearn-")]):
        points = []
        for score in result.scores:
            steps = "0" if score.condition == "plain" else score.condition.removeprefix("relearn-")
            of_the_base = score.arm == arm and score.alpha in (0.0, None)
            if (
                of_the_base
                and score.name == "exposure_heldout"
                and score.value is not None
                and steps.isdecimal()
            ):
                points.append((float(steps), score))
        if len(points) > 1:
            lines.append(line_of_scores(arm, sorted(points, key=lambda point: point[0])))
    return lines


def relearning(result: Result) -> Picture | str:
    """Exposure of held-out secrets while an attacker trains the Base on other secrets."""
    curves = [curve for curve in result.curves if is_relearning(curve)]
    order = sorted_arms([curve.arm for curve in curves])
    curves.sort(key=lambda curve: order.index(curve.arm))
    lines = [line_of_curve(curve) for curve in curves] or _relearning_scores(result)
    if not lines:
        return "Relearning: no attack by further training was measured."
    y_label = curves[0].y_label if curves else "exposure of planted secrets (bits)"
    figure, axes = new_axes(curves[0].x_label if curves else "attacker's training steps", y_label)
    if "exposure" in y_label.lower():
        draw_chance(axes, chance_bits(result), chance_label(result))
    draw_lines(axes, lines)
    axes.set_ylim(bottom=0)
    draw_legend(axes)
    return Picture(
        name="relearning",
        title="What an attacker brings back by training a little more",
        how_to_read="A line that jumps up after a few steps shows secrets that were hidden and not removed; "
        "one that stays beside the never-planted model's has nothing left to find.",
        description=describe(lines, "training steps", y_label),
        figure=figure,
    )


def roc(result: Result, *, log_x: bool = True) -> Picture | str:
    """True against false positives of guessing which secrets were planted; `log_x` shows the rare errors."""
    curves = [curve for curve in result.curves if is_roc(curve)]
    if not curves:
        return "ROC: no curve of membership guesses was kept."
    figure, axes = new_axes("false positive rate", "true positive rate")
    inner = [rate for curve in curves for rate in curve.x if 0 < rate < 1]
    left = min(inner, default=0.01) if log_x else 0.0
    diagonal = [left + (1 - left) * step / 100 for step in range(101)]
    axes.plot(diagonal, diagonal, ":", color=CONTROL_COLOUR, label="guessing")
    named = {curve.name for curve in curves}
    lines = []
    for curve in curves:
        label = arm_label(curve.arm) + (f", {curve.name}" if len(named) > 1 else "")
        # a logarithm has no place for 0: those points move to the left edge
        lines.append(Line(arm=curve.arm, label=label, x=[max(rate, left) for rate in curve.x], y=curve.y))
    for line in lines:
        colour, _, dashes = look(line.arm)
        label = legend_label(line.label)
        axes.step(line.x, line.y, dashes, where="post", color=colour, label=label)
    if log_x:
        axes.set_xscale("log")
        axes.minorticks_off()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda rate, _: f"{100 * rate:g}%"))
    axes.set_xlim(left, 1)
    axes.set_ylim(0, 1.02)
    draw_legend(axes)
    return Picture(
        name="roc",
        title="Can an attacker tell which secrets were planted?",
        how_to_read="On the dotted line an attacker does no better than guessing; the further a line lies "
        "above it, the more the model gives away"
        + (" (the left end shows the most certain guesses)." if log_x else "."),
        description=describe(lines, "false positive rate", "true positive rate"),
        figure=figure,
    )


def other_curve(place: int, curves: list[Curve]) -> Picture:
    """Any curve that has no figure of its own: one line an arm, as the experiment labelled it.

    `place` keeps the files of two names apart that differ only in letters a file name cannot have.
    """
    name = curves[0].name
    figure, axes = new_axes(curves[0].x_label, curves[0].y_label)
    lines = [line_of_curve(curve) for curve in curves]
    draw_lines(axes, lines)
    heights = [y for curve in curves for y in curve.y]
    if min(heights) > 0 and max(heights) > _WIDE * min(heights):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        # Between the powers of ten there is room for words only where those are few.
        narrow = max(heights) < _DECADES * min(heights)
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda y, _: f"{y:g}" if narrow else ""))
    title, how_to_read = CURVES.get(name, (condition_label(name).replace("_", " ").capitalize(), ""))
    draw_legend(axes, columns=2 if max(len(line.label) for line in lines) > _LONG_LABEL else 3)
    return Picture(
        name=f"curve_{place}_{re.sub(r'[^a-z0-9]+', '_', name.lower())[:40]}",
        title=title,
        how_to_read=how_to_read
        or f"Each line is one model: {curves[0].y_label} against {curves[0].x_label}.",
        description=describe(lines, curves[0].x_label, curves[0].y_label),
        figure=figure,
    )
