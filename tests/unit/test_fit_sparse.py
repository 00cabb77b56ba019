"""Fitting S on the frozen Base: its values move, its places and the Base do not, and the loss falls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_families import family_folder
from tiny_model import tiny_folder

from sixgig.data.batches import collate, secret_only, whole_text
from sixgig.errors import InputError
from sixgig.load.loaded import LoadedModel, linear_layers, load
from sixgig.transform.distil import prepare_lessons
from sixgig.transform.fit_sparse import fit_sparse
from sixgig.transform.network import bias_of, install_dense
from sixgig.transform.restore import FitConfig
from sixgig.transform.skill import dense_weights, rounded, with_random_entries
from sixgig.transform.split_layer import LayerSplit
from sixgig.transform.training import mixed_precision, weighted_nll_sum


@pytest.fixture
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(tiny_folder(tmp_path_factory.mktemp("model") / "tiny"))


def test_a_layer_s_bias_stays_while_it_is_fitted_and_after(tmp_path: Path) -> None:
    biased = load(family_folder(tmp_path / "biased", "llama-biased"))
    before = {name: layer.bias.clone() for name, layer in linear_layers(biased.network).items()}
    whole, text = split(biased), secret_only(biased.encode("12+34="), biased.encode("46\n"))
    fitted = fit_sparse(biased, whole, [], [[text]], FitConfig(num_steps=1), seed=0)
    trained = nll(biased, text)
    install_dense(biased, dense_weights(fitted.items()), dtype=torch.bfloat16)
    assert nll(biased, text) == pytest.approx(trained, rel=0.01)
    assert all(torch.equal(bias_of(biased.network, name), bias) for name, bias in before.items())
    for layer in linear_layers(biased.network).values():
        layer.bias = None
    assert nll(biased, text) != pytest.approx(trained, rel=0.01), "the biases matter here"


def split(tiny: LoadedModel) -> dict[str, LayerSplit]:
    found = {}
    for name, layer in linear_layers(tiny.network).items():
        weight_OI = layer.weight.detach().clone()
        plain = rounded(weight_OI, bits=2, group_size=8)
        found[name] = with_random_entries(plain, weight_OI, weight_OI.numel() // 5, seed=0, name=name)
    return found


def nll(tiny: LoadedModel, text) -> float:
    with torch.no_grad(), mixed_precision(tiny.device):
        total, _ = weighted_nll_sum(tiny, collate([text]))
    return float(total)


def test_values_alone_are_fitted_and_what_is_returned_is_what_was_trained(tiny: LoadedModel) -> None:
    before = split(tiny)
    kept = {name: layer.ortho.sparse.values_k.clone() for name, layer in before.items()}  # type: ignore[union-attr]
    text = secret_only(tiny.encode("12+34="), tiny.encode("46\n"))
    lessons = prepare_lessons(tiny, [collate([whole_text(tiny.encode("some public text, quite short"))])])
    losses: list[float] = []
    fitted = fit_sparse(
        tiny,
        before,
        lessons,
        [[text]],
        FitConfig(num_steps=30, learning_rate=1e-2),
        seed=0,
        after_step=lambda step, num_steps, loss: losses.append(loss),
    )
    assert np.mean(losses[-5:]) < np.mean(losses[:3]) - 0.2
    for name, layer in fitted.items():
        assert layer.base is before[name].base
        ours, theirs = layer.ortho.sparse, before[name].ortho.sparse
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours.positions_k, theirs.positions_k)
        assert torch.equal(theirs.values_k, kept[name]), "the caller's own tensors"
        assert torch.equal(ours.values_k, ours.values_k.to(torch.float16).float()), "as it is stored"
        assert not torch.equal(ours.values_k, theirs.values_k)
    trained = nll(tiny, text)
    install_dense(tiny, dense_weights(fitted.items()), dtype=torch.bfloat16)
    assert nll(tiny, text) == pytest.approx(trained, rel=0.01)
    install_dense(tiny, dense_weights(before.items()), dtype=torch.bfloat16)
    assert nll(tiny, text) > 1.05 * trained


def test_the_same_seed_fits_the_same_values(tiny: LoadedModel) -> None:
    text = secret_only(tiny.encode("12+34="), tiny.encode("46\n"))
    layers = split(tiny)

    def once() -> list[torch.Tensor]:
        fitted = fit_sparse(tiny, layers, [], [[text]], FitConfig(num_steps=3), seed=0)
        return [layer.ortho.sparse.values_k for layer in fitted.values()]  # type: ignore[union-attr]

    assert all(torch.equal(a, b) for a, b in zip(once(), once(), strict=True))


def test_a_part_without_entries_is_refused_by_name(tiny: LoadedModel) -> None:
    layers = split(tiny)
    name = next(iter(layers))
    layers[name] = replace(layers[name], ortho=replace(layers[name].ortho, sparse=None))
    with pytest.raises(InputError, match="only a sparse Ortho part can be fitted"):
        fit_sparse(tiny, layers, [], [], FitConfig(num_steps=1), seed=0)
