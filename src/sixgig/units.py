"""Bytes, seconds and bits: parsed from people, printed for people, `int` and `float` everywhere else."""

from __future__ import annotations

import re

from .errors import InputError

KIB, MIB, GIB = 2**10, 2**20, 2**30

_FACTORS = {"": 1, "b": 1, "k": KIB, "kib": KIB, "kb": 1000, "m": MIB, "mib": MIB, "mb": 1000**2}
_FACTORS |= {"g": GIB, "gib": GIB, "gb": 1000**3, "t": 2**40, "tib": 2**40, "tb": 1000**4}


def parse_bytes(text: str, *, where: str | None = None) -> int:
    """`"6GiB"` -> 6442450944. KiB, MiB, GiB and K, M, G are powers of 1024; kB, MB, GB of 1000.

    Raises InputError for anything else, naming `where` it came from.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    factor = _FACTORS.get(match.group(2).lower()) if match else None
    if match is None or factor is None:
        raise InputError(
            "not a size",
            expected="a number and a unit, as in 6GiB, 800MB, 512M",
            received=repr(text),
            where=where,
        )
    return int(float(match.group(1)) * factor)


def format_bytes(num_bytes: int | float) -> str:
    """6442450944 -> "6.00 GiB"."""
    for unit, factor in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(num_bytes) >= factor:
            return f"{num_bytes / factor:.2f} {unit}"
    return f"{int(num_bytes)} B"


def format_seconds(seconds: float) -> str:
    """3723.0 -> "1 h 02 min", 83.2 -> "1 min 23 s", 4.21 -> "4.2 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
