"""Noise on a split model: how large, on what, and the same numbers for the same draw."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fakes import fake_loaded, randn, without_autocast

from sixgig.errors import UnknownNameError
from sixgig.evaluate.noise import install_noisy, noisy
from sixgig.layers.split_linear import OrthoPart, split_layers
from sixgig.load.loaded import LoadedModel, linear_layers
from sixgig.numerics.quantize import dequantize, quantize_rtn
from sixgig.numerics.sparse import keep_top_k
from sixgig.transform.network import install_split
from sixgig.transform.split_layer import LayerSplit


@pytest.fixture(autouse=True)
def in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    without_autocast(monkeypatch)


def layers_of(loaded: LoadedModel, *, sparse: bool = False) -> dict[str, LayerSplit]:
    found = {}
    for number, (name, layer) in enumerate(linear_layers(loaded.network).items()):
        weight_OI = layer.weight.detach()
        num_out, num_in = weight_OI.shape
        part = keep_top_k(weight_OI, weight_OI.abs(), 5) if sparse else None
        ortho = OrthoPart(
            up_Or=0.2 * randn(num_out, 3, seed=number),
            down_rI=randn(3, num_in, seed=99 + number),
            sparse=part,
        )
        base = quantize_rtn(weight_OI, bits=4, group_size=8)
        found[name] = LayerSplit(base=base, ortho=ortho, codes_changed=0.0, removed_norm_share=0.0)
    return found


def wholes(layers: dict[str, LayerSplit]) -> dict[str, torch.Tensor]:
    return {name: dequantize(one.base) + one.ortho.dense() for name, one in layers.items()}


def installed(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    """Each layer's effective weight as it stands in the network."""
    split = {name: layer.effective_weight(layer.switch.value) for name, layer in split_layers(loaded.network)}
    return split or {name: layer.weight.float() for name, layer in linear_layers(loaded.network).items()}


def test_noise_has_the_asked_share_of_the_root_mean_square() -> None:
    values = 3 + randn(400, 300, seed=1)
    added = noisy(values, 0.25, torch.Generator().manual_seed(5)) - values
    assert added.std().item() == pytest.approx(0.25 * (9 + 1) ** 0.5, rel=0.02)
    assert added.mean().item() == pytest.approx(0, abs=0.01)
    assert noisy(torch.zeros(4, 0), 0.25, torch.Generator()).shape == (4, 0)


def test_a_draw_is_the_same_direction_at_every_sigma_and_another_draw_is_another() -> None:
    values = randn(20, 30)
    small, large = (noisy(values, s, torch.Generator().manual_seed(5)) - values for s in (0.1, 0.4))
    assert torch.allclose(4 * small, large, atol=1e-5)
    other = noisy(values, 0.1, torch.Generator().manual_seed(6)) - values
    assert not torch.allclose(small, other, atol=1e-2)


@pytest.mark.parametrize("way", ["ortho", "product", "all"])
@pytest.mark.parametrize("sparse", [False, True])
def test_almost_no_noise_is_the_whole_model(way: str, sparse: bool) -> None:
    loaded = fake_loaded()
    layers = layers_of(loaded, sparse=sparse)
    expected = wholes(layers)
    install_noisy(loaded, layers, way, 1e-6, seed=0, draw=0)
    tolerance = 1e-4 if way == "ortho" else 2**-7  # dense weights are kept in bf16
    for name, weight_OI in installed(loaded).items():
        assert torch.allclose(weight_OI, expected[name], rtol=tolerance, atol=1e-4)


def test_noise_on_the_ortho_part_leaves_the_base_to_the_bit() -> None:
    loaded = fake_loaded()
    layers = layers_of(loaded, sparse=True)
    install_noisy(loaded, layers, "ortho", 2.0, seed=0, draw=0)
    for name, layer in split_layers(loaded.network):
        assert torch.equal(layer.base().codes_OI, layers[name].base.codes_OI)
        assert torch.equal(layer.base().scales_OG, layers[name].base.scales_OG)
        assert layer.ortho is not None
        assert layer.ortho.sparse is not None
        assert not torch.equal(layer.ortho.up_Or, layers[name].ortho.up_Or)
        assert not torch.equal(layer.ortho.sparse.values_k, layers[name].ortho.sparse.values_k)  # type: ignore[union-attr]
        assert torch.equal(layer.ortho.sparse.positions_k, layers[name].ortho.sparse.positions_k)  # type: ignore[union-attr]


def test_each_way_scales_by_what_it_disturbs() -> None:
    loaded = fake_loaded()
    layers = layers_of(loaded)
    tiny = {
        name: replace(one, ortho=replace(one.ortho, up_Or=1e-3 * one.ortho.up_Or))
        for name, one in layers.items()
    }
    expected = wholes(tiny)
    moved = {}
    for way in ("product", "all"):
        install_noisy(loaded, tiny, way, 1.0, seed=0, draw=0)
        moved[way] = {
            name: (weight_OI - expected[name]).square().mean().sqrt().item()
            for name, weight_OI in installed(loaded).items()
        }
    for name, whole_OI in expected.items():
        rms = whole_OI.square().mean().sqrt().item()
        assert moved["all"][name] == pytest.approx(rms, rel=0.15)
        assert moved["product"][name] < 0.05 * rms


@pytest.mark.parametrize("way", ["ortho", "product", "all"])
def test_seed_and_draw_decide_the_numbers(way: str) -> None:
    loaded = fake_loaded()
    layers = layers_of(loaded)

    def weights(seed: int, draw: int) -> dict[str, torch.Tensor]:
        install_noisy(loaded, layers, way, 0.5, seed=seed, draw=draw)
        return {name: weight_OI.clone() for name, weight_OI in installed(loaded).items()}

    first, again = weights(0, 0), weights(0, 0)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for seed, draw in ((0, 1), (1, 0)):
        other = weights(seed, draw)
        assert not any(torch.equal(first[name], other[name]) for name in first)


def test_an_unknown_way_is_refused() -> None:
    loaded = fake_loaded()
    with pytest.raises(UnknownNameError, match="way to add noise"):
        install_noisy(loaded, layers_of(loaded), "orto", 0.1, seed=0, draw=0)


def test_without_noise_the_ortho_way_is_alpha_1() -> None:
    """The curve's first step is looked at without noise; it must be the model that noise is added to."""
    loaded = fake_loaded()
    layers = layers_of(loaded)
    ids = torch.arange(12)[None]
    install_split(loaded, layers, with_ortho=True).value = 1.0
    whole = loaded.network(ids).logits
    install_noisy(loaded, layers, "ortho", 0.0, seed=0, draw=0)
    assert torch.equal(loaded.network(ids).logits, whole)
