"""Grids: the searched one never errs more than that of the extremes; entries set to 0 have no say."""

from __future__ import annotations

import pytest
import torch
from fakes import randn
from hypothesis import given, settings
from hypothesis import strategies as st

from sixgig.errors import NumericalError
from sixgig.numerics.bits import SUPPORTED_BITS
from sixgig.numerics.grids import minmax_grid, searched_grid
from sixgig.numerics.quantize import dequantize, quantize_gptq, quantize_rtn


def weighted_error(
    weight: torch.Tensor, importance: torch.Tensor, bits: int, group_size: int, *, searched: bool
) -> torch.Tensor:
    """Each group's error in float64, of round-to-nearest on either grid; [rows, groups]."""
    size = {"bits": bits, "group_size": group_size}
    grid = searched_grid(weight, importance, **size) if searched else minmax_grid(weight, **size)
    missing = dequantize(quantize_rtn(weight, **size, grid=grid)).double() - weight.double()
    errors = (missing.square() * importance.double()).split(group_size, dim=1)
    return torch.stack([one.sum(dim=1) for one in errors], dim=1)


@given(
    seed=st.integers(0, 2**16),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 40)),
    bits=st.sampled_from(SUPPORTED_BITS),
    group_size=st.integers(1, 48),
    spread=st.sampled_from([1e-5, 1.0, 100.0]),
)
@settings(deadline=None, max_examples=40)
def test_no_group_errs_more_on_the_searched_grid(
    seed: int, shape: tuple[int, int], bits: int, group_size: int, spread: float
) -> None:
    weight, importance = spread * randn(*shape, seed=seed), randn(shape[1], seed=seed + 1).square()
    searched = weighted_error(weight, importance, bits, group_size, searched=True)
    plain = weighted_error(weight, importance, bits, group_size, searched=False)
    assert (searched <= plain * (1 + 1e-4) + 1e-30).all()


@pytest.mark.parametrize(("bits", "share"), [(3, 0.85), (4, 0.95)])
def test_on_normal_weights_it_errs_clearly_less(bits: int, share: float) -> None:
    weight, importance = randn(64, 128), torch.ones(128)
    searched = weighted_error(weight, importance, bits, 64, searched=True).sum()
    assert searched < share * weighted_error(weight, importance, bits, 64, searched=False).sum()


def test_an_outlier_that_hardly_matters_is_clipped_and_one_that_matters_is_not() -> None:
    weight, importance = randn(1, 64), torch.ones(64)
    weight[0, 5] = 20.0
    for matters, least, most in ((1e-4, 0.0, 10.0), (1e4, 19.0, 21.0)):
        importance[5] = matters
        grid = searched_grid(weight, importance, bits=3, group_size=64)
        assert (
            least <= float(dequantize(quantize_rtn(weight, bits=3, group_size=64, grid=grid))[0, 5]) <= most
        )


def test_entries_set_to_zero_leave_no_trace_in_either_grid() -> None:
    weight, importance = randn(3, 32), randn(32, seed=1).square()
    weight[:, 7] = 50.0
    kept = torch.zeros_like(weight, dtype=torch.bool)
    kept[:, 7] = True
    other = weight.clone()
    other[:, 7] = -3.0
    size = {"bits": 3, "group_size": 16}
    for make in (lambda w: minmax_grid(w, **size), lambda w: searched_grid(w, importance, **size)):
        one, two = make(weight.masked_fill(kept, 0)), make(other.masked_fill(kept, 0))
        assert torch.equal(one.scales_OG, two.scales_OG)
        assert torch.equal(one.zeros_OG, two.zeros_OG)
        assert float(one.scales_OG.max()) < 2.0
    assert float(minmax_grid(weight, **size).scales_OG.max()) > 6.0


def test_all_zero_group_has_a_grid() -> None:
    grid = searched_grid(torch.zeros(2, 8), torch.ones(8), bits=4, group_size=4)
    assert (grid.scales_OG > 0).all()
    assert torch.equal(
        dequantize(quantize_rtn(torch.zeros(2, 8), bits=4, group_size=4, grid=grid)), torch.zeros(2, 8)
    )


def test_weights_beyond_the_scales_type_are_refused() -> None:
    with pytest.raises(NumericalError, match="too large"):
        searched_grid(torch.full((1, 4), 1e9), torch.ones(4), bits=4, group_size=4)


@pytest.mark.parametrize("seed", range(3))
def test_gptq_that_knows_what_is_kept_errs_less_with_it(seed: int) -> None:
    weight, inputs = randn(16, 32, seed=seed), randn(200, 32, seed=seed + 50)
    inputs = inputs @ (torch.eye(32) + 0.4 * randn(32, 32, seed=seed + 90))
    moment = inputs.T @ inputs / len(inputs)
    kept = torch.zeros_like(weight, dtype=torch.bool)
    kept[:, ::8] = True
    grid = minmax_grid(weight.masked_fill(kept, 0), bits=3, group_size=16)

    def output_error(told: torch.Tensor | None) -> float:
        rounded = quantize_gptq(weight, moment, bits=3, group_size=16, grid=grid, kept_OI=told)
        missing = torch.where(kept, 0.0, weight - dequantize(rounded)).double()
        return float(((missing @ moment.double()) * missing).sum())

    assert output_error(kept) < output_error(None)


def test_with_nothing_kept_gptq_is_gptq() -> None:
    weight, moment = randn(5, 12), torch.eye(12) + 0.3
    nothing = torch.zeros_like(weight, dtype=torch.bool)
    told = quantize_gptq(weight, moment, bits=3, group_size=4, kept_OI=nothing)
    assert torch.equal(told.codes_OI, quantize_gptq(weight, moment, bits=3, group_size=4).codes_OI)
