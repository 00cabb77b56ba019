"""base/ as others read it: transformers alone gives the same weights, and the library the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from artifact_tools import parts, saved
from packaging.version import Version
from tiny_model import tiny_folder

from sixgig.layers.split_linear import split_layers
from sixgig.load.artifact import open_base, save_split
from sixgig.load.packed_base import base_form, base_layer, encode_base, quantization_config
from sixgig.numerics.quantize import Quantized, centred_codes, dequantize, quantize_rtn

IDS = torch.arange(5, 25)[None]
PLAIN = """
import sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
with torch.no_grad():
    logits = model(torch.arange(5, 25)[None]).logits
assert not any(name.partition(".")[0] == "sixgig" for name in sys.modules)
torch.save({"logits": logits, **{n: p.detach() for n, p in model.named_parameters()}}, sys.argv[3])
"""


def plain(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)


def logits(network: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return network(IDS).logits


def as_loaded(base: Quantized, dtype: torch.dtype) -> torch.Tensor:
    """What transformers makes of a layer: ours; before 5.23, from scales rounded to `dtype`."""
    if Version(transformers.__version__) >= Version("5.23"):
        return dequantize(base, dtype)
    scales_OI = base.scales_OG.to(dtype).repeat_interleave(base.group_size, dim=1)
    return centred_codes(base).to(dtype) * scales_OI[:, : base.codes_OI.shape[1]]


# Widths are 24 and 40: groups of 8 divide both, groups of 16 and 7 leave a shorter one at the end.
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [8, 16, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_alone_loads_the_same_weights(
    tmp_path: Path, bits: int, group_size: int, dtype: torch.dtype
) -> None:
    split, _ = saved(tmp_path, bits=bits, group_size=group_size)
    bases, _ = parts(tmp_path / "model", bits=bits, group_size=group_size)
    network, own = plain(split / "base", dtype), open_base(split / "base", dtype=dtype).network
    for name, base in bases.items():
        assert torch.equal(network.get_submodule(name).weight, as_loaded(base, dtype))
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(logits(network), logits(own), rtol=0, atol=8 * step)


def test_a_process_without_sixgig_gets_the_same_logits(tmp_path: Path) -> None:
    split, _ = saved(tmp_path, tied=False)
    arguments = [str(split / "base"), "float32", str(tmp_path / "out.pt")]
    subprocess.run([sys.executable, "-c", PLAIN, *arguments], check=True, capture_output=True)
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    network = open_base(split / "base").network
    torch.testing.assert_close(found["logits"], logits(network), rtol=0, atol=1e-6)
    for name, layer in split_layers(network):
        assert torch.equal(found[f"{name}.weight"], layer.effective_weight(0.0))


def test_layers_of_several_kinds_load_too(tmp_path: Path) -> None:
    model = tiny_folder(tmp_path / "model")
    bases, _ = parts(model)
    for name, base in bases.items():
        if "down_proj" in name:
            bases[name] = quantize_rtn(dequantize(base), bits=8, group_size=16)
    save_split(tmp_path / "split", loaded_folder=model, bases=bases, orthos=None, manifest={}, factor_bits=16)
    network = plain(tmp_path / "split" / "base", torch.float32)
    own = open_base(tmp_path / "split" / "base").network
    torch.testing.assert_close(logits(network), logits(own), rtol=0, atol=1e-6)
    for name, base in bases.items():
        assert torch.equal(network.get_submodule(name).weight, dequantize(base))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", [(24, 40), (33, 24), (7, 8)])
def test_the_library_writes_the_same_bytes(bits: int, shape: tuple[int, int]) -> None:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    weight_OI = torch.randn(shape, generator=torch.Generator().manual_seed(bits))
    base = quantize_rtn(weight_OI, bits=bits, group_size=8)
    layers = {"layer": base_layer(base)}
    config = QuantizationConfig.model_validate(quantization_config(layers))
    scheme = config.config_groups["group_0"]
    library = BaseCompressor.get_value_from_registry(config.format)
    theirs = library.compress(
        {
            "weight": dequantize(base),
            "weight_scale": base.scales_OG.float(),
            "weight_zero_point": (base.zeros_OG.to(torch.int16) - 2 ** (bits - 1)).to(torch.int8),
        },
        scheme,
    )
    ours = encode_base("layer", base, base_form(layers))
    assert ours.keys() == {f"layer.{name}" for name in theirs}
    for name, tensor in theirs.items():
        assert ours[f"layer.{name}"].dtype == tensor.dtype
        assert torch.equal(ours[f"layer.{name}"], tensor), name


def test_shards_load_as_one_file_does(tmp_path: Path) -> None:
    from sixgig.load.artifact import BaseWriter, layer_forms

    split, _ = saved(tmp_path)
    bases, _ = parts(tmp_path / "model")
    forms = layer_forms(tmp_path / "model", bits=4, group_size=8)
    writer = BaseWriter(tmp_path / "base", tmp_path / "model", forms, shard_bytes=4000)
    for name in reversed(bases):
        writer.add(name, bases[name])
    writer.finish()
    assert len(list((tmp_path / "base").glob("*.safetensors"))) >= 5
    index = json.loads((tmp_path / "base" / "model.safetensors.index.json").read_text())
    assert {path.name for path in (tmp_path / "base").glob("*.safetensors")} == {
        *index["weight_map"].values()
    }
    whole = logits(open_base(split / "base").network)
    assert torch.equal(logits(open_base(tmp_path / "base").network), whole)
    torch.testing.assert_close(logits(plain(tmp_path / "base", torch.float32)), whole, rtol=0, atol=1e-6)


def test_the_writer_wants_each_layer_once_and_in_its_form(tmp_path: Path) -> None:
    from sixgig.errors import InputError
    from sixgig.load.artifact import BaseWriter, layer_forms

    model = tiny_folder(tmp_path / "model")
    bases, _ = parts(model)
    first, second = list(bases)[:2]
    forms = layer_forms(model, bits=4, group_size=8)
    with pytest.raises(InputError, match="not of this model"):
        BaseWriter(tmp_path / "a", model, {first: forms[first]})
    writer = BaseWriter(tmp_path / "b", model, forms)
    writer.add(first, bases[first])
    with pytest.raises(InputError, match="each layer once"):
        writer.add(first, bases[first])
    with pytest.raises(InputError, match=second.replace(".", r"\.")):
        writer.add(second, replace(bases[second], bits=8))
    with pytest.raises(InputError, match=f"{len(bases) - 1} are missing"):
        writer.finish()
    assert not (tmp_path / "b" / "base.json").exists()
