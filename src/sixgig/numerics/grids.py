"""Where each group's grid lies: spanned by the group's extremes, or searched for the smallest weighted error.

A grid is a scale and an integer zero point for each group of each row;  w ~ (code - zero) * scale.  Zero is
on every grid, so an entry that is set to 0 neither widens a grid nor adds to its error: entries that are kept
elsewhere are left out of a grid by setting them to 0 first.

Shapes: O out features, I in features, G = ceil(I / group_size) groups, g = group_size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import NumericalError
from .finite import all_finite

# Shares of the extremes' span.
_SPANS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35)
_ZERO_MOVES = (0, -1, 1)
_REFITS = 2


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Scales and zero points of all groups."""

    scales_OG: Tensor  # float16, > 0
    zeros_OG: Tensor  # uint8, 0 .. 2**bits - 1


def minmax_grid(weight_OI: Tensor, *, bits: int, group_size: int) -> Grid:
    """The grid that spans [min(w, 0), max(w, 0)] of each group.

    Raises NumericalError where a scale is beyond fp16.
    """
    # Padding with zeros never widens a group's range, since every range holds zero anyway.
    grouped_OGg = _grouped(weight_OI.float(), group_size)
    low_OG = grouped_OGg.amin(dim=2).clamp(max=0)
    high_OG = grouped_OGg.amax(dim=2).clamp(min=0)
    max_code = 2**bits - 1
    scales_OG = (high_OG - low_OG) / max_code
    scales_OG = _stored_scales(torch.where(high_OG > low_OG, scales_OG, torch.ones_like(scales_OG)))
    zeros_OG = (-low_OG / scales_OG.float()).round().clamp(0, max_code).to(torch.uint8)
    return Grid(scales_OG=scales_OG, zeros_OG=zeros_OG)


def searched_grid(weight_OI: Tensor, importance_I: Tensor, *, bits: int, group_size: int) -> Grid:
    """The grid of the smallest  sum_i importance_i (w_i - rounded w_i)^2  among those that are tried.

    Tried are shares of the extremes' span, from all of it, which is `minmax_grid`, to a third; each with the
    zero point one step up and down; then, for the best of them, the least-squares scale of its own codes. So
    the error is never above `minmax_grid`'s. With the diagonal of E x x^T as importance it is the layer's
    expected squared output error but for correlations between inputs. Clipping by searched error: Choukroun
    et al. 2019 (arXiv 1902.06822); the zero points and the refitted scale are additions.

    Args:
        importance_I: weight of each column's error, >= 0.
    Raises:
        NumericalError where a scale is beyond fp16.
    """
    grouped_OGg = _grouped(weight_OI.float(), group_size)
    importance_Gg = _grouped(importance_I.float()[None], group_size)[0]
    widest = minmax_grid(weight_OI, bits=bits, group_size=group_size)
    best = _Best(widest, grouped_OGg, importance_Gg, bits)
    for span in _SPANS:
        scales_OG = _stored_scales(widest.scales_OG.float() * span)
        for move in _ZERO_MOVES:
            zeros_OG = (widest.zeros_OG.int() + move).clamp(0, 2**bits - 1).to(torch.uint8)
            best.offer(Grid(scales_OG=scales_OG, zeros_OG=zeros_OG))
    for _ in range(_REFITS):
        best.offer(best.refitted())
    return best.grid


class _Best:
    """The best grid so far of each group, and its error."""

    def __init__(self, grid: Grid, grouped_OGg: Tensor, importance_Gg: Tensor, bits: int) -> None:
        self.grid = grid
        self._grouped_OGg, self._importance_Gg, self._max_code = grouped_OGg, importance_Gg, 2**bits - 1
        self._error_OG = self._error(grid)

    def offer(self, grid: Grid) -> None:
        """Takes `grid` in the groups where it errs less."""
        error_OG = self._error(grid)
        better_OG = error_OG < self._error_OG
        self._error_OG = torch.where(better_OG, error_OG, self._error_OG)
        self.grid = Grid(
            scales_OG=torch.where(better_OG, grid.scales_OG, self.grid.scales_OG),
            zeros_OG=torch.where(better_OG, grid.zeros_OG, self.grid.zeros_OG),
        )

    def refitted(self) -> Grid:
        """The best grid with the scale that fits its own codes best; as it was where they are all zero."""
        steps_OGg = self._steps(self.grid)
        weighted_OGg = steps_OGg * self._importance_Gg
        square_OG = (weighted_OGg * steps_OGg).sum(dim=2)
        scales_OG = (weighted_OGg * self._grouped_OGg).sum(dim=2) / square_OG.clamp(min=1e-30)
        usable_OG = (square_OG > 0) & (scales_OG > 0)
        scales_OG = torch.where(usable_OG, scales_OG, self.grid.scales_OG.float())
        return Grid(scales_OG=_stored_scales(scales_OG), zeros_OG=self.grid.zeros_OG)

    def _steps(self, grid: Grid) -> Tensor:
        zeros_OG1 = grid.zeros_OG.float()[:, :, None]
        steps_OGg = (self._grouped_OGg / grid.scales_OG.float()[:, :, None]).round_()
        return steps_OGg.add_(zeros_OG1).clamp_(0, self._max_code).sub_(zeros_OG1)

    def _error(self, grid: Grid) -> Tensor:
        missing_OGg = self._steps(grid).mul_(grid.scales_OG.float()[:, :, None]).sub_(self._grouped_OGg)
        return missing_OGg.square_().mul_(self._importance_Gg).sum(dim=2)


def _grouped(weight_OI: Tensor, group_size: int) -> Tensor:
    num_out, num_in = weight_OI.shape
    return F.pad(weight_OI, (0, -num_in % group_size)).view(num_out, -1, group_size)


def _stored_scales(scales_OG: Tensor) -> Tensor:
    # Rounded to the stored type before codes are chosen, so that codes are nearest on the stored grid. A
    # scale below fp16's smallest normal would lose its own precision.
    scales_OG = scales_OG.clamp(min=torch.finfo(torch.float16).tiny).to(torch.float16)
    if not all_finite(scales_OG):
        raise NumericalError("a weight is too large for 16-bit quantisation scales")
    return scales_OG
