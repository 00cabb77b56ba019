"""Loading from a folder: whole, frozen, finite; and which layers are split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fakes import fake_loaded
from safetensors.torch import load_file, save_file
from tiny_model import tiny_folder

from sixgig.errors import IntegrityError, NumericalError
from sixgig.load.loaded import check_finite, linear_layers, load

Tensors = dict[str, torch.Tensor]
VICTIM = "model.layers.1.mlp.down_proj.weight"


def rewritten(folder: Path, change: Callable[[Tensors], object]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def spoil(value: float) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[VICTIM][0, 3] = value

    return change


def test_a_folder_loads_frozen_with_exactly_its_weights(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path)
    loaded = load(folder)
    stored = load_file(folder / "model.safetensors")
    held = loaded.network.state_dict()
    assert all(torch.equal(held[name], tensor) for name, tensor in stored.items())
    assert not loaded.network.training
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())
    assert loaded.device == torch.device("cpu")
    assert loaded.decode(loaded.encode("Zoë pays 12 €")) == "Zoë pays 12 €"


@pytest.mark.parametrize("tied", [True, False])
def test_tied_heads_are_seen_and_no_head_is_split(tmp_path: Path, tied: bool) -> None:
    loaded = load(tiny_folder(tmp_path, tied=tied))
    assert loaded.is_tied == tied
    assert loaded.head_VD.shape == (loaded.network.config.vocab_size, 24)
    names = list(linear_layers(loaded.network))
    assert len(names) == 2 * 7
    assert all(name.startswith("model.layers.") for name in names)


def test_linear_layers_are_the_network_s_own_modules_in_its_order() -> None:
    loaded = fake_loaded()
    names = [name.removeprefix("model.layers.0.") for name in linear_layers(loaded.network)][:7]
    attention = [f"self_attn.{letter}_proj" for letter in "qkvo"]
    assert names == [*attention, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert all(loaded.network.get_submodule(n) is m for n, m in linear_layers(loaded.network).items())


def test_encode_adds_no_special_token() -> None:
    assert fake_loaded().encode("ab") == [97, 98]


def test_a_missing_tensor_is_named_and_refused(tmp_path: Path) -> None:
    folder = rewritten(tiny_folder(tmp_path), lambda tensors: tensors.pop(VICTIM))
    with pytest.raises(IntegrityError, match="down_proj") as caught:
        load(folder)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_nan_and_inf_name_the_tensor(tmp_path: Path, value: float) -> None:
    folder = rewritten(tiny_folder(tmp_path), spoil(value))
    with pytest.raises(NumericalError, match=VICTIM.replace(".", r"\.")):
        load(folder)


def test_check_finite_passes_a_whole_network() -> None:
    check_finite(fake_loaded().network)
