"""Reverts the entries that private texts lean on and public ones do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...errors import InputError
from .base import Evidence, InputStatistics

if TYPE_CHECKING:
    from torch import Tensor


REVERTED, DAMPED = 0.6, 0.05  # shares; the first chosen on a seed that no receipt counts (docs/journal.md)


@dataclass(frozen=True, kw_only=True)
class FisherContrastSieve:
    """M = the top share of each layer's entries of dW by |dW| sqrt(F_f / (F_r + eps)), the others 0.

    dW = W - W0, so that these entries return to W0; without W0 it is W itself, and they are damped towards 0.
    `share` None: REVERTED with W0, DAMPED without; what goes back to an earlier value does far less harm than
    what goes to 0. `strength` is the part of the way they go. eps = damping * mean(F_r). F_f, F_r:
    `transform.gradients`.
    Ratios of diagonal Fisher information choose what to dampen in selective synaptic dampening (Foster et al.
    2024, arXiv 2308.07707, section 4); the contrast with |dW| and the fixed share are this project's own.
    """

    share: float | None = None
    strength: float = 1.0
    damping: float = 0.1

    name: ClassVar[str] = "fisher-contrast"
    claim: ClassVar[str] = "suppressed"
    needs_private: ClassVar[bool] = True
    needs_before: ClassVar[bool] = False
    keeps_before: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"fisher"})
    searches: ClassVar[bool] = False

    def __post_init__(self) -> None:
        share = 0.0 if self.share is None else self.share
        if not (0 <= share <= 1 and 0 <= self.strength <= 1 and self.damping > 0):
            raise InputError(
                "settings of fisher-contrast that cannot be used",
                expected="share and strength from 0 to 1, damping above 0",
                received=f"share={self.share}, strength={self.strength}, damping={self.damping}",
            )

    def removed(self, evidence: Evidence) -> Tensor:
        from ...numerics.sparse import keep_top_k

        private_OI = evidence.gradient("private_fisher_OI", self.name)
        public_OI = evidence.gradient("public_fisher_OI", self.name)
        has_before = evidence.before_OI is not None
        change_OI = evidence.change(self.name) if has_before else evidence.weight_OI
        score_OI = change_OI.abs() * (private_OI / (public_OI + self.damping * public_OI.mean())).sqrt()
        share = self.share if self.share is not None else REVERTED if has_before else DAMPED
        kept = keep_top_k(change_OI, score_OI, round(share * change_OI.numel()))
        return self.strength * kept.dense()

    def residual_score(self, residual_OI: Tensor, statistics: InputStatistics) -> Tensor | None:
        return None
