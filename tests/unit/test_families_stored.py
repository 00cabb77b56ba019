"""Every architecture that is split, written and opened again: by sixgig, by transformers alone, as GGUF."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from artifact_tools import parts
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from test_families import exact_parts
from test_gguf_export import with_a_merge
from test_split_stream import INPUTS, PUBLIC, RECORDS
from tiny_families import BIASED, FAMILIES, family_folder
from tiny_model import altered_linears

import sixgig.integrations
from sixgig.errors import InputError
from sixgig.integrations.gguf_blocks import turned
from sixgig.integrations.gguf_export import export_base
from sixgig.layers.split_linear import set_alpha, split_layers
from sixgig.load.artifact import open_base, open_split, save_split
from sixgig.load.container import ModelTensors
from sixgig.load.loaded import linear_layers, load
from sixgig.numerics.quantize import Quantized
from sixgig.transform.rounding import QuantizeConfig
from sixgig.transform.same_elsewhere import require_same_elsewhere
from sixgig.transform.sieve import make_sieve
from sixgig.transform.split_model import SplitSettings, split_model
from sixgig.transform.split_stream import split_streamed
from sixgig.transform.split_work import SplitWork

CPU = torch.device("cpu")
IDS = torch.arange(5, 45)[None]  # longer than the windows
EVERY = pytest.mark.parametrize("name", FAMILIES)
Place = Callable[[str], Path]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Family -> a folder with the model `original`, and `tuned`, another after a pretended fine-tuning."""
    root = tmp_path_factory.mktemp("stored")

    def made(name: str) -> Path:
        altered_linears(family_folder(root / name / "original", name), root / name / "tuned")
        return root / name

    return cache(made)


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        return network(IDS).logits


def save_base(source: Path, folder: Path) -> dict[str, Quantized]:
    """`folder`/base of the model in `source`, rounded."""
    bases, _ = parts(source)
    save_split(folder, loaded_folder=source, bases=bases, orthos=None, manifest={}, factor_bits=16)
    return bases


def opened_by_transformers(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)


@EVERY
def test_a_stored_split_opens_everywhere_as_the_same_model(name: str, place: Place, tmp_path: Path) -> None:
    source = place(name) / "original"
    model = load(source)
    whole, made = logits(model.network), exact_parts(model)
    save_split(
        tmp_path / "split",
        loaded_folder=source,
        bases={layer: part.base for layer, part in made.items()},
        orthos={layer: part.ortho for layer, part in made.items()},
        manifest={},
        factor_bits=16,
    )
    own = open_split(tmp_path / "split").network
    base = logits(own)
    torch.testing.assert_close(logits(open_base(tmp_path / "split" / "base").network), base, rtol=0, atol=0)
    torch.testing.assert_close(
        logits(opened_by_transformers(tmp_path / "split" / "base")), base, rtol=1e-4, atol=1e-4
    )
    set_alpha(own, 1.0)
    at_one = logits(own)
    assert (at_one - whole).norm() < 0.01 * whole.norm()  # S is kept in fp16
    assert (base - whole).norm() > 0.05 * whole.norm()
    assert sixgig.integrations is not None  # registers the whole split with transformers
    plugged = opened_by_transformers(tmp_path / "split")
    assert torch.equal(logits(plugged), base)
    plugged.set_alpha(1.0)
    assert torch.equal(logits(plugged), at_one)


