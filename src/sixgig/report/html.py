"""One self-contained page of a result: no scripts, no outside requests, readable by anyone.

The page is printed, mailed and opened years later, so everything stands inside it. Every string of the result
passes `visible` and the template's escaping: a model's answers are not to be trusted with a browser.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from ..files import write_text
from ..units import format_bytes, format_seconds
from .figures import Figures, build_figures
from .labels import visible
from .pictures import to_svg, write_files
from .schema import Example, Result
from .story import GLOSSARY, synthetic_sources, tell
from .tables import result_tables, score_table

MAX_EXAMPLES = 5


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model said at one setting, cut at the secret: every second piece is the secret."""

    setting: str
    pieces: tuple[str, ...]

    @property
    def tells(self) -> bool:
        return len(self.pieces) > 1


@dataclass(frozen=True, kw_only=True)
class ShownExample:
    example: Example
    answers: tuple[Answer, ...]


def render_html(result: Result, figures: Figures | None = None) -> str:
    """The page as text. `figures` saves drawing them twice where they were built before."""
    figures = figures or build_figures(result)
    drawn = [(picture, Markup(to_svg(picture))) for picture in figures.pictures]  # escaped within
    return _template().render(
        result=result,
        story=tell(result),
        synthetic=list(dict.fromkeys(synthetic_sources(result.provenance))),
        tables=result_tables(result),
        all_scores=score_table(result),
        figures=drawn,
        left_out=figures.left_out,
        examples=[_shown(example) for example in result.examples[:MAX_EXAMPLES]],
        glossary=GLOSSARY,
        costs=_costs(result),
        blocks=_blocks(result),
    )


def write_report(result: Result, folder: Path) -> Path:
    """Writes figures/ and report.html under `folder`, each file whole or not at all; returns the page's path.

    Both come from `result` alone, so that writing them again later gives the same.
    """
    figures = build_figures(result)
    for picture in figures.pictures:
        write_files(picture, folder / "figures")
    page = folder / "report.html"
    write_text(page, render_html(result, figures))
    return page


@functools.cache
def _template() -> jinja2.Template:
    return environment().get_template("template.html.j2")


def environment() -> jinja2.Environment:
    """What every page's template is read with: everything escaped, nothing left undefined."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("sixgig.report", package_path=""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _finalize(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _shown(example: Example) -> ShownExample:
    return ShownExample(
        example=example,
        answers=tuple(_answer(setting, text, example.secret) for setting, text in example.answers.items()),
    )


def _answer(setting: str, text: str, secret: str) -> Answer:
    if not secret.strip():
        return Answer(setting=setting, pieces=(text,))
    before_and_after = text.split(secret.strip())
    pieces = [piece for part in before_and_after for piece in (secret.strip(), part)][1:]
    return Answer(setting=setting, pieces=tuple(pieces))


def _costs(result: Result) -> list[tuple[str, str]]:
    """Time by stage and peak memory, as (what, how much)."""
    costs = [(stage, format_seconds(seconds)) for stage, seconds in result.timings.items()]
    memory = result.memory
    peaks = [
        ("memory, planned peak", memory.planned_peak_bytes),
        ("memory, measured peak", memory.measured_peak_bytes),
    ]
    others = [
        ("memory, reserved by the allocator, peak", memory.reserved_peak_bytes),
        ("memory, in use on the card, peak", memory.device_used_peak_bytes),
        ("memory, of the process, peak", memory.resident_peak_bytes),
        ("memory, budget of the run", memory.budget_bytes),
    ]
    peaks += [(what, peak) for what, peak in others if peak is not None]
    return costs + [(what, "not known" if peak is None else format_bytes(peak)) for what, peak in peaks]


def _blocks(result: Result) -> list[tuple[str, str]]:
    """The parts that only some readers open, as (title, YAML)."""
    parts = [("Configuration", result.config), ("Provenance", result.provenance), ("Plan", result.plan)]
    parts += [
        (f"{name}, as earlier implementations named it", block) for name, block in result.blocks().items()
    ]
    return [
        (title, yaml.safe_dump(part, sort_keys=False, allow_unicode=True)) for title, part in parts if part
    ]
