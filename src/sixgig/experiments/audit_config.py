"""Settings of an audit, checked without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .setting_checks import refuse, too_small

MIN_RECORDS = 5  # fewer say nothing: five of five recited put the true share above 55%, and no more

_LEAST = {
    "seed": 0,
    "max_question_tokens": 1,
    "max_value_tokens": 1,
    "max_pool": MIN_RECORDS,
    "positions_per_batch": 64,
}


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """Everything that decides the numbers, but for the files."""

    alpha: float = 0.0  # of the model that is audited; the whole split, at 1, is the contrast
    seed: int = 0  # draws the pools, the resamples and the permutations

    # Of a longer record the end of what comes before its value and the beginning of the value are taken: a
    # memory of a text shows in any piece of it, and every value is tried after every question of a pool.
    max_question_tokens: int = 128
    max_value_tokens: int = 48
    max_pool: int = 64  # records compared with one another: exposure reaches 6 bits

    # Machine.
    positions_per_batch: int = 2048

    def __post_init__(self) -> None:
        faults = list(too_small(self, _LEAST))
        if not (math.isfinite(self.alpha) and 0 <= self.alpha < 1):
            faults.append(
                f"alpha must be from 0 to below 1, not {self.alpha:g}: at 1 the split is whole, which every "
                "audit measures beside as its contrast"
            )
        refuse(faults)
