"""Stacked layers compute what the single ones do, one behind the other."""

from __future__ import annotations

import pytest
import torch
from tiny_packable import random_ortho
from torch import nn

from sixgig.errors import InputError
from sixgig.layers.split_linear import AlphaSwitch, SplitLinear
from sixgig.layers.stack import stack_linears
from sixgig.numerics.quantize import quantize_rtn

WIDTHS = (48, 16, 32)


def splits(*, bits: tuple[int, ...] = (4, 4, 4), orthos: tuple[bool, ...] = (True,) * 3) -> list[SplitLinear]:
    generator, switch, layers = torch.Generator().manual_seed(0), AlphaSwitch(), []
    for rank, (num_out, num_bits, with_ortho) in enumerate(zip(WIDTHS, bits, orthos, strict=True), start=1):
        weight_OI = torch.randn(num_out, 64, generator=generator)
        bias = torch.randn(num_out, generator=generator) if rank != 2 else None
        layer = SplitLinear(quantize_rtn(weight_OI, bits=num_bits, group_size=32), bias, switch)
        if with_ortho:
            layer.attach(random_ortho((num_out, 64), rank, generator))
        layers.append(layer)
    return layers


@pytest.mark.parametrize("bits", [(4, 4, 4), (3, 4, 2)])
@pytest.mark.parametrize("orthos", [(True, True, True), (False, True, False), (False, False, False)])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_split_layers(bits: tuple[int, ...], orthos: tuple[bool, ...], alpha: float) -> None:
    layers = splits(bits=bits, orthos=orthos)
    layers[0].switch.value = alpha
    stacked = stack_linears(layers)
    assert isinstance(stacked, SplitLinear)
    expected_OI = torch.cat([layer.effective_weight(alpha) for layer in layers])
    torch.testing.assert_close(stacked.effective_weight(alpha), expected_OI)
    x_NI = torch.randn(3, 64)
    torch.testing.assert_close(stacked(x_NI), torch.cat([layer(x_NI) for layer in layers], dim=-1))


def test_the_stack_reads_the_same_switch() -> None:
    layers = splits()
    stacked = stack_linears(layers)
    x_NI = torch.randn(1, 64)
    before = stacked(x_NI)
    layers[1].switch.value = 1.0
    assert not torch.equal(stacked(x_NI), before)


@pytest.mark.parametrize("with_bias", [True, False])
def test_dense_layers(with_bias: bool) -> None:
    layers = [nn.Linear(64, width, bias=with_bias and width != 16) for width in WIDTHS]
    x_NI = torch.randn(3, 64)
    torch.testing.assert_close(
        stack_linears(layers)(x_NI), torch.cat([layer(x_NI) for layer in layers], dim=-1)
    )


def test_a_single_layer_is_itself() -> None:
    layer = nn.Linear(4, 4)
    assert stack_linears([layer]) is layer


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(InputError, match="one kind"):
        stack_linears([nn.Linear(64, 8), splits()[0]])
    with pytest.raises(InputError, match="one kind"):
        stack_linears([nn.Linear(64, 8), nn.Linear(32, 8)])
    with pytest.raises(InputError, match="switches"):
        stack_linears([splits()[0], splits()[1]])
    other = SplitLinear(quantize_rtn(torch.ones(8, 64), bits=4, group_size=64), None, splits()[0].switch)
    first = splits()[0]
    other.switch = first.switch
    with pytest.raises(InputError, match="layout"):
        stack_linears([first, other])
