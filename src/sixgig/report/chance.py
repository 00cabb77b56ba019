"""The exposure that guessing gives, which depends on how many decoys a secret is ranked among."""

from __future__ import annotations

import math

from ..evaluate.statistics import chance_exposure_bits
from .schema import Result


def chance_bits(result: Result) -> float:
    """Mean exposure by chance with the run's number of decoys; the limit for many where it is not told."""
    num_decoys = result.config.get("num_decoys")
    return chance_exposure_bits(num_decoys) if isinstance(num_decoys, int) else math.log2(math.e)


def chance_label(result: Result) -> str:
    return f"chance ({chance_bits(result):.2f} bits)"
