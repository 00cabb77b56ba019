"""The INT4 kernel computes the Base's numbers, up to the stated rounding; the Ortho part beside it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_packable import random_ortho

from sixgig.errors import InputError
from sixgig.layers import cpu_ortho
from sixgig.layers.cpu_linear import CpuLinear, kernel_group, why_not_packed
from sixgig.layers.split_linear import AlphaSwitch, SplitLinear
from sixgig.numerics.quantize import Quantized, dequantize, quantize_rtn

BF16_UNIT = 2.0**-8


def some_base(num_out: int, num_in: int, bits: int, group_size: int, seed: int = 0) -> Quantized:
    """Any codes, scales and zero points that the format allows."""
    generator = torch.Generator().manual_seed(seed)
    num_groups = -(-num_in // group_size)
    shape = (num_out, num_groups)
    return Quantized(
        codes_OI=torch.randint(0, 2**bits, (num_out, num_in), generator=generator).to(torch.uint8),
        scales_OG=(0.01 + torch.rand(shape, generator=generator)).to(torch.float16),
        zeros_OG=torch.randint(0, 2**bits, shape, generator=generator).to(torch.uint8),
        bits=bits,
        group_size=group_size,
    )


def weight_of(layer: CpuLinear) -> torch.Tensor:
    """What the layer multiplies with: its answers to unit vectors, in bf16 as it gives them."""
    return layer(torch.eye(layer.in_features, dtype=torch.bfloat16)).T.float()


def rounding_bound(base: Quantized) -> torch.Tensor:
    """How far a weight may move, by the docstring of `cpu_linear`, and by its own rounding to bf16."""
    exact_OI = dequantize(base)
    per_input = torch.arange(exact_OI.shape[1]) // base.group_size
    scales_OI, zeros_OI = base.scales_OG.float()[:, per_input], base.zeros_OG.float()[:, per_input]
    shift_OI = (8 - zeros_OI).abs() * scales_OI if base.bits <= 4 else exact_OI.abs() + 16 * scales_OI
    return BF16_UNIT * (1 + 2 * BF16_UNIT) * (2 * exact_OI.abs() + shift_OI) + 1e-2 * BF16_UNIT * scales_OI


@settings(deadline=None, max_examples=40)
@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    groups=st.sampled_from([(64, 32), (128, 64), (192, 128), (160, 96), (256, 256), (64, 1000)]),
    num_out=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_every_base_keeps_its_numbers(bits: int, groups: tuple[int, int], num_out: int, seed: int) -> None:
    base = some_base(num_out, groups[0], bits, groups[1], seed)
    moved_OI = (weight_of(CpuLinear(base)) - dequantize(base)).abs()
    assert (moved_OI <= rounding_bound(base)).all()


def test_numbers_that_bf16_holds_are_exact() -> None:
    base = some_base(32, 64, 4, 32)
    powers = torch.tensor([0.5, 0.25]).to(torch.float16).expand(32, 2)
    base = Quantized(codes_OI=base.codes_OI, scales_OG=powers, zeros_OG=base.zeros_OG, bits=4, group_size=32)
    assert torch.equal(weight_of(CpuLinear(base)), dequantize(base))


@pytest.mark.parametrize("num_rows", [1, 2, 5, 40])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_both_parts_as_the_split_layer(num_rows: int, alpha: float) -> None:
    split, packed = pair()
    split.switch.value = alpha
    x_NI = torch.randn(num_rows, 96, generator=torch.Generator().manual_seed(3)).to(torch.bfloat16)
    exact_NO = x_NI.double() @ split.effective_weight(alpha).double().T + split.bias.double()
    error = (packed(x_NI).double() - exact_NO).norm() / exact_NO.norm()
    assert error < 2 * BF16_UNIT
    assert packed(x_NI.view(1, num_rows, 96)).shape == (1, num_rows, 48)


def test_alpha_0_is_the_base_alone_bit_for_bit() -> None:
    split, packed = pair()
    alone = CpuLinear(split.base(), bias=split.bias)
    x_NI = torch.randn(3, 96).to(torch.bfloat16)
    split.switch.value = 0.0
    assert torch.equal(packed(x_NI), alone(x_NI))
    split.switch.value = 1.0
    assert not torch.equal(packed(x_NI), alone(x_NI))


def test_alpha_0_touches_nothing_of_the_ortho_part(monkeypatch: pytest.MonkeyPatch) -> None:
    split, packed = pair()

    def touched(*_: object) -> None:
        raise AssertionError("the Ortho part was used")

    monkeypatch.setattr(cpu_ortho.CpuOrtho, "added", touched)
    packed(torch.zeros(1, 96, dtype=torch.bfloat16))
    split.switch.value = 1.0
    with pytest.raises(AssertionError):
        packed(torch.zeros(1, 96, dtype=torch.bfloat16))


def test_one_row_without_mkl_as_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ortho = random_ortho((48, 96), 3, torch.Generator().manual_seed(1))
    x_NI, y_NO = torch.randn(1, 96), torch.randn(1, 48)
    with_mkl = cpu_ortho.CpuOrtho(ortho).added(y_NO, x_NI, 0.5)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    without = cpu_ortho.CpuOrtho(ortho).added(y_NO, x_NI, 0.5)
    exact_NO = y_NO + 0.5 * x_NI @ ortho.dense().T
    torch.testing.assert_close(with_mkl, exact_NO)
    torch.testing.assert_close(without, exact_NO)


@pytest.mark.parametrize("num_rows", [1, 4])
def test_a_sparse_part_without_entries(num_rows: int) -> None:
    ortho = random_ortho((48, 96), 3, torch.Generator().manual_seed(1), share=0.0)
    x_NI, y_NO = torch.randn(num_rows, 96), torch.zeros(num_rows, 48)
    torch.testing.assert_close(cpu_ortho.CpuOrtho(ortho).added(y_NO, x_NI, 1.0), x_NI @ ortho.dense().T)


def test_another_type_is_refused() -> None:
    with pytest.raises(InputError, match="bf16"):
        pair()[1](torch.zeros(1, 96))


@pytest.mark.parametrize(
    ("num_in", "group_size", "expected"),
    [(576, 128, 64), (576, 64, 64), (1536, 128, 128), (512, 10_000, 256), (64, 16, None), (40, 32, None)],
)
def test_the_kernels_groups_lie_within_the_bases(num_in: int, group_size: int, expected: int | None) -> None:
    assert kernel_group(num_in, group_size) == expected
    assert (why_not_packed(num_in, group_size) is None) == (expected is not None)


def test_what_cannot_be_packed_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match="groups of 16"):
        CpuLinear(some_base(16, 64, 4, 16))
    with pytest.raises(InputError, match="40 inputs"):
        CpuLinear(some_base(16, 40, 4, 8))


def pair() -> tuple[SplitLinear, CpuLinear]:
    """A split layer of 48 x 96 with bias and Ortho part, and the same packed, on one switch."""
    generator = torch.Generator().manual_seed(0)
    base = quantize_rtn(torch.randn(48, 96, generator=generator), bits=4, group_size=32)
    split = SplitLinear(base, torch.randn(48, generator=generator), AlphaSwitch())
    split.attach(random_ortho((48, 96), 3, generator))
    return split, CpuLinear.from_split(split)
