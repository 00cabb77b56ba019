"""Checks that settings of several experiments share; each yields a sentence for every fault."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ..errors import InputError
from ..numerics.bits import SUPPORTED_BITS

QUANTISERS = ("rtn", "gptq")
FACTOR_BITS = (8, 16)


def refuse(faults: Collection[str]) -> None:
    """Raises InputError naming every fault, if there is one."""
    if faults:
        raise InputError("settings that cannot be used: " + "; ".join(faults))


def quantiser_faults(config: Any) -> Iterator[str]:
    for key, allowed in {
        "quantiser": QUANTISERS,
        "bits": SUPPORTED_BITS,
        "factor_bits": FACTOR_BITS,
    }.items():
        if getattr(config, key) not in allowed:
            yield f"{key} must be {' or '.join(map(str, allowed))}, not {getattr(config, key)}"
    if not 0 <= config.sparse_share <= 1:
        yield f"sparse_share must be from 0 to 1, not {config.sparse_share}"


def too_small(config: Any, least: Mapping[str, int]) -> Iterator[str]:
    """Counts below what they may be; None stands for all there is."""
    for key, smallest in least.items():
        value = getattr(config, key)
        if value is not None and value < smallest:
            yield f"{key} must be at least {smallest}, not {value}"


def not_positive(config: Any, keys: Collection[str]) -> Iterator[str]:
    for key in keys:
        if not 0 < getattr(config, key) < math.inf:
            yield f"{key} must be above 0, not {getattr(config, key)}"
