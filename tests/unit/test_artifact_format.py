"""Each layer's stored form, there and back, on odd shapes; and model folders in shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_model import tiny_folder

from sixgig.errors import IntegrityError, NumericalError, SixgigError
from sixgig.layers.split_linear import OrthoPart
from sixgig.load.container import ModelTensors, layer_reader
from sixgig.load.ortho_adapter import (
    decode_factors,
    decode_sparse,
    encode_factors,
    encode_sparse,
    ortho_layer,
)
from sixgig.load.packed_base import BaseForm, base_layer, decode_base, encode_base
from sixgig.numerics.quantize import quantize_rtn
from sixgig.numerics.sparse import keep_top_k

SIDES = st.integers(1, 37)


def drawn(num_out: int, num_in: int, seed: int) -> torch.Tensor:
    return torch.randn(num_out, num_in, generator=torch.Generator().manual_seed(seed))


def form(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


@given(
    SIDES,
    SIDES,
    st.sampled_from([2, 3, 4, 8]),
    st.integers(1, 40),
    st.sampled_from(["group", "block"]),
    st.integers(0, 99),
)
@example(1, 17, 3, 1, "group", 0)  # one row whose words are cut from longer bytes
@settings(deadline=None, max_examples=80)
def test_a_base_comes_back_exactly(
    num_out: int, num_in: int, bits: int, group_size: int, strategy: str, seed: int
) -> None:
    base = quantize_rtn(drawn(num_out, num_in, seed), bits=bits, group_size=group_size)
    stored = BaseForm(strategy=strategy, is_uniform=True)
    tensors = encode_base("layer", base, stored)
    assert form(tensors) == stored.specs("layer", base_layer(base))
    again = decode_base("layer", base_layer(base), stored, tensors.__getitem__)
    assert torch.equal(again.codes_OI, base.codes_OI)
    assert torch.equal(again.scales_OG, base.scales_OG)
    assert torch.equal(again.zeros_OG, base.zeros_OG)


@given(SIDES, SIDES, st.integers(0, 6), st.sampled_from([8, 16]), st.integers(0, 99), st.data())
@settings(deadline=None, max_examples=60)
def test_an_ortho_part_comes_back_as_rounded(
    num_out: int, num_in: int, rank: int, factor_bits: int, seed: int, data: st.DataObject
) -> None:
    weight_OI = drawn(num_out, num_in, seed)
    kept = data.draw(st.none() | st.integers(0, weight_OI.numel()))
    ortho = OrthoPart(
        up_Or=drawn(num_out, rank, seed + 1),
        down_rI=drawn(rank, num_in, seed + 2),
        sparse=None if kept is None else keep_top_k(weight_OI, weight_OI.abs(), kept),
    )
    base = base_layer(quantize_rtn(weight_OI, bits=4, group_size=8))
    layer = ortho_layer(ortho)
    factors = encode_factors("layer", ortho, factor_bits)
    kept_tensors = encode_sparse("layer", ortho.sparse) if ortho.sparse else {}
    assert form(factors) == layer.factor_specs("layer", base, factor_bits)
    assert form(kept_tensors) == layer.sparse_specs("layer", base)
    stored = [*factors.values(), *kept_tensors.values()]
    assert 8 * sum(tensor.nbytes for tensor in stored) == ortho.storage_bits(factor_bits)
    up_Or, down_rI = decode_factors("layer", layer, base, factor_bits, factors.__getitem__)
    step = 1 / 127 if factor_bits == 8 else 1e-3
    torch.testing.assert_close(up_Or, ortho.up_Or, rtol=0, atol=5 * step)
    torch.testing.assert_close(down_rI, ortho.down_rI, rtol=0, atol=5 * step)
    if ortho.sparse is not None:
        again = decode_sparse("layer", base, kept_tensors.__getitem__)
        assert torch.equal(again.positions_k, ortho.sparse.positions_k)
        torch.testing.assert_close(again.values_k, ortho.sparse.values_k, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("num_in", [2**16, 2**16 + 1])
def test_columns_beyond_16_bits_are_kept(num_in: int) -> None:
    weight_OI = torch.zeros(2, num_in)
    weight_OI[0, -1], weight_OI[1, num_in // 2 + 5] = 1.0, 2.0
    sparse = keep_top_k(weight_OI, weight_OI, 2)
    base = base_layer(quantize_rtn(weight_OI, bits=4, group_size=64))
    again = decode_sparse("layer", base, encode_sparse("layer", sparse).__getitem__)
    assert torch.equal(again.dense(), weight_OI)


def test_values_that_16_bits_cannot_hold_are_refused() -> None:
    ortho = OrthoPart(up_Or=torch.full((3, 1), 1e6), down_rI=torch.ones(1, 4))
    with pytest.raises(NumericalError, match=r"layer\.lora_B"):
        encode_factors("layer", ortho, 16)
    encode_factors("layer", ortho, 8)


def sharded(folder: Path) -> Path:
    """The tiny model's tensors in two shards under an index."""
    tiny_folder(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    placed: dict[str, str] = {}
    for number, part in enumerate((names[:5], names[5:]), start=1):
        shard = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / shard)
        placed |= dict.fromkeys(part, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    return folder


def test_shards_hold_what_one_file_holds(tmp_path: Path) -> None:
    whole, pieces = ModelTensors(tiny_folder(tmp_path / "whole")), ModelTensors(sharded(tmp_path / "pieces"))
    assert whole.names == pieces.names
    assert len(pieces.paths) == 2
    assert all(torch.equal(whole.get(name), pieces.get(name)) for name in whole.names)
    name = "model.layers.0.mlp.up_proj"
    assert torch.equal(layer_reader(pieces)(name), whole.get(f"{name}.weight"))
    with pytest.raises(IntegrityError, match=r"nothing\.weight"):
        layer_reader(whole)("nothing")


@pytest.mark.parametrize(
    "index",
    [
        '{"weight_map": {"a": "../../model.safetensors"}}',
        '{"weight_map": {"a": "model.bin"}}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": []}',
        "[]",
        "{",
    ],
)
def test_a_hostile_shard_index_is_refused(tmp_path: Path, index: str) -> None:
    folder = sharded(tmp_path / "model")
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(IntegrityError):
        ModelTensors(folder)


def test_a_folder_without_weights_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(SixgigError, match="no safetensors weights"):
        ModelTensors(tmp_path)
