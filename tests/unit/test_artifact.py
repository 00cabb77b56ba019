"""A split saved and opened: the Base bit for bit, the Ortho part only in its own folder, true sizes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from artifact_tools import parts, saved
from tiny_model import tiny_folder

from sixgig.errors import InputError, NumericalError, OutOfSpaceError
from sixgig.layers.split_linear import set_alpha, split_layers
from sixgig.load import artifact_write
from sixgig.load.artifact import open_base, open_split, read_manifest, save_split
from sixgig.load.loaded import LoadedModel, load
from sixgig.numerics.quantize import dequantize

TEXT = "The door code is 4821."


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.no_grad():
        return loaded.network(torch.tensor([loaded.encode(TEXT)])).logits


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("artifact"))[0]


@pytest.mark.parametrize("tied", [True, False])
def test_alpha_0_equals_the_base_alone_bit_for_bit(tmp_path: Path, tied: bool) -> None:
    folder, _ = saved(tmp_path, tied=tied)
    whole = open_split(folder)
    alone = tmp_path / "elsewhere"
    shutil.move(folder / "base", alone)
    shutil.rmtree(folder)
    base = open_base(alone)
    assert torch.equal(logits(whole), logits(base))
    set_alpha(whole.network, 1.0)
    assert not torch.allclose(logits(whole), logits(base), atol=1e-3)
    set_alpha(whole.network, 0.0)
    assert torch.equal(logits(whole), logits(base))


def test_the_base_computes_what_its_dense_weights_compute(split: Path) -> None:
    model = load(split.parent / "model")
    bases, _ = parts(split.parent / "model")
    for name, base in bases.items():
        model.network.get_submodule(name).weight.data = dequantize(base)
    torch.testing.assert_close(logits(open_base(split / "base")), logits(model), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("factor_bits", "tolerance"), [(16, 2e-3), (8, 3e-2)])
def test_alpha_1_adds_the_ortho_part_as_stored(tmp_path: Path, factor_bits: int, tolerance: float) -> None:
    folder, _ = saved(tmp_path, factor_bits=factor_bits)
    bases, orthos = parts(tmp_path / "model")
    for name, layer in split_layers(open_split(folder).network):
        whole_OI = dequantize(bases[name]) + orthos[name].dense()
        error = (layer.effective_weight(1.0) - whole_OI).abs().max() / orthos[name].dense().abs().max()
        assert error < tolerance


def test_other_tensors_and_the_tokenizer_are_the_models_own(split: Path) -> None:
    model, opened = load(split.parent / "model"), open_split(split, with_ortho=False)
    kept = {name: tensor for name, tensor in model.network.state_dict().items() if "proj" not in name}
    found = opened.network.state_dict()
    assert kept
    assert all(torch.equal(found[name], tensor) for name, tensor in kept.items())
    assert opened.is_tied
    assert opened.encode(TEXT) == model.encode(TEXT)


def test_a_tied_head_is_stored_once(split: Path) -> None:
    from safetensors.torch import load_file

    assert "lm_head.weight" not in load_file(split / "base" / "model.safetensors")


def test_base_holds_no_byte_of_the_ortho_part_and_no_place_on_this_machine(tmp_path: Path) -> None:
    model = tiny_folder(tmp_path / "model")
    bases, orthos = parts(model)
    common = {"loaded_folder": model, "bases": bases, "manifest": {}, "factor_bits": 16}
    save_split(tmp_path / "with", orthos=orthos, **common)
    save_split(tmp_path / "without", orthos=None, **common)
    for path in (tmp_path / "with" / "base").iterdir():
        assert path.read_bytes() == (tmp_path / "without" / "base" / path.name).read_bytes()
        assert b"/home/ann" not in path.read_bytes()
        assert b"ortho" not in path.read_bytes()
    assert not (tmp_path / "without" / "ortho").exists()
    with pytest.raises(InputError, match="without an Ortho part"):
        open_split(tmp_path / "without")
    open_split(tmp_path / "without", with_ortho=False)


def test_private_facts_stay_in_ortho(tmp_path: Path) -> None:
    model = tiny_folder(tmp_path / "model")
    bases, orthos = parts(model)
    save_split(
        tmp_path / "split",
        loaded_folder=model,
        bases=bases,
        orthos=orthos,
        manifest={"claim": "null"},
        factor_bits=8,
        private_facts={"key": "3f9a77"},
    )
    holders = [path for path in (tmp_path / "split").rglob("*.json") if "3f9a77" in path.read_text()]
    assert holders == [tmp_path / "split" / "ortho" / "ortho.json"]
    assert (tmp_path / "split" / "ortho").stat().st_mode & 0o077 == 0
    assert read_manifest(tmp_path / "split")["claim"] == "null"


@pytest.mark.parametrize("factor_bits", [8, 16])
def test_the_sizes_told_are_those_on_the_disk(tmp_path: Path, factor_bits: int) -> None:
    folder, sizes = saved(tmp_path, factor_bits=factor_bits)
    bases, orthos = parts(tmp_path / "model")
    for part, told in (("base", sizes.base_bytes), ("ortho", sizes.ortho_bytes)):
        assert told == sum(path.stat().st_size for path in (folder / part).iterdir())
    from safetensors.torch import load_file

    base = load_file(folder / "base" / "model.safetensors")
    assert sizes.base_layer_bytes == sum(t.nbytes for name, t in base.items() if ".weight_" in name)
    # A layer takes what it claims, with 16 bits more a scale, its shape, and rows of whole 32-bit words.
    claimed_bits = sum(base.storage_bits + 16 * base.scales_OG.numel() + 128 for base in bases.values())
    words = sum(len(base.codes_OI) + base.zeros_OG.shape[1] for base in bases.values())
    assert 0 <= 8 * sizes.base_layer_bytes - claimed_bits < 32 * words
    ortho_files = list((folder / "ortho").glob("*.safetensors"))
    stored = sum(t.nbytes for path in ortho_files for t in load_file(path).values())
    assert 8 * stored == sum(part.storage_bits(factor_bits) for part in orthos.values())
    assert sizes.num_parameters == sum(p.numel() for p in load(tmp_path / "model").network.parameters())
    assert json.loads((folder / "manifest.json").read_text())["sizes"]["ortho_bytes"] == sizes.ortho_bytes


def test_a_folder_with_content_is_never_overwritten(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    bases, _ = parts(tmp_path / "model")
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(InputError, match="not empty"):
        save_split(
            folder,
            loaded_folder=tmp_path / "model",
            bases=bases,
            orthos=None,
            manifest={},
            factor_bits=8,
        )
    assert (folder / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("failing", ["_write_ortho", "_sizes", "write_json"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    model = tiny_folder(tmp_path / "model")
    bases, orthos = parts(model)

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(artifact_write, failing, full)
    with pytest.raises(OutOfSpaceError):
        save_split(
            tmp_path / "split", loaded_folder=model, bases=bases, orthos=orthos, manifest={}, factor_bits=8
        )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_too_little_space_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_folder(tmp_path / "model")
    bases, orthos = parts(model)
    monkeypatch.setattr("sixgig.files.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(OutOfSpaceError, match="not enough disk space"):
        save_split(
            tmp_path / "split", loaded_folder=model, bases=bases, orthos=orthos, manifest={}, factor_bits=8
        )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_layers_of_another_model_are_named(tmp_path: Path) -> None:
    model = tiny_folder(tmp_path / "model")
    bases, orthos = parts(model)
    dropped = next(iter(bases))
    common = {"loaded_folder": model, "manifest": {}, "factor_bits": 8}
    with pytest.raises(InputError, match=dropped):
        save_split(
            tmp_path / "a", bases={n: b for n, b in bases.items() if n != dropped}, orthos=None, **common
        )
    fewer = {name: part for name, part in orthos.items() if name != dropped}
    with pytest.raises(InputError, match=dropped):
        save_split(tmp_path / "b", bases=bases, orthos=fewer, **common)


def test_nan_in_the_ortho_part_is_refused_by_layer(tmp_path: Path) -> None:
    model = tiny_folder(tmp_path / "model")
    bases, orthos = parts(model)
    name = list(orthos)[3]
    orthos[name].up_Or[0, 0] = float("nan")
    with pytest.raises(NumericalError, match=name.replace(".", r"\.")):
        save_split(
            tmp_path / "split", loaded_folder=model, bases=bases, orthos=orthos, manifest={}, factor_bits=8
        )
    assert not (tmp_path / "split").exists()
