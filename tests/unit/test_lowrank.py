"""Low-rank parts against the optimum by a full SVD in the square root of the metric."""

from __future__ import annotations

import pytest
import torch
from fakes import randn, random_moment
from hypothesis import given, settings
from hypothesis import strategies as st

from sixgig.numerics.lowrank import restore_factor, round_factor, weighted_lowrank


def error(matrix: torch.Tensor, metric: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> float:
    """E |(matrix - U V) x|^2 in float64."""
    missing = matrix.double() - up.double() @ down.double()
    return float(((missing @ metric.double()) * missing).sum())


def optimal_error(matrix: torch.Tensor, metric: torch.Tensor, rank: int) -> float:
    """What Eckart and Young allow: the tail of the spectrum of  matrix metric^(1/2)."""
    values, vectors = torch.linalg.eigh(metric.double())
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return float(torch.linalg.svdvals(matrix.double() @ root)[rank:].square().sum())


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (30, 30)])
@pytest.mark.parametrize("rank", [1, 4, 12])
@pytest.mark.parametrize("correlated", [True, False])
def test_random_matrices_reach_the_optimum(shape: tuple[int, int], rank: int, correlated: bool) -> None:
    matrix, metric = randn(*shape), random_moment(shape[1], seed=1, correlated=correlated)
    up, down = weighted_lowrank(matrix, metric, rank)
    assert (up.shape, down.shape) == ((shape[0], rank), (rank, shape[1]))
    assert error(matrix, metric, up, down) <= 1.001 * optimal_error(matrix, metric, rank)


def test_the_metric_matters() -> None:
    matrix, metric = randn(30, 30), random_moment(30, seed=1)
    blind = weighted_lowrank(matrix, torch.eye(30), 4)
    assert error(matrix, metric, *blind) > 1.2 * optimal_error(matrix, metric, 4)


def test_a_decaying_spectrum_reaches_the_optimum() -> None:
    matrix = randn(48, 20) * 0.5 ** torch.arange(20.0)
    metric = random_moment(20, seed=2)
    up, down = weighted_lowrank(matrix, metric, 5)
    assert error(matrix, metric, up, down) <= 1.001 * optimal_error(matrix, metric, 5)


@pytest.mark.parametrize("rank", [1, 3, 9])
def test_a_matrix_of_low_rank_is_restored(rank: int) -> None:
    matrix = randn(26, rank) @ randn(rank, 33, seed=1)
    up, down = weighted_lowrank(matrix, random_moment(33, seed=3), rank)
    assert torch.allclose(up @ down, matrix, atol=1e-4 * float(matrix.abs().max()))


def test_a_metric_of_low_rank_leaves_no_error_where_inputs_are() -> None:
    inputs = randn(5, 24)
    metric = inputs.T @ inputs / 5
    matrix = randn(32, 24, seed=1)
    up, down = weighted_lowrank(matrix, metric, 5)
    assert torch.allclose((up @ down) @ inputs.T, matrix @ inputs.T, atol=1e-3)


def test_the_first_components_of_a_larger_rank_are_the_smaller_optimum() -> None:
    matrix, metric = randn(40, 28), random_moment(28, seed=4)
    up, down = weighted_lowrank(matrix, metric, 12)
    for rank in (1, 3, 8):
        prefix = error(matrix, metric, up[:, :rank], down[:rank])
        assert prefix <= 1.001 * optimal_error(matrix, metric, rank)


def test_rank_is_cut_to_the_matrix_and_then_exact() -> None:
    matrix = randn(6, 9)
    up, down = weighted_lowrank(matrix, random_moment(9, seed=5), 50)
    assert up.shape == (6, 6)
    assert torch.allclose(up @ down, matrix, atol=1e-4)


def test_a_zero_matrix_gives_zero_not_nan() -> None:
    up, down = weighted_lowrank(torch.zeros(8, 6), random_moment(6, seed=6), 2)
    assert torch.equal(up @ down, torch.zeros(8, 6))


def test_the_same_call_gives_the_same_factors() -> None:
    matrix, metric = randn(12, 10), random_moment(10, seed=7)
    first, second = weighted_lowrank(matrix, metric, 3), weighted_lowrank(matrix, metric, 3)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_both_factors_have_components_of_one_size() -> None:
    up, down = weighted_lowrank(100 * randn(20, 16), random_moment(16, seed=8), 4)
    assert torch.allclose(up.norm(dim=0), down.norm(dim=1), rtol=1e-3)


@given(
    rank=st.integers(1, 5), other=st.integers(1, 20), dim=st.sampled_from([0, 1]), spread=st.integers(-4, 4)
)
@settings(deadline=None, max_examples=40)
def test_eight_bits_err_by_half_a_step_of_each_component(
    rank: int, other: int, dim: int, spread: int
) -> None:
    shape = (other, rank) if dim == 1 else (rank, other)
    sizes = 10.0 ** (spread + torch.arange(rank))
    factor = randn(*shape) * (sizes if dim == 1 else sizes[:, None])
    codes, scales = round_factor(factor, 8, dim=dim)
    assert codes.dtype == torch.int8
    assert scales.shape == (rank,)
    step = factor.abs().amax(dim=1 - dim) / 127
    allowed = 0.5 * (step if dim == 1 else step[:, None]) * (1 + 1e-4)
    assert ((restore_factor(codes, scales, dim=dim) - factor).abs() <= allowed).all()


def test_sixteen_bits_keep_eleven_bits_of_precision() -> None:
    factor = randn(9, 4)
    codes, scales = round_factor(factor, 16, dim=1)
    assert codes.dtype == torch.float16
    assert ((restore_factor(codes, scales, dim=1) - factor).abs() <= 2**-11 * factor.abs() + 1e-7).all()
