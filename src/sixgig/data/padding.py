"""When texts of unlike length go through a model together."""

from __future__ import annotations

from collections.abc import Sequence

MAX_PADDING = 1.3  # padded over real positions, up to which one pass is cheaper than two


def worth_one_pass(lengths: Sequence[int]) -> bool:
    """Whether texts of these lengths in tokens are better padded to one length than passed in two groups.

    Each pass casts all weights, so a little padding is the cheaper way.
    """
    return len(lengths) * max(lengths) <= MAX_PADDING * sum(lengths)
