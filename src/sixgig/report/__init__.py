"""What a run found: its schema, its directory, and the tables, figures and page made from it.

The names below are loaded when first used, so that importing the package brings in neither matplotlib nor
pydantic.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .schema import Curve, Example, Memory, Result, Score, Verdict
    from .store import RunDirectory

__all__ = ["Curve", "Example", "Memory", "Result", "RunDirectory", "Score", "Verdict"]

_MODULE_OF: dict[str, str] = {
    "Curve": "schema",
    "Example": "schema",
    "Memory": "schema",
    "Result": "schema",
    "RunDirectory": "store",
    "Score": "schema",
    "Verdict": "schema",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
