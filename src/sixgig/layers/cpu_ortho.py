"""The Ortho part of one layer on a CPU: S in compressed rows, U V as two products, all in fp32.

One row of activations takes MKL's sparse product, which at 0.5% of the entries is two to three times as quick
as gathering and adding them up; many rows take `embedding_bag`, whose bags are the rows of S, two to three
times as quick as MKL there. A torch built without MKL takes the bags for one row too.

Shapes: O out features, I in features, r rank, k entries of S, N rows of activations.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from ..numerics.sparse import SparsePart
from .split_linear import OrthoPart


class CpuOrtho:
    """U V + S of one layer, kept in fp32."""

    def __init__(self, ortho: OrthoPart) -> None:
        self._up_Or, self._down_rI = ortho.up_Or.float().contiguous(), ortho.down_rI.float().contiguous()
        self._sparse = None if ortho.sparse is None else _Rows(ortho.sparse)

    @property
    def num_bytes(self) -> int:
        """What one row of activations reads: fp32 factors, fp32 values with int32 columns."""
        factors = self._up_Or.numel() + self._down_rI.numel()
        return 4 * factors + (0 if self._sparse is None else self._sparse.num_bytes)

    def added(self, y_NO: Tensor, x_NI: Tensor, alpha: float) -> Tensor:
        """y + alpha x (S + U V)^T, summed in fp32 and rounded once to the type of `y`."""
        x_NI, sum_NO = x_NI.float(), y_NO.float()
        if len(x_NI) == 1:
            sum_O, x_I = sum_NO[0], x_NI[0]
            inner_r = torch.mv(self._down_rI, x_I)
            sum_O = torch.addmv(sum_O, self._up_Or, inner_r, alpha=alpha)
            if self._sparse is not None:
                sum_O = self._sparse.add_one(sum_O, x_I, alpha)
            return sum_O.to(y_NO.dtype)[None]
        sum_NO = torch.addmm(sum_NO, F.linear(x_NI, self._down_rI), self._up_Or.T, alpha=alpha)
        if self._sparse is not None:
            sum_NO = sum_NO.add_(self._sparse.times(x_NI), alpha=alpha)
        return sum_NO.to(y_NO.dtype)


class _Rows:
    """S by rows: offsets [O + 1], columns [k] and values [k], as bags and as MKL's matrix."""

    def __init__(self, sparse: SparsePart) -> None:
        num_out, num_in = sparse.shape
        positions_k = sparse.positions_k.long()
        rows_k = positions_k // num_in
        offsets = torch.searchsorted(rows_k, torch.arange(num_out + 1, device=rows_k.device))
        self._columns_k, self._values_k = positions_k % num_in, sparse.values_k.float()
        self.num_bytes = 8 * len(positions_k) + 4 * num_out
        self._starts_O = offsets[:-1].contiguous()
        self._matrix = None
        if torch.backends.mkl.is_available():
            with warnings.catch_warnings():
                # torch says once a process that compressed rows are in beta.
                warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
                # int32 indices are MKL's own; others are converted at every product.
                self._matrix = torch.sparse_csr_tensor(
                    offsets.to(torch.int32),
                    self._columns_k.to(torch.int32),
                    self._values_k,
                    sparse.shape,
                    check_invariants=True,
                )

    def add_one(self, y_O: Tensor, x_I: Tensor, alpha: float) -> Tensor:
        """y + alpha S x."""
        if self._matrix is None:
            return y_O.add(self.times(x_I[None])[0], alpha=alpha)
        return torch.addmv(y_O, self._matrix, x_I, alpha=alpha)

    def times(self, x_NI: Tensor) -> Tensor:
        """x S^T [N, O]."""
        if not len(self._columns_k):
            return x_NI.new_zeros(len(x_NI), len(self._starts_O))
        table_IN = x_NI.T.contiguous()
        bags_ON = F.embedding_bag(
            self._columns_k, table_IN, self._starts_O, mode="sum", per_sample_weights=self._values_k
        )
        return bags_ON.T
