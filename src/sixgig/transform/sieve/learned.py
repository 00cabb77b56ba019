"""A low-rank M trained so that the rounded rest answers private texts as the earlier model did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...errors import InputError
from .base import Evidence, InputStatistics

if TYPE_CHECKING:
    from torch import Tensor

    from ..search import Found, SearchContext


@dataclass(frozen=True, kw_only=True)
class LearnedSieve:
    """M = U V of rank r minimising KL(W0 || Q(W - U V)) on private + beta KL(W || Q(W - U V)) on public text.

    Q rounds to nearest in every pass, as the arm's bits and groups say, and the gradient passes straight
    through it (Bengio et al. 2013, arXiv 1308.3432). Only U and V are trained, on all layers together
    (`transform.search_learned`). It knows the loss that it is judged by: what it reaches is a bound for
    static measures until relearning has been tried. Source: this project's own; a teacher that does not know
    the texts as in Lee et al. 2025, arXiv 2506.06278.
    """

    rank: int = 16
    public_weight: float = 1.0  # beta
    num_steps: int = 100
    learning_rate: float = 3e-3
    texts_per_step: int = 16
    windows_per_step: int = 4

    name: ClassVar[str] = "learned"
    claim: ClassVar[str] = "suppressed"
    needs_private: ClassVar[bool] = True
    needs_before: ClassVar[bool] = True
    keeps_before: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    searches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        counts = (self.rank, self.num_steps, self.texts_per_step, self.windows_per_step)
        if min(counts) < 1 or self.public_weight < 0 or not self.learning_rate > 0:
            raise InputError(
                "settings of learned that cannot be used",
                expected="rank, num_steps, texts_per_step and windows_per_step of 1 or more, public_weight "
                "of 0 or more, learning_rate above 0",
                received=str(self),
            )

    def search(self, context: SearchContext) -> Found:
        from ..search_learned import search_learned

        return search_learned(self, context)

    def removed(self, evidence: Evidence) -> Tensor:
        return evidence.found(self.name)

    def residual_score(self, residual_OI: Tensor, statistics: InputStatistics) -> Tensor | None:
        return None
