"""Low-rank parts: the best rank-r factors of a matrix under an input metric, and their 8-bit storage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class WeightedSum:
    """sum_k weight_k A_k of symmetric matrices [I, I], never made: it multiplies and has a diagonal."""

    terms: tuple[tuple[float, Tensor], ...]

    def __matmul__(self, right_IK: Tensor) -> Tensor:
        return _total(weight * (matrix_II @ right_IK) for weight, matrix_II in self.terms)

    def __rmatmul__(self, left_KI: Tensor) -> Tensor:
        return _total(weight * (left_KI @ matrix_II) for weight, matrix_II in self.terms)

    def diagonal(self) -> Tensor:
        return _total(weight * matrix_II.diagonal() for weight, matrix_II in self.terms)


def _total(parts: Iterable[Tensor]) -> Tensor:
    first, *others = parts
    for part in others:
        first += part
    return first


def weighted_lowrank(matrix_OI: Tensor, metric_II: Tensor | WeightedSum, rank: int) -> tuple[Tensor, Tensor]:
    """U [O, r], V [r, I] minimising  E |(matrix - U V) x|^2  for inputs with second moment `metric`.

    Equals  U = leading eigenvectors of (matrix metric matrix^T);  V = U^T matrix:  Eckart-Young in the
    metric. LQER (Zhang et al. 2024, arXiv 2402.02446) and EoRA (Liu et al. 2024, arXiv 2410.21271) reach the
    same by a square root of the metric and its inverse, which this form does without. The eigenvectors
    come from subspace iteration (Halko et al. 2011, algorithm 4.4) with a fixed start, eight extra columns
    and six rounds.
    """
    rank = min(rank, *matrix_OI.shape)
    width = min(rank + 8, *matrix_OI.shape)
    start = torch.randn(matrix_OI.shape[1], width, generator=torch.Generator().manual_seed(0))
    basis_Ow = matrix_OI @ start.to(matrix_OI)
    for _ in range(6):
        basis_Ow = torch.linalg.qr(basis_Ow).Q
        basis_Ow = matrix_OI @ (metric_II @ (matrix_OI.T @ basis_Ow))
    basis_Ow = torch.linalg.qr(basis_Ow).Q
    reduced_wI = basis_Ow.T @ matrix_OI
    _, rotation_ww = torch.linalg.eigh((reduced_wI @ metric_II) @ reduced_wI.T)
    up_Or = basis_Ow @ rotation_ww.flip(1)[:, :rank]
    down_rI = up_Or.T @ matrix_OI
    # Each factor takes half of the size, so that both suit a 16- or 8-bit type and one learning rate.
    size_r = down_rI.norm(dim=1).clamp(min=1e-12).sqrt()
    return up_Or * size_r, down_rI / size_r[:, None]


def round_factor(factor: Tensor, bits: int, *, dim: int) -> tuple[Tensor, Tensor]:
    """A factor in `bits` (8 or 16) with one fp32 scale for each rank component.

    Args:
        factor: U [O, r] with dim=1, or V [r, I] with dim=0; `dim` is the rank's dimension.
    Returns:
        codes (int8 symmetric, or float16 with scale 1) and scales [r].
    """
    if bits == 16:
        return factor.to(torch.float16), torch.ones(factor.shape[dim], device=factor.device)
    other = 1 - dim
    scales_r = factor.abs().amax(dim=other).clamp(min=1e-12) / 127
    codes = (factor / scales_r.unsqueeze(other)).round().clamp(-127, 127).to(torch.int8)
    return codes, scales_r


def restore_factor(codes: Tensor, scales_r: Tensor, *, dim: int) -> Tensor:
    """The inverse of `round_factor`, in fp32."""
    return codes.float() * scales_r.unsqueeze(1 - dim)
