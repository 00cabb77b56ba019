"""Sieves that must fail. If one of them passes, the measurement is broken, not the memory gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .base import Evidence, InputStatistics
from .wiener import WienerSieve

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class NoneSieve:
    """M = 0: quantisation alone, with a fitted Ortho part."""

    name: ClassVar[str] = "none"
    claim: ClassVar[str] = "null"
    needs_private: ClassVar[bool] = False
    needs_before: ClassVar[bool] = False
    keeps_before: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    searches: ClassVar[bool] = False

    def removed(self, evidence: Evidence) -> Tensor:
        return evidence.weight_OI.new_zeros(evidence.weight_OI.shape)

    def residual_score(self, residual_OI: Tensor, statistics: InputStatistics) -> Tensor | None:
        return None


@dataclass(frozen=True, kw_only=True)
class RandomSieve:
    """M = U' s V'^T with `wiener`'s singular values s and random orthonormal U', V'.

    So it is matched to wiener's M in norm, in rank and in its whole spectrum, layer by layer.
    """

    noise_weight: float = WienerSieve.noise_weight
    damping: float = WienerSieve.damping

    name: ClassVar[str] = "random"
    claim: ClassVar[str] = "null"
    needs_private: ClassVar[bool] = True
    needs_before: ClassVar[bool] = True
    keeps_before: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    searches: ClassVar[bool] = False

    def removed(self, evidence: Evidence) -> Tensor:
        import torch

        matched = WienerSieve(noise_weight=self.noise_weight, damping=self.damping)
        removed_OI = matched.removed(evidence).double()
        # Singular values as roots of the smaller Gram matrix's eigenvalues: far cheaper than an SVD, and
        # exact enough for a spectrum to be matched.
        gram_KK = (
            removed_OI @ removed_OI.T if len(removed_OI) <= len(removed_OI.T) else removed_OI.T @ removed_OI
        )
        singular_K = torch.linalg.eigvalsh(gram_KK).clamp(min=0).sqrt().float()
        left_OK = _orthonormal(evidence.weight_OI.shape[0], len(singular_K), evidence)
        right_IK = _orthonormal(evidence.weight_OI.shape[1], len(singular_K), evidence)
        return (left_OK * singular_K) @ right_IK.T

    def residual_score(self, residual_OI: Tensor, statistics: InputStatistics) -> Tensor | None:
        return None


@dataclass(frozen=True, kw_only=True)
class WrongSetSieve(WienerSieve):
    """`wiener`, calibrated on never-trained canaries of another kind than was planted."""

    name: ClassVar[str] = "wrong-set"
    claim: ClassVar[str] = "null"


@dataclass(frozen=True, kw_only=True)
class LookAlikeSieve(WienerSieve):
    """`wiener`, calibrated on never-trained canaries of the very templates that were planted.

    No null: the filter looks at what inputs look like, not at what the secrets are, so it may well work.
    """

    name: ClassVar[str] = "look-alike"


def _orthonormal(num_rows: int, num_columns: int, evidence: Evidence) -> Tensor:
    import torch

    # Drawn on the CPU, so that every device sees the same matrix.
    gaussian = torch.randn(num_rows, num_columns, generator=evidence.generator)
    return torch.linalg.qr(gaussian.to(evidence.weight_OI.device)).Q
