"""BalancedSubnet: the few weights that hold the private texts and little else are set to 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...errors import InputError
from .base import Evidence, InputStatistics

if TYPE_CHECKING:
    from torch import Tensor

    from ..search import Found, SearchContext


@dataclass(frozen=True, kw_only=True)
class SubnetSieve:
    """M = W at up to `share` of each layer's entries, those with the most to gain for their cost; else 0.

    An entry's gain is its trained score; its cost is F_r W^2, what public text is expected to lose by it to
    second order (F_r: the empirical Fisher's diagonal), plus `damping` times the layer's mean cost. The mask
    grows with the steps, to its whole share at the last, and stops growing where the texts are forgotten.

    The score is trained straight through the top-k mask (Ramanujan et al. 2020, arXiv 1911.13299): it sums
    what setting an entry to 0 would change of the loss  forget_weight * (level - private NLL)+ +
    (1 - forget_weight) * KL(W || masked W) on public text. Source: BalancedSubnet, Sakarvadia et al. 2025,
    arXiv 2410.02159, section 3; weight 0.7 is what Merullo et al. 2025 (arXiv 2510.24256, appendix D) found
    best; their share of 0.0015 is of entries that cost more. Deviations: `transform.search_subnet`.
    """

    share: float = 0.01
    forget_weight: float = 0.7
    damping: float = 0.1
    level: float | None = None  # nats a token at which a text counts as forgotten; None: measured
    num_steps: int = 50
    texts_per_step: int = 16
    windows_per_step: int = 4

    name: ClassVar[str] = "subnet"
    claim: ClassVar[str] = "suppressed"
    needs_private: ClassVar[bool] = True
    needs_before: ClassVar[bool] = False
    keeps_before: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"public_fisher"})
    searches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        counts = (self.num_steps, self.texts_per_step, self.windows_per_step)
        shares = (self.share, self.forget_weight)
        if (
            min(counts) < 1
            or not all(0 <= share <= 1 for share in shares)
            or not self.damping > 0
            or (self.level is not None and not self.level > 0)
        ):
            raise InputError(
                "settings of subnet that cannot be used",
                expected="num_steps, texts_per_step and windows_per_step of 1 or more, share and "
                "forget_weight from 0 to 1, damping and level above 0",
                received=str(self),
            )

    def search(self, context: SearchContext) -> Found:
        from ..search_subnet import search_subnet

        return search_subnet(self, context)

    def removed(self, evidence: Evidence) -> Tensor:
        return evidence.found(self.name)

    def residual_score(self, residual_OI: Tensor, statistics: InputStatistics) -> Tensor | None:
        return None
