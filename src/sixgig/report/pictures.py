"""Drawing: axes, lines with intervals, bars, and how a figure becomes SVG for a page or PNG for a file.

Figures are `matplotlib.figure.Figure` objects on the Agg canvas, never pyplot's, which keeps every figure
alive in one global list. Colours are Okabe and Ito's, told apart by colour-blind readers; every line also has
its own marker. Text and axes are drawn in one ink colour, which in SVG becomes the page's text colour, so
that a figure is readable on light and dark paper alike.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..files import atomic_path
from .labels import ARMS, visible

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
CONTROL_COLOUR = "#8A8A8A"
INK = "#24292f"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A finished figure: `name` for its file, `how_to_read` in one sentence, `description` in words."""

    name: str
    title: str
    how_to_read: str
    description: str
    figure: Figure


@dataclass(frozen=True, kw_only=True)
class Line:
    """`y` against `x` with an interval around it where there is one (an end may be missing at a point)."""

    arm: str
    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    x_low: Sequence[float] | None = None
    x_high: Sequence[float] | None = None


def new_axes(x_label: str, y_label: str, *, width: float = 7.0, height: float = 4.2) -> tuple[Figure, Axes]:
    """An empty figure of `width` x `height` inches with labelled, quiet axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlabel(visible(x_label), color=INK, parse_math=False)
    axes.set_ylabel(visible(y_label), color=INK, parse_math=False)
    axes.tick_params(colors=INK)
    axes.grid(axis="y", color=CONTROL_COLOUR, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    return figure, axes


def look(arm: str) -> tuple[str, str, str]:
    """(colour, marker, dashes) of an arm: the same in every figure of every result."""
    known = list(ARMS)
    place = known.index(arm) if arm in known else len(known) + sum(arm.encode("utf-8"))
    # markers and dashes move on after every round of colours, so that the known arms all look different
    turn = place // len(COLOURS)
    return COLOURS[place % len(COLOURS)], MARKERS[(place + turn) % len(MARKERS)], ("-", "--", "-.")[turn % 3]


def draw_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """Each line in its arm's colour, marker and dashes, with bars for its intervals."""
    for line in lines:
        colour, marker, dashes = look(line.arm)
        label = legend_label(line.label)
        axes.plot(line.x, line.y, dashes, color=colour, marker=marker, markersize=5, label=label)
        _draw_intervals(axes, line, colour)


def legend_label(label: str) -> str:
    """`label` for a legend; matplotlib would leave out one that begins with an underscore."""
    return f" {visible(label)}" if label.startswith("_") else visible(label)


def _draw_intervals(axes: Axes, line: Line, colour: str) -> None:
    if line.x_low is not None and line.x_high is not None:
        axes.hlines(line.y, line.x_low, line.x_high, color=colour, linewidth=1.2, alpha=0.7)
    if line.low is None or line.high is None:
        return
    for x, y, low, high in zip(line.x, line.y, line.low, line.high, strict=True):
        below, above = y if low is None else low, y if high is None else high
        axes.vlines(x, min(below, y), max(above, y), color=colour, linewidth=1.2, alpha=0.7)


def draw_chance(axes: Axes, y: float, label: str) -> None:
    axes.axhline(y, color=INK, linewidth=1.0, linestyle=":", label=label)


def draw_band(axes: Axes, low: float, high: float, label: str) -> None:
    axes.axhspan(low, high, color=CONTROL_COLOUR, alpha=0.3, linewidth=0, label=label)


def draw_legend(axes: Axes, *, columns: int = 3) -> None:
    """The legend above the axes, where it covers no data."""
    legend = axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.01), ncols=columns, frameon=False, fontsize=9, borderaxespad=0
    )
    for text in legend.get_texts():
        text.set_color(INK)
        text.set_parse_math(False)


@contextmanager
def _foreign_letters_allowed() -> Iterator[None]:
    # A name in a script that matplotlib's own font lacks is drawn by the browser's font in the page.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        yield


def to_svg(picture: Picture) -> str:
    """The figure as an `<svg>` element to stand inside a page: own ids, text as text, no outside links."""
    target = io.StringIO()
    # rc_context gives the settings back; text stays text so that it can be read aloud, searched and scaled
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": picture.name}),
        _foreign_letters_allowed(),
    ):
        picture.figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
    return _for_a_page(target.getvalue(), picture)


def _for_a_page(svg: str, picture: Picture) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r"<style type=\"text/css\">.*?</style>", "", svg, flags=re.DOTALL
    )  # would style the page too
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.DOTALL)
    prefix = re.sub(r"[^a-z0-9]+", "-", picture.name.lower())
    svg = re.sub(r'(\bid=")', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r'^<svg ([^>]*?)width="[^"]*" ([^>]*?)height="[^"]*"', r"<svg \1\2", svg)
    svg = re.sub(r'^<svg ([^>]*?)height="[^"]*" ([^>]*?)width="[^"]*"', r"<svg \1\2", svg)
    return svg.replace(INK, "currentColor").strip()


def write_files(picture: Picture, folder: Path) -> list[Path]:
    """`<name>.png` (150 dots an inch, white) and `<name>.svg` in `folder`, each whole or not at all."""
    paths = []
    for kind in ("png", "svg"):
        path = folder / f"{picture.name}.{kind}"
        metadata = {"Date": None} if kind == "svg" else {"Software": None}  # the same data, the same bytes
        salted = matplotlib.rc_context({"svg.hashsalt": picture.name})
        with atomic_path(path) as temporary, salted, _foreign_letters_allowed():
            picture.figure.savefig(temporary, format=kind, dpi=150, facecolor="white", metadata=metadata)
        paths.append(path)
    return paths


def describe(lines: Sequence[Line], x_label: str, y_label: str) -> str:
    """What the lines do, in words: for readers who hear the page."""
    parts = [
        f"{line.label} from {line.y[0]:.3g} at {line.x[0]:g} to {line.y[-1]:.3g} at {line.x[-1]:g}"
        for line in lines
        if line.x
    ]
    return f"{y_label} against {x_label}: {'; '.join(parts)}."
