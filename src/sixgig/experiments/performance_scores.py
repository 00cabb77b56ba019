"""Scores and verdicts of the performance experiment, from saved times alone.

The unit is the round, in which all arms take their turn; a round's latency is the median over its tokens. The
criteria were fixed before the first run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..evaluate.statistics import Estimate, bootstrap_median, paired_median_ratio
from ..report.schema import Curve, Score, Verdict
from .split_rows import FULL, FULL_MODULES, SPLIT, Key, at_most, score_row

MAX_OVERHEAD = 0.01  # of alpha = 0 over INT4, as earlier implementations asked
MAX_OVERHEAD_WHOLE = 0.15  # of alpha = 1 over INT4


@dataclass(frozen=True, kw_only=True)
class Times:
    """One arm as it was timed: seconds [rounds] of the prompt and [rounds, tokens] of what was written.

    `bytes_per_token` must be read for one token, at the middle of what was written. `joules` [readings] are a
    token's; empty where energy was not measured.
    """

    prefill: np.ndarray
    tokens: np.ndarray
    bytes_per_token: float
    held_bytes: int
    joules: tuple[float, ...]
    quantised_share: float | None = None  # of the parameters, where another library chose what to quantise

    @property
    def latency_ms(self) -> np.ndarray:
        return 1000 * np.median(self.tokens, axis=1)


@dataclass
class PerformanceScores:
    """`times` by (arm, alpha): full precision, the rounded one named `plain_arm`, the split at 0 and 1."""

    times: Mapping[Key, Times]
    plain_arm: str
    prompt_tokens: int
    bandwidth: float  # bytes a second that a copy reads and writes here
    no_energy: str  # why there is no energy; "" where there is
    seed: int = 0
    scores: list[Score] = field(default_factory=list)

    # ---- scores --------------------------------------------------------------------------------------

    def all(self) -> list[Score]:
        for key, times in self.times.items():
            self._score(key, times)
        self._add("copy_bandwidth", ("machine", None), self.bandwidth / 1e9, "GB/s", higher=None)
        return self.scores

    def overhead(self, key: Key, other: Key) -> Estimate:
        """Latency of `key` over that of `other` in the same round, less one."""
        ratio = paired_median_ratio(self.times[key].latency_ms, self.times[other].latency_ms, seed=self.seed)
        return _less_one(ratio)

    def _score(self, key: Key, times: Times) -> None:
        latency = bootstrap_median(times.latency_ms, seed=self.seed)
        self._add("latency", key, latency, "ms/token", higher=False)
        self._add("tokens_per_second", key, _inverted(latency, 1000), "tokens/s", higher=True)
        if key != (FULL, None):
            self._overhead_full(key, times)
        if key[0] == SPLIT:
            self._add("overhead_int4", key, self.overhead(key, (self.plain_arm, None)), "share", higher=False)
        gigabytes = times.bytes_per_token / 1e9
        achieved = _inverted(latency, 1000 * gigabytes)
        self._add("achieved_bandwidth", key, achieved, "GB/s", higher=True)
        share = _inverted(latency, 1000 * times.bytes_per_token / self.bandwidth)
        self._add("roofline_share", key, share, "share", higher=True)
        prefill = bootstrap_median(times.prefill, seed=self.seed)
        self._add(
            "prefill_tokens_per_second", key, _inverted(prefill, self.prompt_tokens), "tokens/s", higher=True
        )
        self._add("bytes_per_token", key, times.bytes_per_token, "bytes", higher=False)
        self._add("held_bytes", key, float(times.held_bytes), "bytes", higher=False)
        if times.quantised_share is not None:
            self._add("quantised_share", key, times.quantised_share, "share", higher=None)
        joules = float(np.median(times.joules)) if times.joules else None
        note = self.no_energy if joules is None else ""
        self.scores.append(
            score_row("energy", key, joules, "J/token", higher=False, n=len(times.joules), note=note)
        )

    def _overhead_full(self, key: Key, times: Times) -> None:
        """Over full precision in the same loop: what runs in the modules alone is held against it there."""
        is_foreign = times.quantised_share is not None and (FULL_MODULES, None) in self.times
        full = FULL_MODULES if is_foreign else FULL
        found, note = self.overhead(key, (full, None)), f"against {full}" if is_foreign else ""
        self.scores.append(score_row("overhead_fp16", key, found, "share", higher=False, note=note))

    def _add(
        self, name: str, key: Key, found: Estimate | float | None, unit: str, *, higher: bool | None
    ) -> None:
        self.scores.append(score_row(name, key, found, unit, higher=higher))

    # ---- verdicts, curves, the earlier implementations' block ----------------------------------------

    def verdicts(self) -> list[Verdict]:
        return [
            self._at_most(0.0, MAX_OVERHEAD, "with alpha at 0 the split costs no time", counts=True),
            self._at_most(
                1.0, MAX_OVERHEAD_WHOLE, "with alpha at 1 the Ortho part costs little", counts=False
            ),
        ]

    def _at_most(self, alpha: float, limit: float, criterion: str, *, counts: bool) -> Verdict:
        return at_most(
            self.overhead((SPLIT, alpha), (self.plain_arm, None)),
            limit,
            criterion=criterion,
            threshold=f"time a token above INT4's by at most {limit:.0%}",
            counts=counts,
        )

    def curves(self) -> list[Curve]:
        """Each arm's latency, round by round: what disturbed the machine shows in all of them."""
        return [
            Curve(
                name="latency_by_round",
                arm=arm if alpha is None else f"{arm} at alpha {alpha:g}",
                x_label="round",
                y_label="ms/token",
                x=[float(number) for number in range(1, len(times.latency_ms) + 1)],
                y=times.latency_ms.tolist(),
            )
            for (arm, alpha), times in self.times.items()
        ]

    def seed_block(self, bits: int) -> dict[str, Any]:
        """The earlier implementations' own keys; the overhead is a share (0.01 is 1%)."""

        def latency(key: Key) -> float:
            return float(np.median(self.times[key].latency_ms))

        return {
            "latency_fp16_ms_per_token": latency((FULL, None)),
            "latency_int4_ms_per_token": latency((self.plain_arm, None)),
            "latency_libortho_alpha0_ms_per_token": latency((SPLIT, 0.0)),
            "overhead_vs_int4": self.overhead((SPLIT, 0.0), (self.plain_arm, None)).value,
            "bits": bits,
        }


def times_of(rounds: Sequence[Mapping[str, Any]], **more: Any) -> Times:
    """From what a stage kept of one arm's rounds."""
    return Times(
        prefill=np.asarray([one["prefill_seconds"] for one in rounds]),
        tokens=np.asarray([one["token_seconds"] for one in rounds]),
        **more,
    )


def _less_one(found: Estimate) -> Estimate:
    return _mapped(found, lambda value: value - 1)


def _inverted(found: Estimate, factor: float) -> Estimate:
    return _mapped(found, lambda value: factor / value)


def _mapped(found: Estimate, change: Any) -> Estimate:
    ends = sorted((change(found.interval.low), change(found.interval.high)))
    interval = type(found.interval)(low=ends[0], high=ends[1], confidence=found.interval.confidence)
    return Estimate(value=change(found.value), interval=interval, n=found.n)
