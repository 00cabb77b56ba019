"""What a run found: its schema, its directory, and the tables, figures and page made from it.

The names below are loaded when first used, so that importing the package brings in neither matplotlib nor
pydantic.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compare import Comparison, compare
    from .figures import write_figures
    from .html import render_html, write_report
    from .schema import Curve, Example, Memory, Result, Score, Verdict
    from .store import RunDirectory
    from .tables import terminal_tables

__all__ = [
    "Comparison",
    "Curve",
    "Example",
    "Memory",
    "Result",
    "RunDirectory",
    "Score",
    "Verdict",
    "compare",
    "render_html",
    "terminal_tables",
    "write_figures",
    "write_report",
]

_MODULE_OF: dict[str, str] = {
    "Comparison": "compare",
    "Curve": "schema",
    "Example": "schema",
    "Memory": "schema",
    "Result": "schema",
    "RunDirectory": "store",
    "Score": "schema",
    "Verdict": "schema",
    "compare": "compare",
    "render_html": "html",
    "terminal_tables": "tables",
    "write_figures": "figures",
    "write_report": "html",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
