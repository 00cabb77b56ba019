"""One step up the private texts' loss, along directions that public text does not mind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...errors import InputError
from .base import Evidence, InputStatistics

if TYPE_CHECKING:
    from torch import Tensor

    from ..search import Found, SearchContext


@dataclass(frozen=True, kw_only=True)
class NaturalGradientSieve:
    """M = -eta U_G [(U_G^T g U_A) / (lam mu^T + delta)] U_A^T, truncated to rank r; one eta for all layers.

    g is the gradient of the private texts' mean NLL; A = U_A diag(mu) U_A^T and G = U_G diag(lam) U_G^T are
    K-FAC's factors over public text (Martens and Grosse 2015, arXiv 1503.05671), delta = damping * mean(lam)
    * mean(mu). eta is searched with the whole model, until the private texts' NLL a token comes up to that of
    texts that were never trained (`transform.search.control_level`); nothing is rounded meanwhile.
    """

    rank: int = 16
    damping: float = 0.01
    level: float | None = None  # nats a token; None: measured
    num_halvings: int = 8  # of the bracket around eta

    name: ClassVar[str] = "natural-gradient"
    claim: ClassVar[str] = "suppressed"
    needs_private: ClassVar[bool] = True
    needs_before: ClassVar[bool] = False
    keeps_before: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"output_moments", "mean_gradient"})
    searches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if (
            self.rank < 1
            or not self.damping > 0
            or self.num_halvings < 1
            or (self.level is not None and not self.level > 0)
        ):
            raise InputError(
                "settings of natural-gradient that cannot be used",
                expected="rank and num_halvings of 1 or more, damping and level above 0",
                received=f"rank={self.rank}, damping={self.damping}, num_halvings={self.num_halvings}, "
                f"level={self.level}",
            )

    def search(self, context: SearchContext) -> Found:
        from ..search_natural import search_natural

        return search_natural(self, context)

    def removed(self, evidence: Evidence) -> Tensor:
        return evidence.found(self.name)

    def residual_score(self, residual_OI: Tensor, statistics: InputStatistics) -> Tensor | None:
        return None
