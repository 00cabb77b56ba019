"""What an opened split must refuse: damage of every kind, by name, and folders made to do harm."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from artifact_tools import edit, saved, sign_again
from safetensors.torch import load_file, save_file

from sixgig.errors import IntegrityError, NumericalError, SixgigError
from sixgig.load.artifact import attach_ortho, open_base, open_split


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("refusals"))[0]


@pytest.fixture
def split(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "split"))


def every_file(split: Path) -> list[Path]:
    return sorted(path for path in split.rglob("*") if path.is_file())


def change_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_the_copy_itself_opens(split: Path) -> None:
    open_split(split)
    sign_again(split)
    open_split(split)


@pytest.mark.parametrize("harm", ["flip", "truncate", "lengthen", "remove"])
def test_every_damaged_file_is_named(original: Path, tmp_path: Path, harm: str) -> None:
    for number, path in enumerate(every_file(original)):
        split = Path(shutil.copytree(original, tmp_path / str(number)))
        victim = split / path.relative_to(original)
        content = victim.read_bytes()
        if harm == "flip":
            middle = len(content) // 2
            victim.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        elif harm == "truncate":
            victim.write_bytes(content[:-1])
        elif harm == "lengthen":
            victim.write_bytes(content + b" ")
        else:
            victim.unlink()
        if victim.name == "manifest.json" and harm in ("flip", "lengthen", "truncate"):
            continue  # nothing signs the manifest itself; a change that leaves it valid JSON may pass
        with pytest.raises(IntegrityError, match=victim.name.replace(".", r"\.")):
            open_split(split)


def test_the_base_alone_checks_its_own_files(split: Path) -> None:
    path = split / "base" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"altered file: model\.safetensors"):
        open_base(split / "base")


def test_the_ortho_part_of_another_base_is_refused(split: Path, tmp_path: Path) -> None:
    other, _ = saved(tmp_path / "other", seed=5)
    with pytest.raises(IntegrityError, match="another Base"):
        attach_ortho(open_base(split / "base"), other / "ortho")
    shutil.rmtree(split / "ortho")
    shutil.copytree(other / "ortho", split / "ortho")
    with pytest.raises(IntegrityError):
        open_split(split)
    open_split(split, with_ortho=False)


def test_ortho_may_be_absent_only_when_it_is_not_asked_for(split: Path) -> None:
    shutil.rmtree(split / "ortho")
    open_split(split, with_ortho=False)
    with pytest.raises(IntegrityError, match="ortho/"):
        open_split(split)


@pytest.mark.parametrize("name", ["manifest.json", "base/base.json", "ortho/ortho.json"])
@pytest.mark.parametrize("schema", ["sixgig.base/1", "sixgig.split/1", "sixgig.ortho/1", "other", 7, None])
def test_a_foreign_schema_is_refused(split: Path, name: str, schema: object) -> None:
    path = split / name
    content = json.loads(path.read_text())
    sign_again(split)
    path.write_text(json.dumps({**content, "schema": schema}))
    with pytest.raises(IntegrityError):
        open_split(split)


def test_a_folder_that_is_no_split_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="not a split"):
        open_split(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "base/model.safetensors",
        "base/tokenizer.json",
        "ortho/adapter_model.safetensors",
        "ortho/sparse.safetensors",
    ],
)
def test_links_are_refused(split: Path, tmp_path: Path, name: str) -> None:
    path = split / name
    shutil.move(path, tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    with pytest.raises(IntegrityError, match="not a regular file"):
        open_split(split)


def test_linked_folders_are_refused(split: Path, tmp_path: Path) -> None:
    shutil.move(split / "base", tmp_path / "outside")
    (split / "base").symlink_to(tmp_path / "outside")
    with pytest.raises(IntegrityError, match="base/"):
        open_split(split)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_refused_and_not_waited_for(split: Path) -> None:
    (split / "base" / "config.json").unlink()
    os.mkfifo(split / "base" / "config.json")
    with pytest.raises(IntegrityError, match="not a regular file"):
        open_split(split)


def test_a_listed_name_cannot_leave_the_folder(split: Path) -> None:
    listing = split / "base" / "base.json"
    files = json.loads(listing.read_text())["files"]
    edit(listing, files={**files, "../../model/config.json": {"num_bytes": 1, "sha256": "0"}})
    with pytest.raises(IntegrityError, match="leaves its folder"):
        open_base(split / "base")


def test_a_file_that_no_list_names_is_refused_but_a_readme_is_not(split: Path) -> None:
    (split / "base" / "README.md").write_text("about this model")
    open_split(split)
    (split / "base" / "added_tokens.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"added_tokens\.json"):
        open_split(split)


# ---- folders whose digests are all true -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_config_that_brings_code_is_refused(split: Path, name: str) -> None:
    edit(split / "base" / name, auto_map={"AutoModelForCausalLM": "evil.Model"})
    sign_again(split)
    with pytest.raises(SixgigError, match="auto_map"):
        open_split(split)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["EvilForCausalLM"]}, "architecture"),
        ({"architectures": ["MistralForCausalLM"]}, "contradicts"),
        (
            {"architectures": ["OlmoeForCausalLM"], "model_type": "olmoe"}
            | {"num_experts": 4, "num_experts_per_tok": 2},
            "architecture of a split model",
        ),
        ({"attention_bias": True}, "missing"),
        ({"model_type": "mixtral"}, "contradicts"),
        ({"model_type": None}, "contradicts itself"),
        ({"vocab_size": 2**30}, "larger model"),
        ({"num_hidden_layers": 2**30}, "larger model"),
        ({"hidden_size": -1}, "hidden_size"),
        ({"intermediate_size": 80}, "different layers"),
        ({"num_hidden_layers": 1}, "different layers"),
        ({"vocab_size": 200}, "embed_tokens"),
        ({"quantization_config": None}, "not the config of a Base"),
    ],
)
def test_a_config_of_another_model_is_refused(split: Path, changes: dict, words: str) -> None:
    edit(split / "base" / "config.json", **changes)
    sign_again(split)
    with pytest.raises(SixgigError, match=words):
        open_split(split)


def layer_tensor(tensors: dict[str, torch.Tensor], ending: str) -> str:
    return sorted(name for name in tensors if name.endswith(ending))[0]


def _drop(ending: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[layer_tensor(tensors, ending)]

    return change


def _reshape(ending: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        name = layer_tensor(tensors, ending)
        tensors[name] = tensors[name][:-1].clone()

    return change


def _fill(ending: str, value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[layer_tensor(tensors, ending)].view(-1)[-1] = value

    return change


def _retype(ending: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        name = layer_tensor(tensors, ending)
        tensors[name] = tensors[name].to(torch.float32)

    return change


def _crowd(tensors: dict[str, torch.Tensor]) -> None:
    """All entries of a sparse part in one place."""
    columns = tensors[layer_tensor(tensors, ".columns")]
    columns.copy_(torch.full_like(columns, 3))
    tensors[layer_tensor(tensors, ".row_offsets")][1:] = len(columns)


BASE, ADAPTER, SPARSE = (
    "base/model.safetensors",
    "ortho/adapter_model.safetensors",
    "ortho/sparse.safetensors",
)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (BASE, _drop(".weight_packed")),
        (BASE, _drop("norm.weight")),
        (BASE, _reshape(".weight_scale")),
        (BASE, _reshape(".weight_zero_point")),
        (BASE, _retype(".weight_packed")),
        (BASE, _fill(".weight_scale", 0.0)),
        (BASE, _fill(".weight_scale", 1.0001)),  # more digits than 16 bits have
        (BASE, _fill(".weight_shape", 25)),
        (ADAPTER, _drop("lora_B.weight")),
        (ADAPTER, _reshape("lora_A.weight")),
        (ADAPTER, _retype("lora_B.weight")),
        (SPARSE, _drop(".values")),
        (SPARSE, _fill(".row_offsets", 99)),
        (SPARSE, _fill(".row_offsets", -1)),
        (SPARSE, _fill(".columns", 60000)),
        (SPARSE, _crowd),
    ],
)
def test_tensors_of_another_form_are_refused(
    split: Path, name: str, change: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    change_tensors(split / name, change)
    sign_again(split)
    with pytest.raises(IntegrityError):
        open_split(split)


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        (BASE, "norm.weight"),
        (BASE, ".weight_scale"),
        (BASE, "embed_tokens.weight"),
        (ADAPTER, "lora_A.weight"),
        (SPARSE, ".values"),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_named_by_tensor(split: Path, name: str, ending: str, value: float) -> None:
    change_tensors(split / name, _fill(ending, value))
    sign_again(split)
    with pytest.raises(NumericalError, match=ending.replace(".", r"\.")):
        open_split(split)


@pytest.mark.parametrize("change", [_drop(".up"), _reshape(".down"), _retype(".up")])
def test_eight_bit_factors_of_another_form_are_refused(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    split, _ = saved(tmp_path, factor_bits=8)
    change_tensors(split / "ortho" / "factors.safetensors", change)
    sign_again(split)
    with pytest.raises(IntegrityError):
        open_split(split)


def test_nan_in_a_factor_scale_is_named(tmp_path: Path) -> None:
    split, _ = saved(tmp_path, factor_bits=8)
    change_tensors(split / "ortho" / "factors.safetensors", _fill(".up_scales", float("nan")))
    sign_again(split)
    with pytest.raises(NumericalError, match=r"\.up_scales"):
        open_split(split)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_zero_point_out_of_range_is_refused(tmp_path: Path, bits: int) -> None:
    split, _ = saved(tmp_path, bits=bits, group_size=7)
    change_tensors(split / BASE, _fill(".weight_zero_point", 2 ** (bits - 1)))
    sign_again(split)
    with pytest.raises(IntegrityError, match="zero point"):
        open_split(split)


@pytest.mark.parametrize(
    "changes",
    [
        {"quant_method": "sixgig"},
        {"dequantize": False},
        {"ignore": []},
        {"format": "dense"},
        {"config_groups": {}},
    ],
)
def test_a_config_that_says_other_numbers_than_the_list_is_refused(split: Path, changes: dict) -> None:
    path = split / "base" / "config.json"
    said = json.loads(path.read_text())["quantization_config"]
    edit(path, quantization_config={**said, **changes})
    sign_again(split)
    with pytest.raises(IntegrityError, match="not the config of a Base"):
        open_base(split / "base")


@pytest.mark.parametrize("changes", [{"lora_alpha": 4}, {"r": 2}, {"target_modules": ["q_proj"]}])
def test_an_adapter_config_that_says_another_alpha_is_refused(split: Path, changes: dict) -> None:
    edit(split / "ortho" / "adapter_config.json", **changes)
    sign_again(split)
    with pytest.raises(IntegrityError, match=r"adapter_config\.json"):
        open_split(split)


@pytest.mark.parametrize(
    ("part", "layer"),
    [
        ("base", {"bits": 5}),
        ("base", {"group_size": 0}),
        ("base", {"num_in": 2**40}),
        ("base", {"num_out": "24"}),
        ("base", {"bits": True}),
        ("ortho", {"rank": -1}),
        ("ortho", {"rank": 2**30}),
        ("ortho", {"num_kept": 1.5}),
    ],
)
def test_impossible_forms_of_a_layer_are_refused(split: Path, part: str, layer: dict) -> None:
    path = split / part / f"{part}.json"
    layers = json.loads(path.read_text())["layers"]
    name = next(iter(layers))
    edit(path, layers={**layers, name: {**layers[name], **layer}})
    sign_again(split)
    with pytest.raises(IntegrityError, match="form"):
        open_split(split)


def test_a_file_that_is_no_safetensors_is_refused(split: Path) -> None:
    (split / "ortho" / "sparse.safetensors").write_bytes(b"\x80\x04pickle")
    sign_again(split)
    with pytest.raises(IntegrityError, match="not a safetensors file"):
        open_split(split)
