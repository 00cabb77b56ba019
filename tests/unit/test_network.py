"""Putting dense and split layers into a network in place of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
import torch
from fakes import fake_loaded, randn
from test_split import arm, run
from torch import nn

from sixgig.layers.split_linear import set_alpha, split_layers
from sixgig.load.loaded import LoadedModel, linear_layers
from sixgig.numerics.quantize import dequantize
from sixgig.transform.network import dense_linear, install, install_dense, install_split
from sixgig.transform.split_layer import LayerSplit, OrthoConfig


@pytest.fixture(scope="module")
def layers() -> Mapping[str, LayerSplit]:
    sized = arm("wiener", ortho=OrthoConfig(rank=32, sparse_share=0.01))
    return run(fake_loaded(), {"wiener": sized})["wiener"]


def logits(loaded: LoadedModel) -> torch.Tensor:
    return loaded.network(input_ids=torch.tensor([loaded.encode("the code of Ann")])).logits


def test_install_replaces_modules_by_name() -> None:
    loaded = fake_loaded()
    new = nn.Linear(32, 48, bias=False)
    install(loaded.network, {"model.layers.1.mlp.up_proj": new})
    assert loaded.network.model.layers[1].mlp.up_proj is new
    assert loaded.network.model.layers[0].mlp.up_proj is not new


def test_dense_linear_holds_exactly_its_weight_frozen() -> None:
    weight = randn(3, 5).to(torch.bfloat16)
    linear = dense_linear(weight)
    assert torch.equal(linear.weight, weight.float())
    assert linear.bias is None
    assert not linear.weight.requires_grad


def test_the_network_s_own_weights_put_back_change_nothing() -> None:
    loaded = fake_loaded()
    before = logits(loaded)
    weights = {name: layer.weight.detach().clone() for name, layer in linear_layers(loaded.network).items()}
    install_dense(loaded, weights.items())
    assert torch.equal(logits(loaded), before)
    assert all(torch.equal(layer.weight, weights[n]) for n, layer in linear_layers(loaded.network).items())


def test_each_weight_is_asked_for_when_the_one_before_is_in_place() -> None:
    loaded = fake_loaded()
    names = list(linear_layers(loaded.network))

    def weights() -> Iterator[tuple[str, torch.Tensor]]:
        for position, name in enumerate(names):
            if position:
                installed = loaded.network.get_submodule(names[position - 1]).weight
                assert float(installed[0, 0]) == position - 1
            yield name, torch.full_like(loaded.network.get_submodule(name).weight, float(position))

    install_dense(loaded, weights())
    assert float(loaded.network.get_submodule(names[-1]).weight[0, 0]) == len(names) - 1


def test_alpha_zero_of_the_split_network_is_the_dense_base_bit_for_bit(
    layers: Mapping[str, LayerSplit],
) -> None:
    base, split, base_alone = fake_loaded(), fake_loaded(), fake_loaded()
    install_dense(base, ((name, dequantize(layer.base)) for name, layer in layers.items()))
    switch = install_split(split, layers, with_ortho=True)
    install_split(base_alone, layers, with_ortho=False)
    assert switch.value == 0.0
    first = logits(split)
    set_alpha(split.network, 1.0)
    assert not torch.equal(logits(split), first)
    set_alpha(split.network, 0.0)
    for other in (first, logits(base), logits(base_alone)):
        assert torch.equal(logits(split), other)


def test_alpha_one_of_a_full_split_is_the_whole_model(layers: Mapping[str, LayerSplit]) -> None:
    loaded = fake_loaded()
    whole = logits(loaded)
    set_to = install_split(loaded, layers, with_ortho=True)
    assert (logits(loaded) - whole).norm() > 0.1 * whole.norm()
    set_to.value = 1.0
    assert (logits(loaded) - whole).norm() < 1e-3 * whole.norm()


def test_all_split_layers_share_the_switch_that_is_returned(layers: Mapping[str, LayerSplit]) -> None:
    loaded = fake_loaded()
    switch = install_split(loaded, layers, with_ortho=True)
    found = dict(split_layers(loaded.network))
    assert list(found) == list(layers)
    assert all(module.switch is switch for module in found.values())
    assert all(module.ortho is not None for module in found.values())


def test_without_ortho_nothing_of_it_is_in_the_network(layers: Mapping[str, LayerSplit]) -> None:
    loaded = fake_loaded()
    install_split(loaded, layers, with_ortho=False)
    assert all(module.ortho is None for _, module in split_layers(loaded.network))
