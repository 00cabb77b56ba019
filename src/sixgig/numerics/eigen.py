"""Eigenvectors of second moments, largest first: the bases that curvature is diagonal in (K-FAC)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Eigenbasis:
    """matrix = vectors diag(values) vectors^T; values [N] falling and not below 0, vectors [N, N], fp32."""

    values: Tensor
    vectors: Tensor


def eigenbasis(moment_NN: Tensor) -> Eigenbasis:
    """Of a symmetric matrix without negative eigenvalues, but for rounding, which is set to 0.

    In fp32. Moments of real layers span more than the 10^7 that it tells apart, so the smallest eigenvalues
    and their vectors are noise among themselves; whoever asks either damps them or takes them all alike.
    """
    values_N, vectors_NN = torch.linalg.eigh(moment_NN.float())
    return Eigenbasis(values=values_N.flip(0).clamp(min=0), vectors=vectors_NN.flip(1).contiguous())