@pytest.mark.parametrize("name", BIASED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_biases_lie_in_the_base_in_the_type_that_they_have(
    name: str, dtype: torch.dtype, place: Place, tmp_path: Path
) -> None:
    source = place(name) / "original"
    tensors = {key: tensor.to(dtype) for key, tensor in load_file(source / "model.safetensors").items()}
    narrow = altered_linears(source, tmp_path / "narrow")
    save_file(tensors, narrow / "model.safetensors", metadata={"format": "pt"})
    bases = save_base(narrow, tmp_path / "split")
    stored = ModelTensors(tmp_path / "split" / "base")
    biases = [key for key in tensors if key.endswith(".bias")]
    assert {f"{layer}.bias" for layer in bases} & set(biases)
    for key in biases:
        assert stored.dtype(key) == dtype
        assert torch.equal(stored.get(key), tensors[key])


@pytest.mark.parametrize("name", BIASED)
def test_a_tuning_that_moved_a_bias_is_refused_by_name(name: str, place: Place, tmp_path: Path) -> None:
    moved = altered_linears(place(name) / "original", tmp_path / "moved")
    tensors = load_file(moved / "model.safetensors")
    key = "model.layers.1.self_attn.k_proj.bias"
    tensors[key][0] += 0.25
    save_file(tensors, moved / "model.safetensors", metadata={"format": "pt"})
    names = list(linear_layers(load(moved).network))
    before = ModelTensors(place(name) / "original")
    require_same_elsewhere(ModelTensors(place(name) / "tuned"), before, names)
    with pytest.raises(InputError, match="1 tensors outside the split layers differ") as caught:
        require_same_elsewhere(ModelTensors(moved), before, names)
    assert caught.value.received == key


@EVERY
def test_split_from_disk_is_the_split_in_memory(name: str, place: Place, tmp_path: Path) -> None:
    settings = SplitSettings(window_tokens=32, num_calibration_windows=2, fit_steps=0)
    quantize = QuantizeConfig(group_size=8)
    folder, before = place(name) / "tuned", place(name) / "original"
    common: dict[str, Any] = {"quantize": quantize, "rank": 2, "settings": settings, "seed": 0}
    expected = split_model(
        load(folder), make_sieve("wiener"), RECORDS, PUBLIC, before=ModelTensors(before), **common
    )
    with SplitWork(tmp_path / "work", CPU) as work:
        work.begin(INPUTS, {})
        found = split_streamed(
            folder,
            make_sieve("wiener"),
            RECORDS,
            PUBLIC,
            before_folder=before,
            device=CPU,
            work=work,
            **common,
        )
        assert found is not None
        streamed = {layer: base for layer, base, _ in found.parts}
    assert list(streamed) == list(expected.layers)
    for layer, split in expected.layers.items():
        # Two solvers make the filter, so a weight on the edge between two codes may fall to either side.
        differing = (streamed[layer].codes_OI != split.base.codes_OI).float().mean()
        assert differing < 0.01, layer


@pytest.mark.parametrize("name", ["qwen2", "llama-biased"])
def test_gguf_has_every_bias_turned_as_its_rows_are(name: str, tmp_path: Path) -> None:
    source = with_a_merge(family_folder(tmp_path / "model", name))
    save_base(source, tmp_path / "split")
    export_base(tmp_path / "split" / "base", tmp_path / "out.gguf", weights="f32")
    stored = GGUFReader(tmp_path / "out.gguf").tensors
    found = {tensor.name: torch.tensor(tensor.data.copy()) for tensor in stored}
    tensors = load_file(source / "model.safetensors")
    roles = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    roles |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    biases = [key for key in tensors if key.endswith(".bias")]
    assert biases
    for key in biases:
        layer, leaf = key.split(".")[2], key.split(".")[4]
        bias = tensors[key]
        if name.startswith("llama") and leaf in ("q_proj", "k_proj"):
            straight, bias = bias, turned(bias, 4 if leaf == "q_proj" else 2)
            assert not torch.equal(straight, bias)
        assert torch.equal(found[f"blk.{layer}.{roles[leaf]}.bias"], bias)


@pytest.mark.parametrize("name", ["mistral", "qwen3", "phi", "gemma3"])
def test_gguf_refuses_what_it_has_not_been_taught(name: str, place: Place, tmp_path: Path) -> None:
    save_base(place(name) / "original", tmp_path / "split")
    with pytest.raises(InputError, match="GGUF export does not know this architecture"):
        export_base(tmp_path / "split" / "base", tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()
    assert list(split_layers(open_base(tmp_path / "split" / "base").network))
