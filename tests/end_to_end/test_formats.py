"""The real model's Base as others read it: compressed-tensors by transformers alone, and GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sixgig.catalogue import EMBEDDED
from sixgig.integrations.gguf_export import export_base
from sixgig.load.artifact import open_base, save_split
from sixgig.load.container import ModelTensors
from sixgig.load.fetch import is_fetched, model_folder
from sixgig.load.loaded import LoadedModel, linear_layers, load
from sixgig.numerics.quantize import quantize_rtn

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(not is_fetched(EMBEDDED), reason=f"needs the model: sixgig fetch {EMBEDDED}"),
]
TEXT = "The lighthouse keeper wrote 4821 lines in 1897, and its café closed at nine. "


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A round-to-nearest Base of 4 bits in groups of 64."""
    source, folder = model_folder(EMBEDDED), tmp_path_factory.mktemp("formats")
    tensors = ModelTensors(source)
    names = linear_layers(load(source).network)
    bases = {n: quantize_rtn(tensors.get(f"{n}.weight"), bits=4, group_size=64) for n in names}
    save_split(folder / "split", loaded_folder=source, bases=bases, orthos=None, manifest={}, factor_bits=16)
    return folder / "split" / "base"


def logits(network: Any, own: LoadedModel) -> torch.Tensor:
    with torch.no_grad():
        return network(torch.tensor([own.encode(TEXT)])).logits.float()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.5)])
def test_transformers_alone_gives_the_bases_logits(base: Path, dtype: torch.dtype, tolerance: float) -> None:
    from transformers import AutoModelForCausalLM

    own = open_base(base, dtype=dtype)
    expected = logits(own.network, own)
    found = logits(AutoModelForCausalLM.from_pretrained(base, dtype=dtype, local_files_only=True), own)
    print(f"{dtype}: largest difference {(found - expected).abs().max():.2e} of {expected.abs().max():.1f}")
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("weights", "tolerance"), [("auto", 1e-3), ("q4_1", 0.5)])
def test_gguf_gives_the_bases_logits_and_tokens(
    base: Path, tmp_path: Path, weights: str, tolerance: float
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    own = open_base(base)
    told = export_base(base, tmp_path / "base.gguf", weights=weights)
    assert told.is_exact == (weights == "auto")
    place = {"gguf_file": "base.gguf", "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path), **place)
    assert tokenizer(TEXT, add_special_tokens=False)["input_ids"] == own.encode(TEXT)
    model = AutoModelForCausalLM.from_pretrained(
        str(tmp_path), dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **place
    )
    found, expected = logits(model, own), logits(own.network, own)
    print(f"{weights}: largest difference {(found - expected).abs().max():.2e}, {told.num_bytes} bytes")
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
