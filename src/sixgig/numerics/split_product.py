"""y = x (Base + alpha (S + U V))^T in plain torch: what the kernels compute, said obviously.

Shapes: M rows of activations, O out features, I in features, r rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .quantize import Quantized, dequantize
from .sparse import SparsePart


@dataclass(frozen=True, kw_only=True)
class OrthoFactors:
    """One layer's Ortho part as plain tensors: up [O, r], down [r, I], S."""

    up_Or: Tensor
    down_rI: Tensor
    sparse: SparsePart | None = None

    def dense(self) -> Tensor:
        """S + U V in fp32 [O, I]."""
        product_OI = self.up_Or.float() @ self.down_rI.float()
        return product_OI if self.sparse is None else product_OI + self.sparse.dense()


def split_product(
    x_MI: Tensor, base: Quantized, ortho: OrthoFactors | None = None, alpha: float = 0.0
) -> Tensor:
    """`F.linear(x, dequantize(base) + alpha * ortho.dense())`, the weight rounded once to the type of `x`."""
    weight_OI = dequantize(base)
    if ortho is not None and alpha != 0.0:
        weight_OI = weight_OI + alpha * ortho.dense().to(weight_OI.device)
    return F.linear(x_MI, weight_OI.to(x_MI.dtype))
