"""The default sieve: removes what fine-tuning changed for private inputs and not for public ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .base import Evidence, InputStatistics

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class WienerSieve:
    """M = (W - W0) A_f (A_f + lambda A_r + eps I)^-1.

    The linear map P minimising  E_f |dW x - M x|^2 + lambda E_r |M x|^2  over M = dW P: a Wiener filter with
    the private inputs as signal and the public ones as noise. A small `noise_weight` (lambda) removes
    everything that private inputs touch; a large one spares what public inputs share with them.

    Source: this project's own pilot, docs/methods.md.
    """

    noise_weight: float = 0.01
    damping: float = 1e-4

    name: ClassVar[str] = "wiener"
    claim: ClassVar[str] = "suppressed"
    needs_private: ClassVar[bool] = True
    needs_before: ClassVar[bool] = True
    keeps_before: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    searches: ClassVar[bool] = False

    def removed(self, evidence: Evidence) -> Tensor:
        return evidence.statistics.filtered(evidence.change(self.name), self.noise_weight, self.damping)

    def residual_score(self, residual_OI: Tensor, statistics: InputStatistics) -> Tensor | None:
        return None
