"""Cholesky factors of wide matrices in the room of one: factored in place, solved for a few rows at a time.

An input of 14,336 features has second moments of 1.5 GiB in fp64. torch's own calls would hold four and more
of that size beside each other; these hold one, and blocks. All in fp64: inputs of a layer differ in size by
10^4 and more, and their squares twice as far.

Shapes: I in features, O out features, B a block's columns, R a block's rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import NumericalError

BLOCK = 1024  # columns factored at a time
ROWS = 512  # solved at a time


def factor_in_place(matrix_II: Tensor, *, block: int = BLOCK) -> bool:
    """Puts L with L L^T = matrix in the place of its lower triangle; the upper one holds nothing of use then.

    Equals `matrix_II.copy_(torch.linalg.cholesky(matrix_II))` for the lower triangle. Column blocks from the
    left, each brought up to date with all before it (Golub and Van Loan, Matrix Computations, 4.2.9).

    Returns:
        False where the matrix is not positive definite; what is left of it is of no use.
    """
    for start in range(0, len(matrix_II), block):
        panel = matrix_II[start:, start : start + block]
        width = panel.shape[1]
        if start:
            panel.addmm_(matrix_II[start:, :start], matrix_II[start : start + width, :start].T, alpha=-1)
        head_BB, failed = torch.linalg.cholesky_ex(panel[:width])
        if int(failed):
            return False
        panel[:width] = head_BB
        if width < len(panel):
            panel[width:] = torch.linalg.solve_triangular(head_BB.T, panel[width:], upper=True, left=False)
    return True


def filtered_rows(rows_OI: Tensor, signal_II: Tensor, factor_II: Tensor, *, block: int = ROWS) -> Tensor:
    """rows signal (L L^T)^-1 [O, I] in the type of `rows_OI`, a few rows at a time.

    Equals `torch.cholesky_solve(signal_II @ rows_OI.T, factor_II).T`, computed in fp64.

    Args:
        signal_II: symmetric, any float type; widened block by block.
        factor_II: what `factor_in_place` left, fp64.
    """
    out_OI = torch.empty_like(rows_OI)
    for start in range(0, len(rows_OI), block):
        few_RI = rows_OI[start : start + block]
        out_OI[start : start + block] = _filtered_few(few_RI, signal_II, factor_II, block)
    return out_OI


def _filtered_few(few_RI: Tensor, signal_II: Tensor, factor_II: Tensor, block: int) -> Tensor:
    wide_RI = few_RI.double()
    product_RI = torch.empty_like(wide_RI)
    for start in range(0, len(signal_II), block):
        stop = start + block
        product_RI[:, start:stop] = wide_RI @ signal_II[:, start:stop].double()
    del wide_RI
    half_RI = torch.linalg.solve_triangular(factor_II.T, product_RI, upper=True, left=False)
    del product_RI
    return torch.linalg.solve_triangular(factor_II, half_RI, upper=False, left=False)


def add_widened(sum_II: Tensor, added_II: Tensor, *, block: int = BLOCK) -> None:
    """sum += added, of a narrower type. torch on a CPU would widen all of it first."""
    for start in range(0, len(sum_II), block):
        sum_II[start : start + block] += added_II[start : start + block].double()


def inverse_diagonal(factor_II: Tensor, *, block: int = ROWS) -> Tensor:
    """diag((L L^T)^-1) [I] in fp64: the squared lengths of L^-1's columns."""
    lengths = [
        _inverse_columns(factor_II, start, block).square().sum(dim=0)
        for start in range(0, len(factor_II), block)
    ]
    return torch.cat(lengths)


def inverse_upper_factor(matrix_II: Tensor, order_I: Tensor, damping: float, *, block: int = BLOCK) -> Tensor:
    """U [I, I] in fp32, upper, with U^T U = H^-1; H is the matrix in the given order of its features, with
    `damping` * mean(diag) added to its diagonal.

    Equals `torch.linalg.cholesky(torch.linalg.inv(H), upper=True)`. H is factored from its last feature on:
    with J the reversal, J H J = L L^T gives H = (J L J)(J L J)^T, where J L J is upper, so U = J L^-1 J. One
    factor and no inverse of H.

    Raises:
        NumericalError where H is not positive definite.
    """
    backwards_I = order_I.flip(0)
    wide_II = torch.empty(matrix_II.shape, dtype=torch.float64, device=matrix_II.device)
    for start in range(0, len(wide_II), block):
        wide_II[start : start + block] = matrix_II[backwards_I[start : start + block]][:, backwards_I]
    wide_II.diagonal().add_(damping * wide_II.diagonal().mean())
    if not factor_in_place(wide_II, block=block):
        raise NumericalError(
            "the second moments are not positive definite", todo="calibrate on more text, or use --method rtn"
        )
    upper_II = torch.empty_like(matrix_II, dtype=torch.float32)
    size = len(wide_II)
    for start in range(0, size, block):
        columns_IB = _inverse_columns(wide_II, start, block)
        upper_II[:, size - start - columns_IB.shape[1] : size - start] = columns_IB.flip(0, 1)
    return upper_II


def _inverse_columns(factor_II: Tensor, start: int, block: int) -> Tensor:
    """Columns `start` to `start + block` of L^-1 [I, B]."""
    width = min(block, len(factor_II) - start)
    unit_IB = factor_II.new_zeros(len(factor_II), width)
    unit_IB[start : start + width].fill_diagonal_(1)
    return torch.linalg.solve_triangular(factor_II, unit_IB, upper=False)
