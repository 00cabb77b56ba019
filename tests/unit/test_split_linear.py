"""The split layer: alpha = 0 is the Base bit for bit, alpha is linear, and the switch is live."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from fakes import randn
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sixgig.errors import InputError
from sixgig.layers.split_linear import AlphaSwitch, OrthoPart, SplitLinear, set_alpha, split_layers
from sixgig.numerics.quantize import dequantize, quantize_rtn
from sixgig.numerics.sparse import keep_top_k

OUT, IN = 12, 20
DTYPES = [torch.float32, torch.bfloat16, torch.float64]


def ortho_part(rank: int = 3, k: int = 10, *, shape: tuple[int, int] = (OUT, IN), seed: int = 5) -> OrthoPart:
    num_out, num_in = shape
    sparse = keep_top_k(randn(*shape, seed=seed), randn(*shape, seed=seed + 1), k) if k else None
    return OrthoPart(
        up_Or=randn(num_out, rank, seed=seed + 2), down_rI=randn(rank, num_in, seed=seed + 3), sparse=sparse
    )


def layer(ortho: OrthoPart | None, *, bias: bool = True, switch: AlphaSwitch | None = None) -> SplitLinear:
    base = quantize_rtn(randn(OUT, IN), bits=4, group_size=8)
    made = SplitLinear(base, randn(OUT, seed=1) if bias else None, switch or AlphaSwitch())
    made.attach(ortho)
    return made


def at(module: SplitLinear, alpha: float, x: torch.Tensor) -> torch.Tensor:
    module.switch.value = alpha
    return module(x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [0, 10])
def test_alpha_zero_is_the_base_alone_bit_for_bit(dtype: torch.dtype, k: int) -> None:
    x = randn(5, IN, seed=2).to(dtype)
    whole, base_alone = layer(ortho_part(k=k)), layer(None)
    before = at(whole, 0.0, x)
    assert not torch.equal(at(whole, 1.0, x), before)
    after = at(whole, 0.0, x)
    assert torch.equal(before, base_alone(x))
    assert torch.equal(after, base_alone(x))


def test_alpha_zero_is_the_base_alone_under_autocast() -> None:
    x = randn(5, IN, seed=2)
    whole, base_alone = layer(ortho_part()), layer(None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        at(whole, 1.0, x)
        y = at(whole, 0.0, x)
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, base_alone(x))


def test_alpha_zero_ignores_even_broken_ortho_values() -> None:
    broken = OrthoPart(up_Or=torch.full((OUT, 1), float("nan")), down_rI=torch.full((1, IN), float("inf")))
    x = randn(5, IN)
    assert torch.equal(at(layer(broken), 0.0, x), layer(None)(x))


def test_base_alone_is_the_plain_linear_layer_of_the_dequantised_weight() -> None:
    base_alone, x = layer(None), randn(2, 3, IN)
    expected = F.linear(x, dequantize(base_alone.base()), base_alone.bias)
    assert torch.equal(base_alone(x), expected)


@given(alpha=st.floats(-2, 3), rank=st.integers(0, 4), k=st.sampled_from([0, 1, 60, OUT * IN]))
@settings(deadline=None, max_examples=40)
def test_output_is_linear_in_alpha_and_equals_its_specification(alpha: float, rank: int, k: int) -> None:
    whole, x = layer(ortho_part(rank, k)), randn(7, IN, seed=3)
    y0, y1 = at(whole, 0.0, x), at(whole, 1.0, x)
    assert torch.allclose(at(whole, alpha, x), y0 + alpha * (y1 - y0), atol=2e-5)
    assert torch.allclose(
        at(whole, alpha, x), F.linear(x, whole.effective_weight(alpha), whole.bias), atol=2e-5
    )


@given(bits=st.sampled_from([2, 3, 4, 8]), num_out=st.integers(1, 9), num_in=st.integers(1, 30))
@settings(deadline=None, max_examples=30)
def test_base_plus_exact_residual_rebuilds_the_weight(bits: int, num_out: int, num_in: int) -> None:
    weight = randn(num_out, num_in)
    base = quantize_rtn(weight, bits=bits, group_size=8)
    residual = weight - dequantize(base)
    everything = keep_top_k(residual, residual.abs(), residual.numel())
    as_factors = OrthoPart(up_Or=residual, down_rI=torch.eye(num_in))
    as_entries = OrthoPart(up_Or=torch.zeros(num_out, 0), down_rI=torch.zeros(0, num_in), sparse=everything)
    for exact in (as_factors, as_entries):
        module = SplitLinear(base, None, AlphaSwitch())
        module.attach(exact)
        assert torch.allclose(module.effective_weight(1.0), weight, atol=1e-6)
        assert torch.equal(module.effective_weight(0.0), dequantize(base))


def test_the_switch_is_live_and_shared() -> None:
    switch = AlphaSwitch()
    first, second = layer(ortho_part(), switch=switch), layer(ortho_part(seed=9), switch=switch)
    x = randn(4, IN)
    at_zero = first(x), second(x)
    set_alpha(nn.ModuleList([first, second]), 0.5)
    assert switch.value == 0.5
    for module, y in zip((first, second), at_zero, strict=True):
        assert torch.allclose(module(x), F.linear(x, module.effective_weight(0.5), module.bias), atol=2e-5)
        assert not torch.equal(module(x), y)
    switch.value = 0.0
    assert all(torch.equal(m(x), y) for m, y in zip((first, second), at_zero, strict=True))


def test_attaching_none_takes_the_ortho_part_out() -> None:
    module, x = layer(ortho_part()), randn(4, IN)
    at(module, 1.0, x)
    module.attach(None)
    assert torch.equal(at(module, 1.0, x), layer(None)(x))
    assert torch.equal(module.effective_weight(1.0), module.effective_weight(0.0))


def test_attaching_another_part_replaces_the_first() -> None:
    module, x = layer(ortho_part()), randn(4, IN)
    at(module, 1.0, x)
    module.attach(ortho_part(seed=40))
    assert torch.equal(at(module, 1.0, x), at(layer(ortho_part(seed=40)), 1.0, x))


WRONG_PARTS = {
    "too many rows": ortho_part(shape=(OUT + 1, IN), k=0),
    "too few columns": ortho_part(shape=(OUT, IN - 1), k=0),
    "ranks that differ": OrthoPart(up_Or=randn(OUT, 2), down_rI=randn(3, IN)),
    "entries of another matrix": OrthoPart(
        up_Or=randn(OUT, 1),
        down_rI=randn(1, IN),
        sparse=keep_top_k(randn(OUT, IN - 1), randn(OUT, IN - 1), 4),
    ),
}


@pytest.mark.parametrize("part", WRONG_PARTS.values(), ids=WRONG_PARTS.keys())
def test_parts_of_another_layer_are_refused(part: OrthoPart) -> None:
    module, x = layer(ortho_part()), randn(4, IN)
    before = at(module, 1.0, x)
    with pytest.raises(InputError, match="Ortho part of another layer"):
        module.attach(part)
    assert torch.equal(module(x), before)


def test_set_alpha_needs_a_split_model() -> None:
    with pytest.raises(InputError, match="not split"):
        set_alpha(nn.Sequential(nn.Linear(2, 2)), 1.0)


def test_set_alpha_cannot_raise_a_base_alone() -> None:
    model = nn.Sequential(layer(None))
    set_alpha(model, 0.0)
    with pytest.raises(InputError, match="only the Base"):
        set_alpha(model, 1.0)
    assert layer(None).switch.value == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_moving_the_model_to_another_type_changes_neither_part(dtype: torch.dtype) -> None:
    module = layer(ortho_part(), bias=False)
    module(randn(4, IN))
    base, whole = module.effective_weight(0.0), module.effective_weight(1.0)
    module.to(dtype)
    assert torch.equal(module.effective_weight(0.0), base)
    assert torch.equal(module.effective_weight(1.0), whole)
    assert module(randn(4, IN).to(dtype)).dtype == dtype


def test_moving_the_model_to_another_device_moves_both_parts() -> None:
    module = layer(ortho_part())
    module(randn(4, IN))
    module.to("meta")
    assert module.ortho is not None
    assert module.ortho.sparse is not None
    tensors = [*module.buffers(), module.ortho.up_Or, module.ortho.down_rI]
    tensors += [module.ortho.sparse.positions_k, module.ortho.sparse.values_k]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_state_dict_holds_nothing_of_the_ortho_part() -> None:
    module, x = layer(ortho_part()), randn(4, IN)
    at(module, 1.0, x)
    assert set(module.state_dict()) == {"packed_OB", "scales_OG", "zeros_OG", "bias"}
    assert list(module.parameters()) == []
    alone = layer(None).state_dict()
    assert all(torch.equal(tensor, alone[name]) for name, tensor in module.state_dict().items())


def test_loading_another_base_takes_effect_at_once() -> None:
    module, x = layer(None), randn(4, IN)
    module(x)
    other = SplitLinear(quantize_rtn(randn(OUT, IN, seed=8), bits=4, group_size=8), randn(OUT), AlphaSwitch())
    module.load_state_dict(other.state_dict())
    assert torch.equal(module(x), other(x))


def test_a_copied_model_has_a_switch_of_its_own() -> None:
    switch = AlphaSwitch()
    model = nn.ModuleList([layer(ortho_part(), switch=switch), layer(ortho_part(), switch=switch)])
    copied = copy.deepcopy(model)
    set_alpha(copied, 1.0)
    assert switch.value == 0.0
    assert all(module.switch.value == 1.0 for _, module in split_layers(copied))


def test_storage_counts_factors_scales_and_entries() -> None:
    part = ortho_part(rank=3, k=10)
    assert part.sparse is not None
    entries = part.sparse.storage_bits
    assert part.storage_bits(16) == 16 * 3 * (OUT + IN) + entries
    assert part.storage_bits(8) == 8 * 3 * (OUT + IN) + 2 * 32 * 3 + entries
    assert ortho_part(rank=3, k=0).storage_bits(16) == 16 * 3 * (OUT + IN)


def test_split_layers_are_found_by_name_in_order() -> None:
    model = nn.ModuleDict({"a": layer(None), "b": nn.Linear(2, 2), "c": nn.Sequential(layer(None))})
    assert [name for name, _ in split_layers(model)] == ["a", "c.0"]
