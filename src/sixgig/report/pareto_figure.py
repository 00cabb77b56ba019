"""The sieves in one plane: what leaks against what it costs, one point a sieve with its intervals.

Names stand in a column beside the plane, in the points' own order, each with a line to its point: a dozen
points lie too close together for names of their own place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from .labels import arm_label, condition_label, visible
from .pareto import LEAST_SIEVES, PLAIN_INT4, ComparedSieve, compared_sieves, relearn_condition
from .pictures import CONTROL_COLOUR, INK, Picture, draw_band, draw_chance, draw_legend, look, new_axes
from .schema import Result, Score

LINEAR_BITS = 0.5  # the gap's axis is linear up to here, then logarithmic: 0.1 bit and 6 bits both show
TICKS_BITS = (-4, -2, -1, -0.5, 0, 0.5, 1, 2, 4, 8)
LEAST_STEP = 0.068  # of the plane's height, between two names
LOG_FROM = 3.0  # times its smallest value: from here an axis is logarithmic


@dataclass(frozen=True, kw_only=True)
class Plane:
    """What the gap is drawn against. `value` None: the sieve has no point here."""

    name: str
    title: str
    axis: str
    how_to_read: str
    value: Callable[[ComparedSieve], float | None]
    score: Callable[[ComparedSieve], Score | None]


PLANES = (
    Plane(
        name="pareto",
        title="What each sieve leaves behind, and how well its Base speaks",
        axis="perplexity of the Base / plain INT4 (further left is better)",
        how_to_read="The best place is the left end of the dotted line: nothing of the secrets left, and a "
        "Base that speaks well. A ringed sieve is beaten by no other in both at once. Hollow: after an "
        "attacker trained the Base a little.",
        value=lambda one: one.ratio,
        score=lambda one: one.ppl_ratio,
    ),
    Plane(
        name="pareto_time",
        title="What each sieve leaves behind, and how long its making takes",
        axis="seconds for search, split and fits",
        how_to_read="Further left is quicker; on the dotted line nothing of the secrets is left.",
        value=lambda one: None if one.seconds is None else one.seconds.value,
        score=lambda one: one.seconds,
    ),
    Plane(
        name="pareto_size",
        title="What each sieve leaves behind, and how much has to be kept apart",
        axis="Ortho, bits a weight of the whole model",
        how_to_read="Further left is smaller; on the dotted line nothing of the secrets is left.",
        value=lambda one: None if one.ortho_bits is None else one.ortho_bits.value,
        score=lambda one: one.ortho_bits,
    ),
)


def pareto_figures(result: Result) -> list[Picture | str]:
    """One plane a cost, or why there is none."""
    sieves = compared_sieves(result)
    if len(sieves) < LEAST_SIEVES:
        return [f"Sieves side by side: fewer than {LEAST_SIEVES} were looked at."]
    return [_drawn(result, plane, sieves) for plane in PLANES]


def _drawn(result: Result, plane: Plane, sieves: Sequence[ComparedSieve]) -> Picture | str:
    points = [(value, one) for one in sieves if (value := plane.value(one)) is not None]
    if len(points) < 2:
        return f"{plane.title}: not measured in this run."
    figure, axes = new_axes(plane.axis, "exposure gap (bits)", width=8.2, height=5.6)
    reference = result.score("exposure_gap", "reference", 0.0)
    if reference is not None and reference.low is not None and reference.high is not None:
        draw_band(axes, reference.low, reference.high, "never planted, 90%")
    draw_chance(axes, 0.0, "no gap: chance")
    if plane is PLANES[0]:
        axes.axvline(
            1.0, color=CONTROL_COLOUR, linewidth=1.0, linestyle="--", label="plain INT4's perplexity"
        )
    for value, one in points:
        _draw_point(axes, plane, value, one, ringed=one.optimal and plane is PLANES[0])
    _scale(axes, [value for value, _ in points], [one for _, one in points])
    _name_points(axes, points)
    _explain(axes, result, points, ringed=plane is PLANES[0])
    return Picture(
        name=plane.name,
        title=plane.title,
        how_to_read=plane.how_to_read,
        description="; ".join(
            f"{arm_label(one.arm)}: gap {_gap(one.gap):.3g} bits at {value:.3g}"
            + (f", {_gap(one.relearned):.3g} after relearning" if one.relearned is not None else "")
            for value, one in points
        ),
        figure=figure,
    )


def _draw_point(axes: Axes, plane: Plane, x: float, one: ComparedSieve, *, ringed: bool) -> None:
    colour, marker, _ = look(one.arm)
    y = _gap(one.gap)
    if one.relearned is not None:
        after = _gap(one.relearned)
        axes.plot([x, x], [y, after], "-", color=colour, linewidth=0.8, alpha=0.6)
        axes.plot([x], [after], marker=marker, markersize=6, color=colour, markerfacecolor="none")
    if one.gap is not None and one.gap.low is not None and one.gap.high is not None:
        axes.vlines(x, one.gap.low, one.gap.high, color=colour, linewidth=2.2, alpha=0.8)
    across = plane.score(one)
    if across is not None and across.low is not None and across.high is not None:
        axes.hlines(y, across.low, across.high, color=colour, linewidth=2.2, alpha=0.8)
    axes.plot([x], [y], marker=marker, markersize=7, color=colour)
    if ringed:
        axes.plot([x], [y], marker="o", markersize=14, color=INK, markerfacecolor="none")


def _scale(axes: Axes, values: Sequence[float], sieves: Sequence[ComparedSieve]) -> None:
    """Axes on which a dozen points lie apart, ticks in plain numbers."""
    axes.set_yscale("symlog", linthresh=LINEAR_BITS, linscale=1.0)
    ends = [
        end
        for one in sieves
        for score in (one.gap, one.relearned)
        if score is not None
        for end in _ends(score)
    ]
    axes.set_ylim(min(-0.2 * LINEAR_BITS, 1.2 * min(ends)), max(1.0, 1.2 * max(ends)))
    axes.yaxis.set_major_locator(FixedLocator(list(TICKS_BITS)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda bits, _: f"{bits:g}"))
    if min(values) > 0 and max(values) > LOG_FROM * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(x=0.06)


def _name_points(axes: Axes, points: Sequence[tuple[float, ComparedSieve]]) -> None:
    """A column of names at the right, from the highest point down, each with a line to its point."""
    axes.autoscale_view(scaley=False)
    to_share = axes.transData + axes.transAxes.inverted()
    heights = {one.arm: float(to_share.transform((x, _gap(one.gap)))[1]) for x, one in points}
    ordered = sorted(points, key=lambda point: (heights[point[1].arm], -point[0]))
    places = spread([heights[one.arm] for _, one in ordered], step=min(LEAST_STEP, 1.0 / len(points)))
    for (x, one), place in zip(ordered, places, strict=True):
        axes.annotate(
            visible(_name(one)),
            (x, _gap(one.gap)),
            xytext=(1.03, place),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            color=INK,
            parse_math=False,
            annotation_clip=False,
            # From the middle of the name's left edge; else a line runs on beneath other names.
            arrowprops={
                "arrowstyle": "-",
                "color": look(one.arm)[0],
                "linewidth": 0.6,
                "alpha": 0.6,
                "relpos": (0.0, 0.5),
            },
        )


def _name(one: ComparedSieve) -> str:
    words = f"Plain INT4 ({one.arm})" if one.arm == PLAIN_INT4 else arm_label(one.arm)
    return f"{words} ★" if one.optimal else words


def spread(heights: Sequence[float], *, step: float) -> list[float]:
    """Ascending `heights` moved apart to at least `step`, as near to where they were as a pass upwards and a
    pass downwards bring them, within 0 to 1 where there is room."""
    places: list[float] = []
    for height in heights:
        places.append(max(height, places[-1] + step) if places else max(height, 0.0))
    ceiling = 1.0
    for index in reversed(range(len(places))):
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - step
    return places


def _explain(
    axes: Axes, result: Result, points: Sequence[tuple[float, ComparedSieve]], *, ringed: bool
) -> None:
    """A legend of what the signs mean; which point is which stands beside the plane."""

    def sign(marker: str, size: float, label: str, *, filled: bool) -> None:
        handle = Line2D(
            [], [], linestyle="", marker=marker, markersize=size, color=CONTROL_COLOUR, label=label
        )
        if not filled:
            handle.set_markerfacecolor("none")
        axes.add_line(handle)

    sign("o", 7, "Base as made, with intervals", filled=True)
    attack = relearn_condition(result)
    if attack is not None and any(one.relearned is not None for _, one in points):
        sign("o", 6, f"after {condition_label(attack)}", filled=False)
    if ringed:
        sign("o", 13, "beaten by none (★)", filled=False)
    draw_legend(axes, columns=2)


def _gap(score: Score | None) -> float:
    return score.value if score is not None and score.value is not None else float("nan")


def _ends(score: Score) -> list[float]:
    return [end for end in (score.low, score.value, score.high) if end is not None]
