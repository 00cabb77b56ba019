"""The walk over a model on disk against the walk over the same model in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import tiny_folder

from sixgig.data.batches import TokenBatch, collate, secret_only, whole_text
from sixgig.errors import IntegrityError, NumericalError
from sixgig.load.loaded import LoadedModel, load
from sixgig.load.tensor_reader import TensorReader
from sixgig.transform import layer_walk
from sixgig.transform.layer_walk import LayerWalk, empty_model
from sixgig.transform.streaming import stream_moments

CPU = torch.device("cpu")


def text_sets(loaded: LoadedModel) -> dict[str, list[TokenBatch]]:
    public = [whole_text(loaded.encode(text)) for text in ("the cat sat on the mat", "a dog", "rain fell")]
    private = [secret_only(loaded.encode("code of Ann:"), loaded.encode(" 4711"))]
    private += [secret_only(loaded.encode("of Bo:"), loaded.encode(" 0815-9"))]
    return {"public": [collate(public[:2]), collate(public[2:])], "private": [collate(private)]}


def sharded(folder: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """The tiny model in two shards under an index."""
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    names = sorted(tensors)
    placed = {name: f"model-{1 + index % 2}.safetensors" for index, name in enumerate(names)}
    for file in set(placed.values()):
        save_file({name: tensors[name] for name in names if placed[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    (folder / "model.safetensors").unlink()
    return folder


def walk_of(folder: Path) -> LayerWalk:
    return LayerWalk(empty_model(folder, CPU), text_sets(load(folder)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moments_are_those_of_the_model_in_memory(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = sharded(tiny_folder(tmp_path / "model"), dtype=dtype)
    loaded = load(folder)
    walk = walk_of(folder)
    for expected in stream_moments(loaded, text_sets(loaded)):
        found = walk.walk(expected.index)
        assert tuple(names for names, _ in found.groups) == expected.groups
        for (_, moments), wanted in zip(found.groups, expected.moments, strict=True):
            assert moments.keys() == wanted.keys()
            assert all(torch.equal(moments[key], wanted[key]) for key in wanted)
        assert list(found.weights) == walk.linear_names(expected.index)
        assert all(weight.dtype == dtype for weight in found.weights.values())


def test_a_skipped_layer_leaves_the_texts_where_a_walked_one_does(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "model")
    walked, skipped = walk_of(folder), walk_of(folder)
    walked.walk(0)
    skipped.skip(0)
    for key, flows in walked.flows.items():
        for one, other in zip(flows, skipped.flows[key], strict=True):
            assert torch.equal(one.hidden_BTD, other.hidden_BTD)


def test_no_layer_stays_behind(tmp_path: Path) -> None:
    walk = walk_of(tiny_folder(tmp_path / "model"))
    walk.walk(0)
    walk.skip(1)
    assert all(parameter.is_meta for parameter in walk.model.network.parameters())


def test_many_activations_wait_in_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_folder(tmp_path / "model")
    wide = walk_of(folder).walk(0)
    monkeypatch.setattr(layer_walk, "MOST_WIDE_BYTES", 100)
    walk = walk_of(folder)
    assert {flow.hidden_BTD.dtype for flows in walk.flows.values() for flow in flows} == {torch.bfloat16}
    for (_, one), (_, other) in zip(walk.walk(0).groups, wide.groups, strict=True):
        assert (one["public"] - other["public"]).norm() <= 0.02 * other["public"].norm()


def test_nan_is_named_when_its_layer_is_read(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    clean = tiny_folder(tmp_path / "clean")
    walk = LayerWalk(empty_model(folder, CPU), text_sets(load(clean)))
    walk.walk(0)
    with pytest.raises(NumericalError, match=r"layers\.1\.mlp\.up_proj"):
        walk.walk(1)


def test_rows_are_gathered_in_their_order_from_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sixgig.load import container

    monkeypatch.setattr(container, "SLICE_BYTES", 5 * 24 * 4)
    folder = sharded(tiny_folder(tmp_path / "model"))
    name = "model.embed_tokens.weight"
    reader = TensorReader(folder)
    whole = reader.get(name)
    ids = [200, 3, 0, len(whole) - 1, 4]
    assert torch.equal(reader.gather(name, ids), whole[ids])
    with pytest.raises(IntegrityError, match="lacks rows"):
        reader.gather(name, [0, len(whole)])
    with pytest.raises(IntegrityError, match="missing"):
        reader.gather("model.nothing.weight", [0])
    with pytest.raises(IntegrityError, match="missing"):
        reader.get("model.nothing.weight")
