"""Input second moments A = mean x x^T, accumulated in fp32 over weighted positions."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError, NumericalError
from .finite import all_finite


class SecondMoment:
    """Accumulates  A = sum_t w_t x_t x_t^T / sum_t w_t  for one layer's inputs.

    The product is taken in fp32 whatever the activations' type (TF32 stays off, torch's default), so that
    small directions are not lost to rounding.
    """

    def __init__(self, num_in: int, device: torch.device) -> None:
        self._sum_II = torch.zeros(num_in, num_in, dtype=torch.float32, device=device)
        self._weight = 0.0

    def add(self, inputs_TI: Tensor, weights_T: Tensor | None = None) -> None:
        """Adds T positions [T, I]; a weight of 0 leaves a position out."""
        inputs_TI = inputs_TI.detach().float()
        if weights_T is None:
            self._sum_II.addmm_(inputs_TI.T, inputs_TI)
            self._weight += len(inputs_TI)
        else:
            self._sum_II.addmm_((inputs_TI * weights_T.float()[:, None]).T, inputs_TI)
            self._weight += float(weights_T.sum())

    def mean(self, name: str) -> Tensor:
        """A [I, I]. Raises NumericalError naming the layer for NaN or Inf, InputError for no positions."""
        self._require_positions(name)
        return _finite(self._sum_II / self._weight, name)

    def become_mean(self, name: str) -> Tensor:
        """As `mean`, in the place of the sum: nothing can be added any more."""
        self._require_positions(name)
        mean_II = _finite(self._sum_II.div_(self._weight), name)
        del self._sum_II
        return mean_II

    def _require_positions(self, name: str) -> None:
        if self._weight <= 0:
            raise InputError("no calibration positions were seen", where=name)


def _finite(mean_II: Tensor, name: str) -> Tensor:
    if not all_finite(mean_II):
        raise NumericalError("NaN or Inf in the calibration activations", where=f"layer {name}")
    return mean_II
