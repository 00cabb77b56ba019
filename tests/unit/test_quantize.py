"""Quantisation: the grid's error bound, zero on the grid, and GPTQ against the obvious algorithm."""

from __future__ import annotations

import pytest
import torch
from fakes import randn, random_moment
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sixgig.errors import InputError, NumericalError
from sixgig.numerics.bits import SUPPORTED_BITS
from sixgig.numerics.quantize import Quantized, dequantize, quantize_gptq, quantize_rtn

BITS = st.sampled_from(SUPPORTED_BITS)


@st.composite
def weights(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.integers(1, 5)), draw(st.integers(1, 40))
    spread = 10.0 ** draw(st.integers(-6, 2))
    shift = draw(st.sampled_from([0.0, 0.0, 1.0, -3.0]))
    return spread * (randn(*shape, seed=draw(st.integers(0, 2**16))) + shift)


def grid_of(quantized: Quantized, num_in: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each weight's scale and zero point in float64, spread out by a plain loop."""
    groups = [column // quantized.group_size for column in range(num_in)]
    return quantized.scales_OG[:, groups].double(), quantized.zeros_OG[:, groups].double()


@given(weight=weights(), bits=BITS, group_size=st.integers(1, 48))
@example(weight=torch.full((2, 7), 0.3), bits=4, group_size=4)
@settings(deadline=None, max_examples=60)
def test_every_weight_gets_the_nearest_point_of_its_stored_grid(
    weight: torch.Tensor, bits: int, group_size: int
) -> None:
    quantized = quantize_rtn(weight, bits=bits, group_size=group_size)
    scale, zero = grid_of(quantized, weight.shape[1])
    points = (torch.arange(2**bits).double() - zero[..., None]) * scale[..., None]
    nearest = (points - weight.double()[..., None]).abs().amin(dim=2)
    error = (dequantize(quantized).double() - weight.double()).abs()
    assert (error <= nearest + 1e-4 * scale).all()


@given(weight=weights(), bits=BITS, group_size=st.integers(1, 48))
@settings(deadline=None, max_examples=60)
def test_error_is_within_half_a_scale_but_for_the_clamped_upper_end(
    weight: torch.Tensor, bits: int, group_size: int
) -> None:
    # (high - low) / scale may exceed 2^bits - 1 by the rounding of the scale to fp16 (2^-11, relatively), and
    # the rounding of the zero point moves the grid by half a step: so only the last code may err by more.
    quantized = quantize_rtn(weight, bits=bits, group_size=group_size)
    scale, _ = grid_of(quantized, weight.shape[1])
    steps = (dequantize(quantized).double() - weight.double()).abs() / scale
    max_code = 2**bits - 1
    at_the_end = quantized.codes_OI == max_code
    assert (steps[~at_the_end] <= 0.5 + 1e-4).all()
    assert (steps[at_the_end] <= 0.5 + max_code * 2**-11 + 1e-4).all()


@given(weight=weights(), bits=BITS, group_size=st.integers(1, 48))
@settings(deadline=None, max_examples=40)
def test_shapes_and_ranges(weight: torch.Tensor, bits: int, group_size: int) -> None:
    quantized = quantize_rtn(weight, bits=bits, group_size=group_size)
    num_out, num_in = weight.shape
    num_groups = -(-num_in // group_size)
    assert quantized.codes_OI.shape == weight.shape
    assert quantized.scales_OG.shape == quantized.zeros_OG.shape == (num_out, num_groups)
    assert (quantized.codes_OI.dtype, quantized.scales_OG.dtype) == (torch.uint8, torch.float16)
    assert int(quantized.codes_OI.max()) < 2**bits
    assert int(quantized.zeros_OG.max()) < 2**bits
    assert (quantized.scales_OG > 0).all()
    assert quantized.storage_bits == num_out * num_in * bits + num_out * num_groups * (16 + bits)


@pytest.mark.parametrize("bits", SUPPORTED_BITS)
def test_zero_is_exactly_representable(bits: int) -> None:
    weight = randn(6, 50) + 2.0  # all groups far from zero, so that the grid must be widened to hold it
    weight[:, ::7] = 0.0
    restored = dequantize(quantize_rtn(weight, bits=bits, group_size=16))
    assert torch.equal(restored[:, ::7], torch.zeros_like(restored[:, ::7]))


@pytest.mark.parametrize("bits", SUPPORTED_BITS)
@pytest.mark.parametrize("value", [0.37, -0.37])
def test_constant_group_keeps_its_value_to_the_precision_of_its_scale(bits: int, value: float) -> None:
    restored = dequantize(quantize_rtn(torch.full((2, 8), value), bits=bits, group_size=8))
    assert (restored - value).abs().max() <= abs(value) * 2**-11 * 1.01


def test_all_zero_group_is_exact_and_leaves_its_neighbour_alone() -> None:
    weight = torch.cat([torch.zeros(3, 16), randn(3, 16)], dim=1)
    both = quantize_rtn(weight, bits=3, group_size=16)
    alone = quantize_rtn(weight[:, 16:], bits=3, group_size=16)
    assert torch.equal(dequantize(both)[:, :16], weight[:, :16])
    assert torch.equal(both.codes_OI[:, 16:], alone.codes_OI)


def test_more_bits_err_less() -> None:
    weight = randn(16, 64)
    errors = [
        float((dequantize(quantize_rtn(weight, bits=bits, group_size=32)) - weight).norm())
        for bits in SUPPORTED_BITS
    ]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_inf_are_refused(bad: float) -> None:
    weight = randn(4, 8)
    weight[2, 3] = bad
    with pytest.raises(NumericalError):
        quantize_rtn(weight, bits=4, group_size=4)
    with pytest.raises(NumericalError):
        quantize_gptq(weight, torch.eye(8), bits=4, group_size=4)


def test_weights_beyond_the_scales_type_are_refused() -> None:
    with pytest.raises(NumericalError, match="too large"):
        quantize_rtn(torch.full((1, 4), 1e9), bits=4, group_size=4)


@pytest.mark.parametrize("bits", [0, 1, 5, 16])
def test_unsupported_bits_are_refused(bits: int) -> None:
    with pytest.raises(InputError, match="bit width"):
        quantize_rtn(randn(2, 4), bits=bits, group_size=4)


def test_group_size_must_be_positive() -> None:
    with pytest.raises(InputError, match="group size"):
        quantize_rtn(randn(2, 4), bits=4, group_size=0)


def obvious_gptq(
    weight: torch.Tensor, moment: torch.Tensor, bits: int, group_size: int, damping: float
) -> torch.Tensor:
    """Codes by optimal brain quantisation in float64: no Cholesky factor, no blocks.

    After each column the inverse of H is updated by one step of Gaussian elimination, and all columns not yet
    rounded move by  -error / [H^-1]_jj * [H^-1]_j:.
    """
    start = quantize_rtn(weight, bits=bits, group_size=group_size)
    scale, zero = grid_of(start, weight.shape[1])
    hessian = moment.double() + damping * moment.double().diagonal().mean() * torch.eye(len(moment)).double()
    inverse = torch.linalg.inv(hessian)
    working, codes = weight.double().clone(), torch.zeros_like(weight, dtype=torch.uint8)
    for column in sorted(range(len(moment)), key=lambda index: -float(moment[index, index])):
        steps = (working[:, column] / scale[:, column] + zero[:, column]).round().clamp(0, 2**bits - 1)
        codes[:, column] = steps.to(torch.uint8)
        error = working[:, column] - (steps - zero[:, column]) * scale[:, column]
        working -= torch.outer(error / inverse[column, column], inverse[column])
        inverse -= torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    return codes


@pytest.mark.parametrize("block_size", [1, 5, 128])
@pytest.mark.parametrize("bits", [3, 4])
def test_gptq_equals_the_obvious_algorithm(bits: int, block_size: int) -> None:
    weight, moment = randn(9, 22, seed=3), random_moment(22, seed=4)
    got = quantize_gptq(weight, moment, bits=bits, group_size=8, damping=0.02, block_size=block_size)
    assert torch.equal(got.codes_OI, obvious_gptq(weight, moment, bits, 8, damping=0.02))


def test_gptq_of_white_inputs_is_round_to_nearest() -> None:
    weight = randn(7, 30, seed=1)
    gptq = quantize_gptq(weight, torch.eye(30), bits=3, group_size=16)
    assert torch.equal(gptq.codes_OI, quantize_rtn(weight, bits=3, group_size=16).codes_OI)


@pytest.mark.parametrize("seed", range(5))
def test_gptq_lowers_the_output_error_on_correlated_inputs(seed: int) -> None:
    weight, moment = randn(24, 40, seed=seed), random_moment(40, seed=100 + seed)

    def output_error(quantized: Quantized) -> float:
        missing = (weight - dequantize(quantized)).double()
        return float(((missing @ moment.double()) * missing).sum())

    gptq = output_error(quantize_gptq(weight, moment, bits=3, group_size=16))
    assert gptq < 0.8 * output_error(quantize_rtn(weight, bits=3, group_size=16))


def test_gptq_shares_the_grid_of_round_to_nearest() -> None:
    weight, moment = randn(6, 20, seed=2), random_moment(20, seed=2)
    gptq, rtn = (
        quantize_gptq(weight, moment, bits=4, group_size=8),
        quantize_rtn(weight, bits=4, group_size=8),
    )
    assert torch.equal(gptq.scales_OG, rtn.scales_OG)
    assert torch.equal(gptq.zeros_OG, rtn.zeros_OG)
    assert not torch.equal(gptq.codes_OI, rtn.codes_OI)
