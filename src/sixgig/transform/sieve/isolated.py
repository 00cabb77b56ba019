"""Removal by construction: the Base is quantised from weights that never saw the private data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .base import Evidence, InputStatistics

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class IsolatedSieve:
    """M = W - W_pub, so Base = Q(W_pub): nothing that private data changed can be in it.

    `before` must be the public weights W_pub. The Ortho part is trained on the private data with the Base
    frozen (`restore.fit_ortho`), as one would train an adapter.
    """

    name: ClassVar[str] = "isolated"
    claim: ClassVar[str] = "by construction"
    needs_private: ClassVar[bool] = False
    needs_before: ClassVar[bool] = True
    keeps_before: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()
    searches: ClassVar[bool] = False

    def removed(self, evidence: Evidence) -> Tensor:
        return evidence.change(self.name)

    def residual_score(self, residual_OI: Tensor, statistics: InputStatistics) -> Tensor | None:
        return None
