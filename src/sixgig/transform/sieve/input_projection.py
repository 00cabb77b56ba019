"""The Wiener filter without an earlier checkpoint: it takes what the whole weight does for private inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .base import Evidence, InputStatistics

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class InputProjectionSieve:
    """M = W A_f (A_f + lambda A_r + eps I)^-1: `wiener` with W0 = 0.

    W does far more than remember, so what private inputs share with public ones must be spared: lambda stands
    far above wiener's, and a direction goes only where private inputs are lambda times as strong as public
    ones. eps bounds M itself: with wiener's, M outgrows W where both kinds of input are weak, and rounding
    what is left destroys the model. Source: this project's own, as `wiener`.
    """

    noise_weight: float = 50.0
    damping: float = 0.03

    name: ClassVar[str] = "input-projection"
    claim: ClassVar[str] = "suppressed"
    needs_private: ClassVar[bool] = True
    needs_before: ClassVar[bool] = False
    keeps_before: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    searches: ClassVar[bool] = False

    def removed(self, evidence: Evidence) -> Tensor:
        evidence.statistics.require_private(self.name)
        return evidence.statistics.filtered(evidence.weight_OI, self.noise_weight, self.damping)

    def residual_score(self, residual_OI: Tensor, statistics: InputStatistics) -> Tensor | None:
        return None
