"""The paper's sieve, for comparison: it ranks the rounding residual, so it cannot change alpha = 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...errors import NumericalError
from .base import Evidence, InputStatistics

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class HessianSieve:
    """M = 0; Ortho = top share of r = W - Q(W) by r^2 / diag(H^-1), H = 2 mean x x^T over public text.

    The score is OBQ's loss of rounding one weight (Frantar and Alistarh 2022, arXiv 2208.11580, equation 3),
    as SpQR and the seed paper use it. H^-1's diagonal is used, not H's: the inverse knows that neighbouring
    weights can make up for an error.
    """

    damping: float = 0.01  # share of mean(diag(H)) added to the diagonal before inverting

    name: ClassVar[str] = "hessian"
    claim: ClassVar[str] = "quantisation aid"
    needs_private: ClassVar[bool] = False
    needs_before: ClassVar[bool] = False
    keeps_before: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    searches: ClassVar[bool] = False

    def removed(self, evidence: Evidence) -> Tensor:
        return evidence.weight_OI.new_zeros(evidence.weight_OI.shape)

    def residual_score(self, residual_OI: Tensor, statistics: InputStatistics) -> Tensor | None:
        return residual_OI.square() / inverse_hessian_diagonal(statistics.public_II, self.damping)


def inverse_hessian_diagonal(public_II: Tensor, damping: float) -> Tensor:
    """diag((2 A_r + damping * mean(diag) I)^-1) [I], in fp64 inside, fp32 out."""
    from ...numerics.cholesky import factor_in_place, inverse_diagonal

    hessian_II = public_II.double().mul_(2)
    hessian_II.diagonal().add_(damping * float(hessian_II.diagonal().mean()))
    if not factor_in_place(hessian_II):
        raise NumericalError(
            "the calibration statistics are not positive definite", todo="raise the sieve's damping"
        )
    return inverse_diagonal(hessian_II).float()
