"""What bitsandbytes really quantised, counted on fakes; and the library itself where it is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_model import tiny_folder
from torch import nn

from sixgig.errors import InputError, NotAvailableError
from sixgig.load.bnb import load_quantised, quantised_share, require_quantised, scale_bytes
from sixgig.runtime.make_decoder import make_decoder


class Params4bit(nn.Parameter):
    """As bitsandbytes': packed bytes that remember their shape."""


class Int8Params(nn.Parameter):
    pass


def packed(rows: int, columns: int) -> nn.Parameter:
    parameter = Params4bit(torch.zeros(rows * columns // 2, 1, dtype=torch.uint8), requires_grad=False)
    parameter.quant_state = SimpleNamespace(shape=torch.Size((rows, columns)))
    return parameter


def dense(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))


def test_a_packed_weight_counts_as_before_packing() -> None:
    share = quantised_share([("a.weight", packed(8, 6)), ("embed.weight", dense(4, 4)), ("norm", dense(8))])
    assert (share.num_quantised, share.num_parameters) == (48, 72)
    assert share.share == pytest.approx(2 / 3)
    require_quantised(share, "here")


def test_eight_bit_weights_count_by_their_own_shape() -> None:
    weight = Int8Params(torch.zeros(8, 6, dtype=torch.int8), requires_grad=False)
    assert quantised_share([("a.weight", weight)]).share == 1.0


def holding(weight: nn.Parameter, state: object = None) -> nn.Module:
    layer = nn.Module()
    layer.weight, layer.state = weight, state
    return layer


def test_scales_are_counted_wherever_they_lie() -> None:
    four, single = packed(8, 6), packed(8, 6)
    nested = SimpleNamespace(absmax=torch.zeros(2))
    four.quant_state = SimpleNamespace(absmax=torch.zeros(12, dtype=torch.uint8), state2=nested)
    single.quant_state = SimpleNamespace(absmax=torch.zeros(12), state2=None)
    before, after = (Int8Params(torch.zeros(8, 6, dtype=torch.int8), requires_grad=False) for _ in range(2))
    before.SCB, after.SCB = torch.zeros(8), None
    moved = SimpleNamespace(SCB=torch.zeros(5))
    layers = [holding(four), holding(single), holding(before), holding(after, moved), holding(dense(3, 3))]
    expected = [12 + 8, 48, 32, 20, 0]
    assert [scale_bytes(layer) for layer in layers] == expected
    assert scale_bytes(nn.ModuleList(layers)) == sum(expected)


def test_skipped_experts_fail_by_name_and_share() -> None:
    name = "model.layers.0.mlp.experts.gate_up_proj"
    share = quantised_share([("a.weight", packed(8, 4)), (name, dense(4, 6, 4))])
    assert share.skipped_experts == (name,)
    with pytest.raises(InputError, match=r"25\.0%.*gate_up_proj"):
        require_quantised(share, "here")


def test_nothing_quantised_fails() -> None:
    with pytest.raises(InputError, match="quantised nothing"):
        require_quantised(quantised_share([("a.weight", dense(4, 4))]), "here")


def test_other_widths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="other widths"):
        load_quantised(tmp_path, bits=3, device="cpu")


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_without_the_library_it_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(NotAvailableError, match=r"sixgig\[compare\]"):
        load_quantised(tmp_path, bits=4, device="cpu")


@pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="needs bitsandbytes: pip install 'sixgig[compare]'"
)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.filterwarnings("ignore")
def test_the_library_quantises_every_layer_of_the_decoder(tmp_path: Path, bits: int) -> None:
    loaded, share = load_quantised(tiny_folder(tmp_path / "model"), bits=bits, device="cpu")
    linear = sum(
        m.in_features * m.out_features
        for m in loaded.network.model.layers.modules()
        if isinstance(m, nn.Linear)
    )
    assert share.num_quantised == linear
    assert 0.5 < share.share < 1
    assert 0 < scale_bytes(loaded.network) < linear
    if bits == 4:
        return  # its 4-bit product on a CPU wants wider layers than this model has
    with torch.no_grad():
        assert torch.isfinite(loaded.network(torch.arange(5, 25)[None]).logits).all()
    chosen = make_decoder(loaded, context_tokens=32, kernels="reference")
    assert chosen.description == f"bitsandbytes, 8 bits: {share.share:.1%} of the parameters quantised, " + (
        "bfloat16 activations"
    )
    assert torch.isfinite(chosen.decoder.prefill([5, 6, 7])).all()
