"""ortho/ as PEFT reads it: U V onto the plain Base, its scale 1 being alpha = 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from artifact_tools import parts, saved
from tiny_model import tiny_folder

from sixgig.errors import InputError, IntegrityError
from sixgig.layers.split_linear import OrthoPart, set_alpha, split_layers
from sixgig.load.artifact import open_split, read_manifest, require_pair, save_split
from sixgig.load.ortho_adapter import adapter_config

# PEFT 0.21 asks transformers 5.23 for a property by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

IDS = torch.arange(5, 25)[None]


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        return network(IDS).logits


def with_adapter(split: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(split / "base", dtype=torch.float32, local_files_only=True)
    return PeftModel.from_pretrained(base, split / "ortho")


@pytest.mark.parametrize("kept", [0, 7])
def test_peft_gives_alpha_1_without_the_sparse_part(tmp_path: Path, kept: int) -> None:
    split, _ = saved(tmp_path, kept=kept)
    opened = open_split(split, fidelity="lora").network
    at_0 = logits(opened)
    set_alpha(opened, 1.0)
    model = with_adapter(split)
    torch.testing.assert_close(logits(model), logits(opened), rtol=0, atol=2e-5)
    assert not torch.allclose(logits(model), at_0, atol=1e-2)
    with model.disable_adapter():
        torch.testing.assert_close(logits(model), at_0, rtol=0, atol=1e-6)


def test_peft_takes_layers_of_different_rank(tmp_path: Path) -> None:
    model = tiny_folder(tmp_path / "model")
    bases, orthos = parts(model, kept=0)
    for number, (name, part) in enumerate(orthos.items()):
        rank = number % 4  # and none at all
        orthos[name] = OrthoPart(up_Or=part.up_Or[:, :rank], down_rI=part.down_rI[:rank])
    split = tmp_path / "split"
    save_split(split, loaded_folder=model, bases=bases, orthos=orthos, manifest={}, factor_bits=16)
    opened = open_split(split).network
    set_alpha(opened, 1.0)
    torch.testing.assert_close(logits(with_adapter(split)), logits(opened), rtol=0, atol=2e-5)


def test_an_adapter_on_every_layer_names_them_as_adapters_do(tmp_path: Path) -> None:
    from sixgig.load.ortho_adapter import ortho_layer

    _, orthos = parts(tiny_folder(tmp_path / "model"))
    config = adapter_config({name: ortho_layer(part) for name, part in orthos.items()})
    assert config["target_modules"] == sorted({name.rpartition(".")[2] for name in orthos})
    assert config["r"] == config["lora_alpha"] == 3


@pytest.mark.parametrize(
    ("factor_bits", "rank", "kept", "fidelities"),
    [
        (16, 3, 0, ["lora"]),
        (16, 3, 7, ["compact", "lora"]),
        (8, 3, 7, ["compact", "lora"]),
        (16, 0, 7, ["compact"]),
    ],
)
def test_the_manifest_names_what_can_be_opened(
    tmp_path: Path, factor_bits: int, rank: int, kept: int, fidelities: list[str]
) -> None:
    split, _ = saved(tmp_path, factor_bits=factor_bits, rank=rank, kept=kept)
    assert read_manifest(split)["fidelities"] == fidelities
    for fidelity in fidelities:
        layers = dict(split_layers(open_split(split, fidelity=fidelity).network))
        assert all((layer.ortho.sparse is not None) == (fidelity == "compact") for layer in layers.values())
    for fidelity in {"exact", "compact", "lora"} - {*fidelities}:
        with pytest.raises(InputError, match="does not hold this fidelity"):
            open_split(split, fidelity=fidelity)


def test_a_pair_that_is_none_is_told_before_peft_sees_it(tmp_path: Path) -> None:
    split, _ = saved(tmp_path / "a")
    other, _ = saved(tmp_path / "b", seed=5)
    require_pair(split / "base", split / "ortho")
    with pytest.raises(IntegrityError, match="another Base"):
        require_pair(split / "base", other / "ortho")
