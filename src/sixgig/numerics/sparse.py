"""Choosing exactly k entries of a matrix, and keeping them as sorted flat positions and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError


@dataclass(frozen=True, kw_only=True)
class SparsePart:
    """k entries of a matrix [O, I]. Positions are int32 (a weight may have more than 65,536 entries)."""

    positions_k: Tensor  # int32, ascending, row * I + column
    values_k: Tensor  # float
    shape: tuple[int, int]

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix [O, I] with zeros elsewhere."""
        flat = torch.zeros(self.shape[0] * self.shape[1], dtype=dtype, device=self.values_k.device)
        flat[self.positions_k.long()] = self.values_k.to(dtype)
        return flat.view(self.shape)

    @property
    def storage_bits(self) -> int:
        """16-bit value and 16-bit column an entry, and a 32-bit offset a row."""
        column_bits = 16 if self.shape[1] <= 2**16 else 32
        return self.positions_k.numel() * (16 + column_bits) + 32 * (self.shape[0] + 1)


def keep_top_k(matrix_OI: Tensor, score_OI: Tensor, k: int) -> SparsePart:
    """The k entries of `matrix` with the highest score: exactly k, ties broken by the lower position."""
    if not 0 <= k <= matrix_OI.numel():
        raise InputError("k out of range", expected=f"0 to {matrix_OI.numel()}", received=str(k))
    score_N = score_OI.flatten()
    # torch.topk promises no order among equals, so it only gives the k-th highest score; entries level with
    # it fill what is left, from the lowest position up. Far cheaper than a full stable sort.
    threshold = score_N.topk(k, sorted=False).values.min() if k else score_N.new_full((), float("inf"))
    above_N = score_N > threshold
    level_n = (score_N == threshold).nonzero()[:, 0][: k - int(above_N.sum())]
    positions_k = torch.cat([above_N.nonzero()[:, 0], level_n]).sort().values
    return SparsePart(
        positions_k=positions_k.to(torch.int32),
        values_k=matrix_OI.flatten()[positions_k],
        shape=(matrix_OI.shape[0], matrix_OI.shape[1]),
    )
