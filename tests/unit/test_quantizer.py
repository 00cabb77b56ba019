"""`import sixgig.integrations`: transformers opens a whole split; without it, it refuses one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from artifact_tools import saved

import sixgig.integrations
from sixgig.errors import InputError, IntegrityError
from sixgig.layers.split_linear import set_alpha, split_layers
from sixgig.load.artifact import open_split

IDS = torch.arange(5, 25)[None]
PLAIN = "import sys, transformers; transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])"


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        return network(IDS).logits


def opened(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True, **options)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("quantizer"))[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_the_whole_split_opens_with_its_switch(tmp_path: Path, dtype: torch.dtype, tied: bool) -> None:
    split, _ = saved(tmp_path, tied=tied)
    model, own = opened(split, dtype), open_split(split, dtype=dtype).network
    for alpha in (0.0, 1.0, 0.5):
        model.set_alpha(alpha)
        set_alpha(own, alpha)
        assert torch.equal(logits(model), logits(own)), alpha
    for (name, layer), (_, expected) in zip(split_layers(model), split_layers(own), strict=True):
        assert torch.equal(layer.effective_weight(1.0), expected.effective_weight(1.0)), name


def test_groups_that_divide_no_row_open_too(tmp_path: Path) -> None:
    split, _ = saved(tmp_path, bits=3, group_size=7, factor_bits=8)
    assert torch.equal(logits(opened(split)), logits(open_split(split).network))


def test_without_ortho_it_is_the_base_alone(split: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(split, tmp_path / "split"))
    shutil.rmtree(alone / "ortho")
    model = opened(alone)
    assert torch.equal(logits(model), logits(open_split(split).network))
    with pytest.raises(InputError, match="only the Base is here"):
        model.set_alpha(1.0)


def test_transformers_alone_refuses_a_whole_split(split: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PLAIN, str(split)], capture_output=True, text=True)
    assert done.returncode != 0
    assert "no file named model.safetensors" in done.stderr


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "split.safetensors.index.json",
        "base/model.safetensors",
        "base/base.json",
        "ortho/adapter_model.safetensors",
    ],
)
def test_damage_is_named_before_anything_is_loaded(split: Path, tmp_path: Path, name: str) -> None:
    damaged = Path(shutil.copytree(split, tmp_path / "split"))
    content = (damaged / name).read_bytes()
    (damaged / name).write_bytes(content + b" ")  # still JSON, still safetensors to a careless reader
    with pytest.raises(IntegrityError, match=Path(name).name.replace(".", r"\.")):
        opened(damaged)


def test_the_ortho_part_of_another_base_is_refused(split: Path, tmp_path: Path) -> None:
    mixed = Path(shutil.copytree(split, tmp_path / "split"))
    other, _ = saved(tmp_path / "other", seed=5)
    shutil.rmtree(mixed / "ortho")
    shutil.copytree(other / "ortho", mixed / "ortho")
    with pytest.raises(IntegrityError):
        opened(mixed)


def test_loading_allocates_for_what_is_stored(split: Path) -> None:
    """What transformers would ask of a GPU at once: the packed layers, and nothing dense beside them."""
    from accelerate import init_empty_weights
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_utils import get_total_byte_count

    quantizer = sixgig.integrations.SplitQuantizer(sixgig.integrations.SplitConfig())
    config = AutoConfig.from_pretrained(split)
    del config.quantization_config
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config)
    file = split / "base" / "model.safetensors"
    quantizer.preprocess_model(model, checkpoint_files=[str(file)])
    device = torch.device("cuda")
    names = {name: device for name, _ in model.named_parameters()}
    stored_bytes = sum(tensor.nbytes for tensor in load_file(file).values())
    assert get_total_byte_count(model, names, quantizer)[device] == stored_bytes


def test_it_says_that_it_cannot_be_saved_again(split: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not serializable"):
        opened(split).save_pretrained(tmp_path / "again")
