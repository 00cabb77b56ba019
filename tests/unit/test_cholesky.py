"""Blocked Cholesky work against torch's own calls, and its room against what was promised."""

from __future__ import annotations

import pytest
import torch
from fakes import randn, random_moment
from traced_memory import traced_more_bytes

from sixgig.errors import NumericalError
from sixgig.numerics.cholesky import (
    factor_in_place,
    filtered_rows,
    inverse_diagonal,
    inverse_upper_factor,
)

SIZES = [(7, 3), (8, 8), (33, 8), (64, 16), (50, 1024)]


def definite(size: int) -> torch.Tensor:
    matrix = random_moment(size, seed=3).double()
    matrix = (matrix + matrix.T) / 2
    matrix.diagonal().add_(0.01 * matrix.diagonal().mean())
    return matrix


@pytest.mark.parametrize(("size", "block"), SIZES)
def test_the_factor_is_torch_s(size: int, block: int) -> None:
    matrix = definite(size)
    expected = torch.linalg.cholesky(matrix)
    work = matrix.clone()
    work.triu_(1).add_(matrix.tril())  # the same; then the upper triangle is spoilt, which nothing may read
    work += torch.full_like(work, 9.0).triu(1)
    assert factor_in_place(work, block=block)
    assert torch.allclose(work.tril(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("block", [3, 1024])
def test_a_matrix_that_is_not_definite_is_told(block: int) -> None:
    matrix = definite(20)
    matrix[15, 15] = -1.0
    assert not factor_in_place(matrix, block=block)


@pytest.mark.parametrize(("size", "block"), SIZES)
def test_rows_are_filtered_as_by_a_solve_with_the_whole_matrix(size: int, block: int) -> None:
    matrix, signal, rows = definite(size), random_moment(size, seed=5), randn(11, size, seed=6)
    factor = torch.linalg.cholesky(matrix)
    expected = torch.cholesky_solve(signal.double() @ rows.double().T, factor).T
    found = filtered_rows(rows, signal, factor, block=block)
    assert found.dtype == torch.float32
    assert (found - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize(("size", "block"), SIZES)
def test_the_inverse_s_diagonal(size: int, block: int) -> None:
    matrix = definite(size)
    found = inverse_diagonal(torch.linalg.cholesky(matrix), block=block)
    assert torch.allclose(found, torch.linalg.inv(matrix).diagonal(), rtol=1e-8)


@pytest.mark.parametrize(("size", "block"), SIZES)
def test_the_inverse_s_upper_factor_in_another_order(size: int, block: int) -> None:
    moment = random_moment(size, seed=9)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(1))
    damped = moment.double()[order][:, order]
    damped = damped + 0.01 * damped.diagonal().mean() * torch.eye(size)
    expected = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    found = inverse_upper_factor(moment, order, 0.01, block=block)
    assert found.dtype == torch.float32
    assert (found - expected).norm() <= 1e-6 * expected.norm()


def test_no_upper_factor_of_what_is_not_definite() -> None:
    with pytest.raises(NumericalError, match="rtn"):
        inverse_upper_factor(-torch.eye(4), torch.arange(4), 0.01)


def test_each_takes_one_matrix_in_fp64_and_blocks() -> None:
    size, block = 1024, 64
    moment, rows = random_moment(size, seed=2), randn(128, size)
    order, whole = torch.arange(size), 8 * size * size
    factor = torch.linalg.cholesky(definite(size))
    blocks = 6 * 8 * size * block
    assert traced_more_bytes(lambda: factor_in_place(definite(8), block=8)) < whole  # the tracer's own start
    matrix = definite(size)
    assert traced_more_bytes(lambda: factor_in_place(matrix, block=block)) <= blocks
    assert traced_more_bytes(lambda: filtered_rows(rows, moment, factor, block=block)) <= blocks + rows.nbytes
    assert traced_more_bytes(lambda: inverse_diagonal(factor, block=block)) <= blocks
    needed = traced_more_bytes(lambda: inverse_upper_factor(moment, order, 0.01, block=block))
    assert needed <= whole + whole // 2 + blocks
