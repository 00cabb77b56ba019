"""What settings of several experiments share: checks, a sentence for every fault, and what a split reads."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..numerics.bits import SUPPORTED_BITS

if TYPE_CHECKING:
    from ..transform.rounding import QuantizeConfig
    from ..transform.split_layer import OrthoConfig

QUANTISERS = ("rtn", "gptq")
FACTOR_BITS = (8, 16)
SPLIT_LEAST = {  # of an experiment that makes one split, without private texts
    "seed": 0,
    "group_size": 1,
    "rank": 0,
    "calibration_window": 2,
    "num_calibration_windows": 1,
}


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


def quantize_config(config: Any) -> QuantizeConfig:
    from ..transform.rounding import QuantizeConfig

    return QuantizeConfig(bits=config.bits, group_size=config.group_size, method=config.quantiser)


def ortho_config(config: Any) -> OrthoConfig:
    """Of a split whose Ortho part holds what rounding took away."""
    from ..transform.split_layer import OrthoConfig

    return OrthoConfig(rank=config.rank, sparse_share=config.sparse_share)
