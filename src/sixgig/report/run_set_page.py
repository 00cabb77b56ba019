"""The page and the terminal's table of several runs: failed criteria first, with a link to every run's page.

Made from all.json alone. Like a single run's page it is self-contained, and every string is escaped.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import jinja2

from ..files import write_text
from ..units import format_bytes, format_seconds
from .html import environment
from .labels import arm_label, number
from .run_set import STATUS_WORDS, Criterion, Part, RunSet
from .table import Cell, Table, Tone

PAGE = "report.html"


def write_page(found: RunSet, folder: Path) -> Path:
    """Writes report.html under `folder`, whole or not at all."""
    page = folder / PAGE
    write_text(page, render(found))
    return page


def render(found: RunSet) -> str:
    return _template().render(
        found=found,
        parts=found.failures_first,
        headline=headline(found),
        begun=begun(found),
        tone=_tone(found),
        table=summary_table(found),
        failed=[(part, _told(item)) for part in found.failures_first for item in part.failed],
        undecided=[(part, _told(item)) for part in found.failures_first for item in part.undecided],
        incomplete=[part for part in found.parts if part.status != "complete"],
        status_words=STATUS_WORDS,
        blocks=json.dumps(found.blocks, indent=2, ensure_ascii=False) if found.blocks else "",
    )


def begun(found: RunSet) -> str:
    """ "20270102-030405" as people write it: "2027-01-02 03:04"."""
    day, _, clock = found.started.partition("-")
    return f"{day[:4]}-{day[4:6]}-{day[6:]} {clock[:2]}:{clock[2:4]}"


def headline(found: RunSet) -> str:
    """One sentence: how many experiments are complete, and what their criteria came to."""
    complete = [part for part in found.parts if part.status == "complete"]
    met, failed, open_ones = (
        sum(getattr(part, name) for part in complete) for name in ("num_met", "num_failed", "num_undecided")
    )
    whole = len(complete) == len(found.parts)
    words = f"{'All' if whole else f'{len(complete)} of'} {len(found.parts)} experiments are complete"
    if not complete:
        return f"None of {len(found.parts)} experiments is complete."
    said = [f"{failed} failed"] if failed else []
    said += [f"{met} met", *([f"{open_ones} undecided"] if open_ones else [])]
    return f"{words}; of {met + failed + open_ones} criteria {', '.join(said)}."


def summary_table(found: RunSet) -> Table:
    """One row an experiment, those with failed criteria first."""
    rows = tuple(_row(part) for part in found.failures_first)
    times = [part.seconds for part in found.parts if part.seconds is not None]
    return Table(
        title="Experiments",
        columns=("Experiment", "Answer", "Met", "Failed", "Undecided", "Time", "Peak memory", "Warnings"),
        rows=rows,
        num_labels=2,
        caption=f"Together {format_seconds(sum(times))}. " * bool(times)
        + "Counted are the criteria that decide an answer, all of them fixed before the runs.",
    )


def _row(part: Part) -> tuple[Cell, ...]:
    if part.status != "complete":
        tone = "unknown" if part.status in ("waiting", "begun") else "bad"
        dash = Cell(text="-")
        word = STATUS_WORDS[part.status] if part.status == "waiting" else part.status
        status = Cell(text=word, tone=tone)
        return Cell(text=part.experiment), status, *(dash,) * 6
    assert part.answer is not None
    tones: dict[str, Tone] = {"yes": "good", "no": "bad", "cannot tell": "unknown"}
    return (
        Cell(text=part.experiment),
        Cell(text=part.answer, tone=tones[part.answer]),
        Cell(text=str(part.num_met)),
        Cell(text=str(part.num_failed), tone="bad" if part.num_failed else ""),
        Cell(text=str(part.num_undecided), tone="unknown" if part.num_undecided else ""),
        Cell(text="-" if part.seconds is None else format_seconds(part.seconds).replace(" ", "\u00a0")),
        Cell(text="-" if part.measured_peak_bytes is None else format_bytes(part.measured_peak_bytes)),
        Cell(text=str(len(part.warnings))),
    )


def _tone(found: RunSet) -> str:
    is_bad = any(part.num_failed or part.status in ("failed", "refused") for part in found.parts)
    is_open = any(part.num_undecided or part.status != "complete" for part in found.parts)
    return "no" if is_bad else "cannot-tell" if is_open else "yes"


def _told(item: Criterion) -> str:
    measured = "" if item.value is None else f"; measured {number(item.value)}"
    return f"{arm_label(item.arm)}: {item.criterion} (asked: {item.threshold}{measured})"


@functools.cache
def _template() -> jinja2.Template:
    return environment().get_template("run_set.html.j2")
