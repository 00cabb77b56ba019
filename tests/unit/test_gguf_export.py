"""GGUF: blocks against gguf's own reader, the Base opened by transformers, the adapter read and applied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from artifact_tools import parts, saved
from gguf import GGUFReader, GGUFWriter
from gguf.quants import dequantize as read_blocks
from tiny_model import tiny_folder

from sixgig.cli.main import run
from sixgig.errors import InputError, IntegrityError
from sixgig.integrations.gguf_blocks import choose_kind, encode, stored_shape, turned
from sixgig.integrations.gguf_export import export_adapter, export_base
from sixgig.integrations.gguf_tokenizer import add_tokenizer
from sixgig.layers.split_linear import set_alpha, split_layers
from sixgig.load.artifact import open_base, open_split, save_split
from sixgig.load.packed_base import BaseLayer, base_layer
from sixgig.numerics.quantize import dequantize, quantize_rtn

TEXT = "The door code is 4821."


def with_a_merge(model: Path) -> Path:
    """The tokenizer merges T and h, in the place of a byte that no text has."""
    content = json.loads((model / "tokenizer.json").read_text())
    content["model"]["vocab"]["Th"] = content["model"]["vocab"].pop("\u0143")
    content["model"]["merges"] = [["T", "h"]]
    (model / "tokenizer.json").write_text(json.dumps(content))
    return model


def split_with_merges(folder: Path, *, tied: bool = True) -> Path:
    """A split of the tiny model whose tokenizer merges T and h."""
    model = with_a_merge(tiny_folder(folder / "model", tied=tied))
    bases, orthos = parts(model)
    save_split(folder / "split", loaded_folder=model, bases=bases, orthos=orthos, manifest={}, factor_bits=16)
    return folder / "split"


def quantized(bits: int, group_size: int, num_in: int = 128) -> Any:
    weight_OI = torch.randn(5, num_in, generator=torch.Generator().manual_seed(bits))
    return quantize_rtn(weight_OI, bits=bits, group_size=group_size)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("group_size", [32, 64, 96])
@pytest.mark.parametrize(
    ("kind", "tolerance"), [("q8_0", 0.0), ("q4_1", 0.004), ("f16", 0.004), ("f32", 0.0)]
)
def test_blocks_hold_the_base(bits: int, group_size: int, kind: str, tolerance: float) -> None:
    base = quantized(bits, group_size)
    stored, raw = encode(base, kind)
    assert (stored.shape, stored.dtype) == stored_shape(base_layer(base), kind)
    found = torch.tensor(np.array(read_blocks(stored, raw)))
    # In steps of the group's scale: a weight lies on whole ones.
    steps = (found - dequantize(base)).abs() / base.scales_OG.float().repeat_interleave(group_size, 1)[
        :, :128
    ]
    assert steps.max() <= tolerance


def test_a_kind_that_cannot_hold_a_base_is_refused() -> None:
    layers = {
        "even": BaseLayer(num_out=8, num_in=64, bits=4, group_size=32),
        "wide": BaseLayer(num_out=8, num_in=64, bits=8, group_size=32),
        "odd": BaseLayer(num_out=8, num_in=64, bits=4, group_size=24),
    }
    assert choose_kind("auto", {"even": layers["even"]}) == "q8_0"
    assert choose_kind("auto", layers) == "f16"
    for name, words in (("wide", "8 bits"), ("odd", "whole blocks")):
        with pytest.raises(InputError, match=words):
            choose_kind("q4_1", {name: layers[name]})
    with pytest.raises(InputError, match="unknown kind"):
        choose_kind("q5", layers)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("weights", "tolerance"), [("f32", 1e-6), ("auto", 1e-3)])
def test_transformers_opens_the_base_again(
    tmp_path: Path, tied: bool, weights: str, tolerance: float
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    split = split_with_merges(tmp_path, tied=tied)
    told = export_base(split / "base", tmp_path / "base.gguf", weights=weights)
    assert told.is_exact == (weights == "f32")
    assert told.num_bytes == (tmp_path / "base.gguf").stat().st_size
    own = open_base(split / "base")
    place = {"gguf_file": "base.gguf", "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(str(tmp_path), dtype=torch.float32, **place)
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path), **place)
    ids = own.encode(TEXT)
    assert tokenizer(TEXT, add_special_tokens=False)["input_ids"] == ids
    assert tokenizer.chat_template == own.tokenizer.chat_template
    with torch.no_grad():
        found, expected = model(torch.tensor([ids])).logits, own.network(torch.tensor([ids])).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def test_the_adapter_adds_what_alpha_1_adds(tmp_path: Path) -> None:
    split, _ = saved(tmp_path)
    export_adapter(split / "base", split / "ortho", tmp_path / "adapter.gguf")
    reader = GGUFReader(tmp_path / "adapter.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.type"] == "adapter"
    assert fields["general.architecture"] == "llama"
    assert fields["adapter.type"] == "lora"
    tensors = {tensor.name: torch.tensor(np.array(tensor.data)) for tensor in reader.tensors}
    own = open_split(split, fidelity="lora").network
    set_alpha(own, 1.0)
    layers = dict(split_layers(own))
    assert len(tensors) == 2 * len(layers)
    heads = {"attn_q": 4, "attn_k": 2}
    for hf, gguf in (
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("mlp.up_proj", "ffn_up"),
    ):
        name = f"blk.1.{gguf}.weight"
        scale = fields["adapter.lora.alpha"] / len(tensors[f"{name}.lora_a"])
        product_OI = scale * tensors[f"{name}.lora_b"] @ tensors[f"{name}.lora_a"]
        part = layers[f"model.layers.1.{hf}"].ortho
        assert part is not None
        expected_OI = part.dense()
        expected_OI = turned(expected_OI, heads[gguf]) if gguf in heads else expected_OI
        torch.testing.assert_close(product_OI, expected_OI, rtol=0, atol=1e-5)


def test_turned_rows_are_those_transformers_turns_back() -> None:
    from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

    weight_OI = torch.randn(24, 7)
    back = LlamaTensorProcessor()._reverse_permute_weights(turned(weight_OI, 4).numpy(), 4, 4)
    assert np.array_equal(back, weight_OI.numpy())


def test_a_file_that_does_not_come_back_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = split_with_merges(tmp_path)

    class Forgetful(GGUFReader):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self.tensors = self.tensors[1:]

    monkeypatch.setattr("gguf.GGUFReader", Forgetful)
    with pytest.raises(IntegrityError, match="did not come back"):
        export_base(split / "base", tmp_path / "base.gguf")
    assert not list(tmp_path.glob("*base.gguf*"))


def test_what_gguf_cannot_say_is_refused(tmp_path: Path) -> None:
    split, _ = saved(tmp_path, rank=0)
    with pytest.raises(InputError, match="no low-rank factors"):
        export_adapter(split / "base", split / "ortho", tmp_path / "adapter.gguf")
    (tmp_path / "there.gguf").write_bytes(b"kept")
    split = split_with_merges(tmp_path / "other")
    with pytest.raises(InputError, match="there already"):
        export_base(split / "base", tmp_path / "there.gguf")
    assert (tmp_path / "there.gguf").read_bytes() == b"kept"


@pytest.mark.parametrize("changes", [{"pre_tokenizer": {"type": "Whitespace"}}, {"pre_tokenizer": None}])
def test_a_tokenizer_without_a_name_in_gguf_is_refused(tmp_path: Path, changes: dict) -> None:
    base = split_with_merges(tmp_path) / "base"
    content = json.loads((base / "tokenizer.json").read_text())
    (base / "tokenizer.json").write_text(json.dumps({**content, **changes}))
    with pytest.raises(InputError, match="cuts text"):
        add_tokenizer(GGUFWriter(None, "llama"), base, 258)


@pytest.mark.parametrize("line", [["--what", "ortho"], ["--what", "adapter", "--weights", "f16"]])
def test_the_command_refuses_what_it_cannot_do(tmp_path: Path, line: list[str]) -> None:
    assert run(["export", str(tmp_path), "--gguf", str(tmp_path / "x.gguf"), *line]) == 2


def test_the_command_writes_both_parts(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    split = split_with_merges(tmp_path)
    for what in ("base", "adapter"):
        out = tmp_path / f"{what}.gguf"
        assert run(["export", str(split), "--gguf", str(out), "--what", what, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["what"] == what
        assert told["num_bytes"] == out.stat().st_size
        assert told["num_tensors"] == len(GGUFReader(out).tensors)
    assert run(["export", str(split / "base"), "--gguf", str(tmp_path / "b.gguf"), "--what", "adapter"]) == 2
    assert "a Base alone has no adapter" in capsys.readouterr().err
