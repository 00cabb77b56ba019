"""Second moments against the formula in float64."""

from __future__ import annotations

import pytest
import torch
from fakes import randn
from hypothesis import given, settings
from hypothesis import strategies as st

from sixgig.errors import InputError, NumericalError
from sixgig.numerics.moments import SecondMoment

CPU = torch.device("cpu")


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    num_in=st.integers(1, 12),
    weighted=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_mean_equals_the_weighted_formula(sizes: list[int], num_in: int, weighted: bool) -> None:
    inputs = randn(sum(sizes), num_in) + 0.5
    weights = randn(sum(sizes), seed=1).abs() + 0.1 if weighted else torch.ones(sum(sizes))
    moment = SecondMoment(num_in, CPU)
    for x, w in zip(inputs.split(sizes), weights.split(sizes), strict=True):
        moment.add(x, w if weighted else None)
    x, w = inputs.double(), weights.double()
    expected = (w[:, None] * x).T @ x / w.sum()
    assert torch.allclose(moment.mean("layer").double(), expected, rtol=1e-5, atol=1e-5)


def test_a_position_of_weight_zero_does_not_count() -> None:
    inputs = randn(6, 4)
    some, others = SecondMoment(4, CPU), SecondMoment(4, CPU)
    some.add(inputs, torch.tensor([1.0, 0, 1, 0, 0, 1]))
    others.add(inputs[[0, 2, 5]])
    assert torch.allclose(some.mean(""), others.mean(""), rtol=1e-6)


def test_bf16_inputs_are_multiplied_in_fp32() -> None:
    inputs = randn(4096, 3).to(torch.bfloat16)
    moment = SecondMoment(3, CPU)
    moment.add(inputs)
    expected = inputs.double().T @ inputs.double() / 4096
    assert torch.allclose(moment.mean("").double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_inf_name_the_layer(bad: float) -> None:
    moment = SecondMoment(3, CPU)
    moment.add(torch.tensor([[1.0, bad, 0.0]]))
    with pytest.raises(NumericalError, match=r"layer model\.layers\.3"):
        moment.mean("model.layers.3")


@pytest.mark.parametrize("weights", [None, torch.zeros(2)])
def test_no_positions_are_refused(weights: torch.Tensor | None) -> None:
    moment = SecondMoment(3, CPU)
    if weights is not None:
        moment.add(randn(2, 3), weights)
    with pytest.raises(InputError, match="no calibration positions"):
        moment.mean("some.layer")
