"""Figures that set one measure of all arms side by side: a point an arm and setting, with its interval."""

from __future__ import annotations

from dataclasses import dataclass

from .labels import alpha_label, arm_label, format_value, sorted_arms, visible
from .pictures import CONTROL_COLOUR, Picture, draw_chance, draw_legend, look, new_axes
from .schema import Result, Score


@dataclass(frozen=True, kw_only=True)
class BarFigure:
    """One figure: a score by its name. `floor`: a line to hold the points against, and its words."""

    score: str
    title: str
    axis: str
    how_to_read: str
    scale: float = 1.0
    floor: tuple[float, str] | None = None
    from_zero: bool = False


BAR_FIGURES: dict[str, tuple[BarFigure, ...]] = {
    "dual-dp": (),  # its curves are its figures
    "null-test": (
        BarFigure(
            score="perplexity",
            title="How well each model reads ordinary text",
            axis="perplexity (lower is better)",
            how_to_read="With the switch at 0 the split must stand exactly where plain INT4 stands; with it "
            "at 1 it should lie between INT4 and full precision.",
        ),
        BarFigure(
            score="mmlu",
            title="How many questions each model answers rightly",
            axis="right answers (%)",
            how_to_read="On the dotted line a model does no better than guessing. The intervals are of each "
            "model alone; differences question by question are in the table.",
            scale=100,
            floor=(25.0, "guessing (25%)"),
        ),
    ),
    "saving-genius": (),  # its arms are too many for bars: its figure is a curve over their sizes
    "performance": (
        BarFigure(
            score="latency",
            title="How long each model takes for a token",
            axis="ms a token (lower is better)",
            how_to_read="With the switch at 0 the split should take no longer than plain INT4.",
            from_zero=True,
        ),
        BarFigure(
            score="roofline_share",
            title="How much of the memory's speed each model uses",
            axis="share of the copy bandwidth (%)",
            how_to_read="At 100% a token takes as long as reading its weights once; what lies below is lost "
            "to arithmetic and to waiting.",
            scale=100,
            from_zero=True,
        ),
    ),
    "audit": (
        BarFigure(
            score="auc_own_value",
            title="Whether a record's own value is told from another's",
            axis="right guesses (%)",
            how_to_read="On the dotted line the model does no better than guessing. The whole split should "
            "stand far above it, or the audit could not see a memory.",
            scale=100,
            floor=(50.0, "guessing (50%)"),
        ),
        BarFigure(
            score="recited",
            title="How many records come back word for word",
            axis="records recited (%)",
            how_to_read="The Base should recite none, the whole split most.",
            scale=100,
            from_zero=True,
        ),
    ),
    "recitation": (
        BarFigure(
            score="recited_memorised",
            title="How many memorised passages each model still recites",
            axis="passages recited to the end (%)",
            how_to_read="The edited model should stand far below plain INT4, and noise of the same size "
            "should not; with the switch at 1 the passages should be back.",
            scale=100,
            from_zero=True,
        ),
        BarFigure(
            score="perplexity",
            title="How well each model reads ordinary text",
            axis="perplexity (lower is better)",
            how_to_read="What an edit costs in ordinary reading: less recitation is worth little where "
            "the model can no longer speak.",
        ),
    ),
}


def bar_figures(result: Result) -> list[Picture | str]:
    return [_drawn(result, figure) for figure in BAR_FIGURES[result.experiment]]


def _drawn(result: Result, wanted: BarFigure) -> Picture | str:
    scores = [score for score in result.scores if score.name == wanted.score and score.value is not None]
    if not scores:
        return f"{wanted.title}: not measured in this run."
    order = sorted_arms([score.arm for score in scores])
    scores.sort(key=lambda score: (order.index(score.arm), score.alpha or 0.0))
    figure, axes = new_axes("", wanted.axis, width=max(6.0, 1.5 + 1.4 * len(scores)))
    for place, score in enumerate(scores):
        _point(axes, place, score, wanted.scale)
    if wanted.floor is not None:
        draw_chance(axes, *wanted.floor)
        draw_legend(axes)
    axes.set_xlim(-0.6, len(scores) - 0.4)
    axes.set_xticks(range(len(scores)), [_name(score) for score in scores], parse_math=False, fontsize=8)
    if wanted.from_zero:
        axes.set_ylim(bottom=0)
    told = (
        f"{arm_label(score.arm)}{'' if score.alpha is None else f' at alpha {score.alpha:g}'}: "
        f"{format_value(score.value or 0.0, score.name, score.unit)}"
        for score in scores
    )
    return Picture(
        name=wanted.score,
        title=wanted.title,
        how_to_read=wanted.how_to_read,
        description="; ".join(told),
        figure=figure,
    )


def _point(axes, place: int, score: Score, scale: float) -> None:
    value = scale * (score.value or 0.0)
    colour = look(score.arm)[0] if score.alpha != 0.0 else CONTROL_COLOUR
    if score.low is not None and score.high is not None:
        axes.vlines(place, scale * score.low, scale * score.high, color=colour, linewidth=1.6)
    axes.plot([place], [value], marker="o", markersize=8, color=colour)
    text = format_value(score.value or 0.0, score.name, score.unit)
    axes.annotate(text, (place, value), xytext=(9, 0), textcoords="offset points", va="center", fontsize=9)


def _name(score: Score) -> str:
    words = visible(arm_label(score.arm)).replace(", ", ",\n")
    return words if score.alpha is None else f"{words}\nalpha {alpha_label(score.alpha)}"
