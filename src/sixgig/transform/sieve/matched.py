"""A null for any sieve: in each layer it removes noise of just the norm that the sieve removes there.

Not among the sieves to choose by name, since it is nothing without its opponent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from ...errors import InputError
from .base import Evidence, InputStatistics, Sieve

if TYPE_CHECKING:
    from torch import Tensor


class Remembered:
    """`sieve` itself, each layer's |M| kept for the null that comes after it in the same walk."""

    def __init__(self, sieve: Sieve) -> None:
        self._sieve = sieve
        self.norms: dict[str, float] = {}

    def __getattr__(self, name: str) -> object:
        # What else the sieve declares of itself: its name, its claim, what it needs.
        return getattr(self._sieve, name)

    def removed(self, evidence: Evidence) -> Tensor:
        removed_OI = self._sieve.removed(evidence)
        self.norms[evidence.name] = float(removed_OI.norm())
        return removed_OI

    def residual_score(self, residual_OI: Tensor, statistics: InputStatistics) -> Tensor | None:
        return self._sieve.residual_score(residual_OI, statistics)


@dataclass(frozen=True, kw_only=True)
class MatchedNoise:
    """M = Gaussian noise with the Frobenius norm of `opponent`'s M, layer by layer."""

    opponent: Remembered = field(repr=False)

    name: ClassVar[str] = "random"
    claim: ClassVar[str] = "null"
    needs_private: ClassVar[bool] = False
    needs_before: ClassVar[bool] = False
    keeps_before: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    searches: ClassVar[bool] = False

    def removed(self, evidence: Evidence) -> Tensor:
        import torch

        if evidence.name not in self.opponent.norms:
            raise InputError(
                "the matched null comes before the sieve that it is matched to",
                where=f"layer {evidence.name}",
                todo="name the sieve's arm before the null's",
            )
        weight_OI = evidence.weight_OI
        # Drawn on the CPU, so that every device sees the same matrix.
        noise_OI = torch.randn(weight_OI.shape, generator=evidence.generator).to(weight_OI.device)
        return noise_OI * (self.opponent.norms[evidence.name] / noise_OI.norm())

    def residual_score(self, residual_OI: Tensor, statistics: InputStatistics) -> Tensor | None:
        return None
