"""What lies around lm-eval's numbers: 95% intervals, and the smallest difference that so many documents show.

lm-eval gives means a standard error and other metrics none. Here, from the values of each document:

- right or wrong: the exact binomial interval (Clopper and Pearson 1934), which does not shrink to nothing
  where all or none were right;
- quotients of sums over documents (perplexities, bits per byte, shares of instructions): the documents are
  drawn anew, percentiles of 2,000 draws;
- other means: lm-eval's standard error times 1.96.

Pure functions of saved numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .statistics import clopper_pearson

_DRAWS, _LEAST_DOCUMENTS = 2000, 10
_TWO_SIDED, _POWER = 1.959964, 0.841621  # normal quantiles of 97.5% and 80%
# What a metric makes of the quotient of its sums, by the end of its name.
_OF_QUOTIENT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "perplexity": lambda quotient: np.exp(-quotient),
    "bits_per_byte": lambda quotient: -quotient / math.log(2),
    "acc": lambda quotient: quotient,
}


@dataclass(frozen=True, kw_only=True)
class Spread:
    """`low` to `high` hold 95%; `stderr` is of one run, and `how` says in words where they come from."""

    low: float
    high: float
    stderr: float
    how: str

    @property
    def visible_difference(self) -> float:
        """Between two such runs on documents of their own: found at 5%, two-sided, in 80 of 100 cases.

        Two models on the same documents are compared pair by pair, which sees smaller ones.
        """
        return (_TWO_SIDED + _POWER) * math.sqrt(2) * self.stderr


def values_of(samples: Sequence[Mapping[str, Any]], task: str, metric: str, filter_name: str) -> list[Any]:
    """The metric's value for each document that counts for the task or group."""
    return [
        row["metrics"][metric]
        for row in samples
        if task in row["tasks"] and row["filter"] == filter_name and metric in row["metrics"]
    ]


def spread(value: float, stderr: float | None, values: Sequence[Any], metric: str) -> Spread | None:
    """The interval of a metric with lm-eval's `value` and `stderr`; None where nothing here gives one."""
    are_marks = bool(values) and all(isinstance(one, (bool, int, float)) and one in (0, 1) for one in values)
    if are_marks and math.isclose(value, sum(values) / len(values), abs_tol=1e-9):
        return _of_shares(int(sum(values)), len(values))
    if stderr is not None:
        half = _TWO_SIDED * stderr
        return Spread(low=value - half, high=value + half, stderr=stderr, how="lm-eval's standard error")
    return _of_quotients(value, values, metric)


def _of_shares(num_right: int, n: int) -> Spread:
    interval = clopper_pearson(num_right, n)
    # All or none right would give no error at all; then as if one more of either had been seen.
    share = num_right / n if 0 < num_right < n else (num_right + 1) / (n + 2)
    return Spread(
        low=interval.low,
        high=interval.high,
        stderr=math.sqrt(share * (1 - share) / max(1, n - 1)),
        how="exact binomial interval",
    )


def _of_quotients(value: float, values: Sequence[Any], metric: str) -> Spread | None:
    finish = next((made for end, made in _OF_QUOTIENT.items() if metric.endswith(end)), None)
    if finish is None or len(values) < _LEAST_DOCUMENTS or not all(isinstance(one, list) for one in values):
        return None
    if metric.endswith("acc"):  # one mark an instruction
        pairs = np.array([(sum(one), len(one)) for one in values], dtype=np.float64)
    else:
        pairs = np.array(values, dtype=np.float64)
    whole = pairs.sum(axis=0)
    if not math.isclose(float(finish(whole[0] / whole[1])), value, rel_tol=1e-9):
        return None  # lm-eval's number is made in another way than is known here
    drawn = np.random.default_rng(0).integers(len(pairs), size=(_DRAWS, len(pairs)))
    sums = pairs[drawn].sum(axis=1)
    found = finish(sums[:, 0] / sums[:, 1])
    low, high = np.quantile(found, (0.025, 0.975))
    return Spread(
        low=float(low),
        high=float(high),
        stderr=float(found.std(ddof=1)),
        how=f"documents drawn anew, {_DRAWS} times",
    )
