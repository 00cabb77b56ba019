"""Notices when a Windows driver pages the card's memory out to the host: no error, only steps that crawl.

On Windows and WSL the driver's default is to go on in the host's memory when the card is full; a step of 1 s
then takes minutes. Nothing reports it, so it is told by the steps' time together with a full card.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable

NUM_FIRST = 5  # steps whose median counts as usual
FACTOR = 8.0  # times the median that a step of a spilling card takes at least
NUM_SLOW = 5  # slow steps in a row: fewer may be a machine that was busy
FULL_SHARE = 0.95  # of the card in use

REMEDY = (
    "the card is full and steps take many times as long as at first: the driver seems to use the host's "
    'memory in its place. Set "CUDA - Sysmem Fallback Policy" to "Prefer No Sysmem Fallback" in the NVIDIA '
    "control panel, so that work is cut smaller here instead, or take a smaller batch or preset"
)


def spills_silently() -> bool:
    """Whether this system's driver may page the card's memory out: Windows, and Linux within it (WSL)."""
    return sys.platform == "win32" or "microsoft" in platform.uname().release.lower()


class SpillWatch:
    """Told of every step of training; warns once.

    Args:
        used_share: the share of the card in use now (0 to 1); asked only after a slow step.
        may_spill: whether the driver may page out at all; where not, nothing is watched.
    """

    def __init__(
        self,
        warn: Callable[[str], None],
        used_share: Callable[[], float],
        *,
        may_spill: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._warn, self._used_share, self._clock = warn, used_share, clock
        self._is_on = may_spill
        self._last: float | None = None
        self._first: list[float] = []
        self._num_slow = 0

    def step(self, number: int) -> None:
        """Step `number` (from 0) has ended. 0 begins another training, whose steps take a time of their own.

        That training's first step is not timed, since nobody said when it began.
        """
        if not self._is_on:
            return
        now, last = self._clock(), self._last
        self._last = now
        if number == 0 or last is None:
            self._first, self._num_slow = [], 0
        elif len(self._first) < NUM_FIRST:
            self._first.append(now - last)
        else:
            self._judge(now - last)

    def _judge(self, seconds: float) -> None:
        is_slow = seconds > FACTOR * statistics.median(self._first) and self._used_share() > FULL_SHARE
        self._num_slow = self._num_slow + 1 if is_slow else 0
        if self._num_slow == NUM_SLOW:
            self._is_on = False
            self._warn(REMEDY)
