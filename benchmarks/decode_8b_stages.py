"""What the benchmark is doing, a line a stage on stderr: a run that is cut off shows where it was."""

from __future__ import annotations

import sys
import time

_BEGUN = time.monotonic()


def say(words: str) -> None:
    """Told at once, with the seconds since the start."""
    print(f"{time.monotonic() - _BEGUN:7.1f} s  {words}", file=sys.stderr, flush=True)
