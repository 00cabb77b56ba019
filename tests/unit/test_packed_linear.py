"""The packed layer against the dense one it stands for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sixgig.layers import packed_linear
from sixgig.layers.packed_linear import PackedLinear
from sixgig.numerics.quantize import dequantize, quantize_rtn


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", [(5, 7), (33, 65), (64, 128)])
@pytest.mark.parametrize("tile_weights", [1, 200, 2**22])
def test_equals_the_dense_product(bits, shape, tile_weights, monkeypatch) -> None:
    monkeypatch.setattr(packed_linear, "TILE_WEIGHTS", tile_weights)
    generator = torch.Generator().manual_seed(bits)
    weight_OI = torch.randn(shape, generator=generator)
    bias_O = torch.randn(shape[0], generator=generator)
    x = torch.randn(2, 3, shape[1], generator=generator)
    dense_OI = dequantize(quantize_rtn(weight_OI, bits=bits, group_size=64))
    layer = PackedLinear.from_dense(weight_OI, bias_O, bits=bits, group_size=64)
    torch.testing.assert_close(layer(x), F.linear(x, dense_OI, bias_O), rtol=1e-5, atol=1e-5)


def test_an_empty_layer_is_a_weight_of_zeros_of_the_same_size_as_a_filled_one() -> None:
    empty = PackedLinear(65, 33, bits=3, group_size=64)
    filled = PackedLinear.from_dense(torch.randn(33, 65), bits=3, group_size=64)
    assert torch.equal(empty(torch.randn(4, 65)), torch.zeros(4, 33))
    assert {name: value.shape for name, value in empty.named_buffers()} == {
        name: value.shape for name, value in filled.named_buffers()
    }


def test_state_is_packed() -> None:
    layer = PackedLinear(128, 64, bits=4, group_size=64)
    assert layer.codes_OB.nbytes == 128 * 64 // 2
    assert sum(buffer.nbytes for buffer in layer.buffers()) == 128 * 64 // 2 + 64 * 2 * 3
