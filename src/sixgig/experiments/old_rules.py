"""Which values a key of an earlier project's configuration may have, and how they are read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..units import MIB, parse_bytes


@dataclass(frozen=True, kw_only=True)
class Rule:
    """`read` returns the value to keep, or raises TypeError or ValueError; `words` complete "must be ..."."""

    words: str
    read: Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True)
class MemoryLimit:
    """The most memory that a place may hold: a card's number ("0"), "cpu" or "disk"."""

    place: str
    num_bytes: int


def whole(*, at_least: int | None = None, at_most: int | None = None) -> Rule:
    """A whole number; 4.0 is not one, and neither is true."""

    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError
        if (at_least is not None and value < at_least) or (at_most is not None and value > at_most):
            raise ValueError
        return value

    bounds = "" if at_least is None else f" of at least {at_least}"
    bounds += "" if at_most is None else f" and at most {at_most}"
    return Rule(words=f"a whole number{bounds}", read=read)


def number(
    *, at_least: float | None = None, above: float | None = None, at_most: float | None = None
) -> Rule:
    """A finite number within the bounds."""

    def read(value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise TypeError
        if not math.isfinite(value) or (at_least is not None and value < at_least):
            raise ValueError
        if (above is not None and value <= above) or (at_most is not None and value > at_most):
            raise ValueError
        return float(value)

    bounds = [
        f"{words} {bound:g}"
        for words, bound in (("at least", at_least), ("above", above), ("at most", at_most))
        if bound is not None
    ]
    return Rule(words=f"a number {' and '.join(bounds)}".rstrip(), read=read)


def _read_truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _read_word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    if not value.strip():
        raise ValueError
    return value.strip()


def _read_secret(value: Any) -> str | int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return _read_word(value)


def _read_device(value: Any) -> str:
    word = _read_word(value).lower()
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", word):
        raise ValueError
    return word


def _read_dtype(value: Any) -> str:
    word = _read_word(value).removeprefix("torch.")
    if word not in ("auto", "float16", "bfloat16", "float32"):
        raise ValueError
    return word


def _read_limits(value: Any) -> tuple[MemoryLimit, ...]:
    if not isinstance(value, dict):
        raise TypeError
    limits = []
    for place, size in value.items():
        if not re.fullmatch(r"\d+|cpu|disk", place):
            raise ValueError
        num_bytes = whole(at_least=0).read(size) if not isinstance(size, str) else parse_bytes(size)
        if 0 < num_bytes < MIB:  # "6" without its unit; 0 means that the place is not to be used
            raise ValueError
        limits.append(MemoryLimit(place=place, num_bytes=num_bytes))
    return tuple(limits)


TRUTH = Rule(words="true or false", read=_read_truth)
WORD = Rule(words="a text that is not empty", read=_read_word)
SECRET = Rule(words="a text or a whole number", read=_read_secret)
DEVICE = Rule(words="auto, cpu, cuda or cuda:0", read=_read_device)
DTYPE = Rule(words="auto, float16, bfloat16 or float32", read=_read_dtype)
LIMITS = Rule(words='sizes by place, as in {"0": "6GB", "cpu": "24GB"}', read=_read_limits)
