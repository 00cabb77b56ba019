"""What a fetch tells while it works: one small value a step, shown by whoever asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Step = Literal["wait", "repair", "download", "extract", "convert", "verify", "done"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """Where a fetch stands: the step, the bytes done of how many (None where not known), and a note."""

    step: Step
    done_bytes: int = 0
    total_bytes: int | None = None
    note: str = ""


Progress = Callable[[Report], None]


def tell(progress: Progress | None, step: Step, note: str = "") -> None:
    """`progress` hears of a step's beginning, if anyone listens."""
    if progress:
        progress(Report(step=step, note=note))
