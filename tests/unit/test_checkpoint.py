"""Intermediate files of a run: what is read back is what was saved, to the bit, or nothing."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import randn
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from torch import Tensor

from sixgig.errors import IntegrityError, OutOfSpaceError
from sixgig.layers.split_linear import OrthoPart
from sixgig.numerics.bits import SUPPORTED_BITS
from sixgig.numerics.quantize import dequantize, quantize_rtn
from sixgig.numerics.sparse import SparsePart
from sixgig.transform.checkpoint import read_bases, read_layers, save_layers, save_weights, weight_reader
from sixgig.transform.split_layer import LayerSplit


def sparse_part(num_out: int, num_in: int, count: int) -> SparsePart:
    positions = torch.randperm(num_out * num_in, generator=torch.Generator().manual_seed(5))[:count]
    return SparsePart(
        positions_k=positions.sort().values.to(torch.int32),
        values_k=randn(count, seed=6),
        shape=(num_out, num_in),
    )


def layer_split(
    num_out: int = 6,
    num_in: int = 20,
    *,
    bits: int = 4,
    group_size: int = 8,
    rank: int = 3,
    sparse: SparsePart | None = None,
    seed: int = 0,
) -> LayerSplit:
    return LayerSplit(
        base=quantize_rtn(randn(num_out, num_in, seed=seed), bits=bits, group_size=group_size),
        ortho=OrthoPart(
            up_Or=randn(num_out, rank, seed=seed + 1),
            down_rI=randn(rank, num_in, seed=seed + 2),
            sparse=sparse,
        ),
        codes_changed=0.1 + seed / 7,
        removed_norm_share=1 / 3,
    )


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def assert_same_layer(one: LayerSplit, other: LayerSplit) -> None:
    assert (one.base.bits, one.base.group_size) == (other.base.bits, other.base.group_size)
    for part in ("codes_OI", "scales_OG", "zeros_OG"):
        assert same(getattr(one.base, part), getattr(other.base, part)), part
    assert same(one.ortho.up_Or, other.ortho.up_Or)
    assert same(one.ortho.down_rI, other.ortho.down_rI)
    assert (one.codes_changed, one.removed_norm_share) == (other.codes_changed, other.removed_norm_share)
    assert (one.ortho.sparse is None) == (other.ortho.sparse is None)
    if one.ortho.sparse is not None and other.ortho.sparse is not None:
        assert same(one.ortho.sparse.positions_k, other.ortho.sparse.positions_k)
        assert same(one.ortho.sparse.values_k, other.ortho.sparse.values_k)
        assert one.ortho.sparse.shape == other.ortho.sparse.shape


# ---- split layers ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(
    bits=st.sampled_from(SUPPORTED_BITS),
    num_out=st.integers(1, 5),
    num_in=st.integers(1, 21),
    group_size=st.integers(1, 24),
    rank=st.integers(0, 3),
)
def test_a_layer_of_any_shape_is_read_back_to_the_bit(
    bits: int, num_out: int, num_in: int, group_size: int, rank: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("layers") / "layers.safetensors"
    layer = layer_split(num_out, num_in, bits=bits, group_size=group_size, rank=rank)
    save_layers(path, {"one": layer})
    assert_same_layer(read_layers(path)["one"], layer)


def test_layers_with_and_without_a_sparse_part_keep_their_own(tmp_path: Path) -> None:
    layers = {
        "model.layers.0.self_attn.q_proj": layer_split(seed=1, sparse=sparse_part(6, 20, 7)),
        # A name that begins another's: the one must not take the other's sparse part.
        "model.layers.0.self_attn": layer_split(4, 9, seed=2, bits=3),
        "model.layers.1.mlp.down_proj": layer_split(seed=3, bits=2, sparse=sparse_part(6, 20, 0)),
    }
    save_layers(tmp_path / "layers.safetensors", layers)
    found = read_layers(tmp_path / "layers.safetensors")
    assert list(found) == list(layers)
    for name, layer in layers.items():
        assert_same_layer(found[name], layer)


def test_the_base_is_packed(tmp_path: Path) -> None:
    sizes = {}
    for bits in (2, 8):
        path = tmp_path / f"{bits}.safetensors"
        save_layers(path, {"one": layer_split(64, 512, bits=bits, group_size=64, rank=0)})
        sizes[bits] = path.stat().st_size
    assert sizes[8] - sizes[2] == 64 * 512 * (8 - 2) // 8


def test_parts_that_are_views_are_kept_as_they_look(tmp_path: Path) -> None:
    layer = layer_split(6, 6, rank=6)
    turned = LayerSplit(
        base=layer.base,
        ortho=OrthoPart(up_Or=layer.ortho.down_rI.T, down_rI=layer.ortho.up_Or.T),
        codes_changed=layer.codes_changed,
        removed_norm_share=layer.removed_norm_share,
    )
    save_layers(tmp_path / "layers.safetensors", {"one": turned})
    assert_same_layer(read_layers(tmp_path / "layers.safetensors")["one"], turned)


def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    save_weights(tmp_path / "dense.safetensors", {"one": randn(2, 2)})
    with pytest.raises(IntegrityError, match=r"dense\.safetensors"):
        read_layers(tmp_path / "dense.safetensors")


def test_layers_that_cannot_be_saved_leave_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(tensors: dict[str, Tensor], file: Path, **more: Any) -> None:
        Path(file).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "layers.safetensors"
    save_layers(path, {"one": layer_split(seed=1)})
    before = path.read_bytes()
    monkeypatch.setattr("sixgig.transform.checkpoint.save_file", half)
    with pytest.raises(OutOfSpaceError, match=r"layers\.safetensors"):
        save_layers(path, {"one": layer_split(seed=2)})
    assert path.read_bytes() == before
    assert [part.name for part in tmp_path.iterdir()] == ["layers.safetensors"]


# ---- dense weights -----------------------------------------------------------------------------------


def test_weights_are_read_by_name_whatever_they_are_views_of(tmp_path: Path) -> None:
    whole = randn(4, 6)
    weights = {"a": whole, "b.c": whole.T, "half": whole[:, ::2], "bf16": whole.bfloat16()}
    save_weights(tmp_path / "dense.safetensors", weights)
    read = weight_reader(tmp_path / "dense.safetensors")
    for name, weight in weights.items():
        assert same(read(name), weight)


def test_a_models_own_file_is_read_with_its_suffix(tmp_path: Path) -> None:
    save_weights(tmp_path / "model.safetensors", {"layer.weight": randn(2, 3), "layer": randn(5, seed=1)})
    assert same(weight_reader(tmp_path / "model.safetensors", ".weight")("layer"), randn(2, 3))
    assert same(weight_reader(tmp_path / "model.safetensors")("layer"), randn(5, seed=1))


def test_a_weight_is_read_when_it_is_asked_for_and_is_the_readers_own(tmp_path: Path) -> None:
    path = tmp_path / "dense.safetensors"
    read = weight_reader(path)  # before there is a file
    save_weights(path, {"a": randn(3, 3, seed=1)})
    first = read("a")
    first.zero_()
    assert same(read("a"), randn(3, 3, seed=1))
    held = read("a")
    save_weights(path, {"a": randn(3, 3, seed=2)})
    assert same(held, randn(3, 3, seed=1))
    assert same(read("a"), randn(3, 3, seed=2))


def test_a_weight_that_is_not_there_is_named(tmp_path: Path) -> None:
    save_weights(tmp_path / "dense.safetensors", {"a": randn(2, 2)})
    with pytest.raises(SafetensorError, match="absent"):
        weight_reader(tmp_path / "dense.safetensors")("absent")


def test_bases_alone_are_those_of_the_layers_in_their_order(tmp_path: Path) -> None:
    layers = {f"layer.{number}": layer_split(seed=number, bits=3) for number in (2, 0, 1)}
    save_layers(tmp_path / "arm.safetensors", layers)
    bases = list(read_bases(tmp_path / "arm.safetensors"))
    assert [name for name, _ in bases] == list(layers)
    for name, weight in bases:
        assert same(weight, dequantize(layers[name].base))


def test_bases_of_another_kind_of_file_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "dense.safetensors", {"layer": randn(2, 3)})
    with pytest.raises(IntegrityError, match="not a file of split layers"):
        next(read_bases(tmp_path / "dense.safetensors"))
