"""What may be kept as JSON, checked before it is written and after it is read.

Python's json module writes NaN, turns tuples to lists without a word and reads `1e999` as infinity. A result
that went through that once no longer equals itself, so every value that is kept passes `require_plain` first.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, NoReturn

from ..errors import IntegrityError, NumericalError

MAX_DEPTH = 64


def first_fault(value: Any, path: str = "$", depth: int = 0) -> str | None:
    """The first place where `value` is not plain JSON and why, or None where it is plain throughout.

    Plain: None, bool, int, finite float, encodable str, and lists, tuples and str-keyed dicts of these.
    """
    if depth > MAX_DEPTH:
        return f"{path}: nested deeper than {MAX_DEPTH}"
    if isinstance(value, dict):
        return _first_fault_of_dict(value, path, depth)
    if isinstance(value, (list, tuple)):
        faults = (first_fault(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value))
        return next((fault for fault in faults if fault), None)
    if isinstance(value, float) and not math.isfinite(value):
        return f"{path}: {value} is not a number that JSON can hold"
    if isinstance(value, str) and any(0xD800 <= ord(character) <= 0xDFFF for character in value):
        return f"{path}: half a surrogate pair is not text"
    if value is None or isinstance(value, (bool, int, float, str)):
        return None
    return f"{path}: {type(value).__name__} is not a JSON value"


def _first_fault_of_dict(value: dict[Any, Any], path: str, depth: int) -> str | None:
    for key, item in value.items():
        if not isinstance(key, str):
            return f"{path}: the key {key!r} is {type(key).__name__}, not str"
        fault = first_fault(key, f"{path}.(key)", depth + 1) or first_fault(item, f"{path}.{key}", depth + 1)
        if fault:
            return fault
    return None


def require_plain(value: Any, *, what: str) -> Any:
    """`value` as a reader of the JSON sees it (tuples as lists); `NumericalError` names the first fault."""
    fault = first_fault(value)
    if fault:
        raise NumericalError(
            f"{what} cannot be kept as JSON",
            expected="finite numbers, text, true, false, null, lists and tables of these",
            received=fault,
            todo="store None with a note where there is no number",
        )
    return json.loads(json.dumps(value))


def canonical(value: Any) -> str:
    """One text for one value, whatever the order of its keys: what digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_of(value: Any) -> str:
    """Hex SHA-256 of `canonical(value)`."""
    return hashlib.sha256(canonical(value).encode("ascii")).hexdigest()


def parse(text: str, *, where: str) -> Any:
    """JSON text as a value; `IntegrityError` for anything else, NaN and Infinity included."""

    def refuse(constant: str) -> NoReturn:
        raise IntegrityError("not valid JSON", where=where, expected="finite numbers", received=constant)

    try:
        value = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        place = f"{where}, line {error.lineno}, column {error.colno}"
        raise IntegrityError("not valid JSON, or cut short", where=place, received=error.msg) from error
    except IntegrityError:
        raise
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits; bottomless nesting
        raise IntegrityError("not valid JSON", where=where, received=str(error)) from error
    fault = first_fault(value)
    if fault:
        raise IntegrityError("not valid JSON", where=where, received=fault)
    return value
