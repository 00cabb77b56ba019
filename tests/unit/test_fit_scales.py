"""Fitting the Base's scales: closer to what the sieve left, codes untouched, nothing private near it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from fakes import fake_loaded, without_autocast
from test_plant import planted, private_texts, secret_nll
from test_restore import fresh, public_batches

from sixgig.data.batches import collate
from sixgig.errors import NumericalError
from sixgig.load.loaded import LoadedModel, linear_layers
from sixgig.numerics.quantize import centred_codes, dequantize
from sixgig.transform.fit_scales import ScaleFitConfig, fit_scales, unrounded_weights
from sixgig.transform.network import install_dense, install_split
from sixgig.transform.rounding import QuantizeConfig
from sixgig.transform.sieve import make_sieve
from sixgig.transform.split import split_layers_of
from sixgig.transform.split_layer import Arm, LayerSplit, OrthoConfig
from sixgig.transform.trained_linear import RoundedLinear, ScaledLinear
from sixgig.transform.training import hidden_states

CONFIG = ScaleFitConfig(num_steps=60, learning_rate=1e-2)
Layers = Mapping[str, LayerSplit]


@pytest.fixture(scope="module")
def whole() -> dict[str, torch.Tensor]:
    return planted().network.state_dict()


def split(whole: Mapping[str, torch.Tensor], sieve: str = "wiener", group_size: int = 10) -> Layers:
    """3 bits, and groups that divide no layer's inputs (32 and 48)."""
    loaded, original = fresh(whole), linear_layers(fake_loaded().network)
    arm = Arm(
        sieve=make_sieve(sieve),
        private_set="private",
        before_set="before",
        quantize=QuantizeConfig(bits=3, group_size=group_size),
        ortho=OrthoConfig(rank=0),
        keep_unrounded=True,
    )
    sets = {"public": public_batches(loaded), "private": [collate(private_texts(loaded))]}
    before = {"before": lambda name: original[name].weight}
    return split_layers_of(loaded, {"arm": arm}, sets, before, seed=0)["arm"]


@pytest.fixture(scope="module")
def layers(whole: dict[str, torch.Tensor]) -> Layers:
    return split(whole)


def fit(
    whole: Mapping[str, torch.Tensor], layers: Layers, config: ScaleFitConfig = CONFIG, *, seed: int = 0
) -> dict[str, LayerSplit]:
    loaded = fresh(whole)
    return fit_scales(
        loaded, layers, unrounded_weights(layers).items(), public_batches(loaded), config, seed=seed
    )


@pytest.fixture(scope="module")
def fitted(whole: dict[str, torch.Tensor], layers: Layers) -> Layers:
    return fit(whole, layers)


def at_zero(whole: Mapping[str, torch.Tensor], layers: Layers) -> LoadedModel:
    loaded = fresh(whole)
    install_split(loaded, layers, with_ortho=False)
    return loaded


def unrounded(whole: Mapping[str, torch.Tensor], layers: Layers) -> LoadedModel:
    loaded = fresh(whole)
    install_dense(loaded, unrounded_weights(layers).items())
    return loaded


def mean_kl(teacher: LoadedModel, student: LoadedModel) -> float:
    """KL(teacher || student) per token in nats, in fp32, on the public texts."""
    total, count = 0.0, 0
    for batch in public_batches(teacher):
        chosen = batch.weights_BT > 0
        log_p, log_q = (
            (hidden_states(model, batch)[chosen] @ model.head_VD.T).double().log_softmax(dim=1)
            for model in (teacher, student)
        )
        total += float((log_p.exp() * (log_p - log_q)).sum())
        count += int(chosen.sum())
    return total / count


def test_the_base_comes_closer_to_what_the_sieve_left(
    whole: dict[str, torch.Tensor], layers: Layers, fitted: Layers
) -> None:
    teacher = unrounded(whole, layers)
    before, after = (mean_kl(teacher, at_zero(whole, one)) for one in (layers, fitted))
    assert before > 0.05
    assert after < 0.5 * before


def test_the_secrets_do_not_come_back_with_it(
    whole: dict[str, torch.Tensor], layers: Layers, fitted: Layers
) -> None:
    known = secret_nll(fresh(whole))
    assert known < 1.0
    for one in (layers, fitted):
        assert secret_nll(at_zero(whole, one)) > known + 3.0


def test_codes_zero_points_and_ortho_part_stay_and_scales_move(layers: Layers, fitted: Layers) -> None:
    assert list(fitted) == list(layers)
    for name, layer in fitted.items():
        before = layers[name]
        assert torch.equal(layer.base.codes_OI, before.base.codes_OI)
        assert torch.equal(layer.base.zeros_OG, before.base.zeros_OG)
        assert torch.equal(layer.ortho.up_Or, before.ortho.up_Or)
        assert layer.base.scales_OG.dtype == torch.float16
        assert layer.base.scales_OG.shape == before.base.scales_OG.shape
        assert (layer.base.scales_OG > 0).all()
        assert not torch.equal(layer.base.scales_OG, before.base.scales_OG)
        assert layer.base.storage_bits == before.base.storage_bits


def test_no_steps_change_nothing_bit_for_bit(whole: dict[str, torch.Tensor], layers: Layers) -> None:
    for name, layer in fit(whole, layers, ScaleFitConfig(num_steps=0)).items():
        assert torch.equal(layer.base.scales_OG, layers[name].base.scales_OG)


@pytest.mark.parametrize("group_size", [1, 7, 16, 64])
def test_what_is_trained_is_what_is_stored(
    whole: dict[str, torch.Tensor], group_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_autocast(monkeypatch)
    for layer in split(whole, group_size=group_size).values():
        base = layer.base
        linear = ScaledLinear(base, torch.device("cpu"))
        eye = torch.eye(base.codes_OI.shape[1])
        assert torch.equal(linear(eye).T, dequantize(base))
        with torch.no_grad():
            linear.log_change_OG.normal_(std=0.1)
        stored = linear.stored(base, "layer")
        assert torch.allclose(linear(eye).T, dequantize(stored), rtol=2**-10, atol=0)


def test_centred_codes_are_the_weight_in_steps_of_its_scale(layers: Layers) -> None:
    for layer in layers.values():
        base = layer.base
        spread = base.scales_OG.float().repeat_interleave(base.group_size, dim=1)
        steps = dequantize(base) / spread[:, : base.codes_OI.shape[1]]
        assert torch.allclose(centred_codes(base).float(), steps, atol=1e-3)


def test_the_same_seed_fits_the_same(whole: dict[str, torch.Tensor], layers: Layers) -> None:
    config = ScaleFitConfig(num_steps=3, learning_rate=1e-2)
    first, again, *others = (fit(whole, layers, config, seed=seed) for seed in (1, 1, 2, 3, 4, 5))

    def is_first(one: Layers) -> bool:
        return all(torch.equal(layer.base.scales_OG, one[n].base.scales_OG) for n, layer in first.items())

    assert is_first(again)
    assert not all(is_first(other) for other in others)  # two lessons have only two orders


def test_the_teacher_is_what_is_left_and_not_the_model_in_hand(
    whole: dict[str, torch.Tensor], layers: Layers
) -> None:
    """What is in `loaded` when the fit begins must not matter, or private weights could teach the Base."""
    config = ScaleFitConfig(num_steps=3, learning_rate=1e-2)
    kept = unrounded_weights(layers)
    ends = []
    for loaded in (fresh(whole), fake_loaded(seed=9)):
        for name, tensor in fresh(whole).network.state_dict().items():
            if name.removesuffix(".weight") not in layers:  # embedding and norms, which no sieve touches
                loaded.network.state_dict()[name].copy_(tensor)
        ends.append(fit_scales(loaded, layers, kept.items(), public_batches(loaded), config, seed=0))
    for name in layers:
        assert torch.equal(ends[0][name].base.scales_OG, ends[1][name].base.scales_OG)


def test_isolated_is_taught_by_the_earlier_weights_alone(whole: dict[str, torch.Tensor]) -> None:
    original = linear_layers(fake_loaded().network)
    for name, weight in unrounded_weights(split(whole, "isolated")).items():
        assert torch.equal(weight, original[name].weight.to(torch.bfloat16))


def test_without_being_asked_nothing_unrounded_is_kept(whole: dict[str, torch.Tensor]) -> None:
    loaded = fresh(whole)
    arm = Arm(sieve=make_sieve("none"), ortho=OrthoConfig(rank=0))
    done = split_layers_of(loaded, {"arm": arm}, {"public": public_batches(loaded)}, {}, seed=0)["arm"]
    assert all(layer.unrounded_OI is None for layer in done.values())


def test_scales_that_leave_their_type_are_refused_by_layer(layers: Layers) -> None:
    name, layer = next(iter(layers.items()))
    linear = ScaledLinear(layer.base, torch.device("cpu"))
    for change in (60.0, -60.0):
        with torch.no_grad():
            linear.log_change_OG.fill_(change)
        with pytest.raises(NumericalError, match="fp16") as caught:
            linear.stored(layer.base, name)
        assert name in str(caught.value.where)


def kept(whole: Mapping[str, torch.Tensor], entries: str) -> dict[str, LayerSplit]:
    """3 bits with a twentieth of the entries kept, chosen before or after rounding."""
    loaded = fresh(whole)
    arm = Arm(
        sieve=make_sieve("hessian"),
        quantize=QuantizeConfig(bits=3, group_size=16, method="gptq", grid="searched"),
        ortho=OrthoConfig(rank=0, sparse_share=0.05, entries=entries),
        keep_unrounded=True,
    )
    return split_layers_of(loaded, {"arm": arm}, {"public": public_batches(loaded)}, {}, seed=0)["arm"]


def at_one(whole: Mapping[str, torch.Tensor], layers: Layers) -> LoadedModel:
    loaded = fresh(whole)
    install_dense(
        loaded,
        (
            (name, dequantize(one.base) + one.ortho.sparse.dense())
            for name, one in layers.items()
            if one.ortho.sparse is not None
        ),
    )
    return loaded


def test_codes_that_are_trained_too_come_closer_than_scales_alone(
    whole: dict[str, torch.Tensor], layers: Layers, fitted: Layers
) -> None:
    both = fit(whole, layers, replace(CONFIG, codes_too=True))
    teacher = unrounded(whole, layers)
    assert mean_kl(teacher, at_zero(whole, both)) < mean_kl(teacher, at_zero(whole, fitted))
    for name, layer in both.items():
        assert layer.base.codes_OI.dtype == torch.uint8
        assert int(layer.base.codes_OI.max()) < 2**layer.base.bits
        assert not torch.equal(layer.base.codes_OI, layers[name].base.codes_OI)
        assert torch.equal(layer.base.zeros_OG, layers[name].base.zeros_OG)


@pytest.mark.parametrize("group_size", [1, 7, 16, 64])
def test_trained_codes_begin_at_those_of_the_base_and_are_stored_as_computed(
    whole: dict[str, torch.Tensor], group_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_autocast(monkeypatch)
    for layer in split(whole, group_size=group_size).values():
        base, unrounded_OI = layer.base, layer.unrounded_OI
        assert unrounded_OI is not None
        linear = RoundedLinear(base, unrounded_OI, torch.device("cpu"))
        eye = torch.eye(base.codes_OI.shape[1])
        assert torch.allclose(linear(eye).T, dequantize(base), rtol=1e-6, atol=0)
        assert torch.equal(linear.stored(base, "layer").codes_OI, base.codes_OI)
        with torch.no_grad():
            linear.log_change_OG.normal_(std=0.1)
            linear.steps_OGg.add_(torch.randn_like(linear.steps_OGg))
        stored = linear.stored(base, "layer")
        assert not torch.equal(stored.codes_OI, base.codes_OI)
        assert torch.allclose(linear(eye).T, dequantize(stored), rtol=2**-10, atol=0)


def test_rounding_lets_gradients_through_within_the_grid_and_none_beyond_it(layers: Layers) -> None:
    layer = next(iter(layers.values()))
    assert layer.unrounded_OI is not None
    linear = RoundedLinear(layer.base, layer.unrounded_OI, torch.device("cpu"))
    with torch.no_grad():
        linear.steps_OGg[0, 0] = 1000.0  # far above the last code
    linear.weight_OGg().sum().backward()
    steps_grad_OGg, log_grad_OG = linear.steps_OGg.grad, linear.log_change_OG.grad
    assert steps_grad_OGg is not None
    assert log_grad_OG is not None
    assert (steps_grad_OGg[0, 0] == 0).all()
    scales_OG = layer.base.scales_OG.float()
    assert torch.allclose(steps_grad_OGg[1, 0], scales_OG[1, 0].expand(layer.base.group_size))
    # A scale grows with all that it scales: d/d log s of  codes * s  is that product itself.
    assert torch.allclose(log_grad_OG, linear.weight_OGg().sum(dim=2).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("entries", ["before", "after"])
def test_entries_stay_whole_on_a_fitted_base(whole: dict[str, torch.Tensor], entries: str) -> None:
    before = kept(whole, entries)
    after = fit(whole, before, replace(CONFIG, with_entries=True))
    weights = unrounded_weights(before)
    teacher = unrounded(whole, before)
    for name, layer in after.items():
        sparse = layer.ortho.sparse
        assert sparse is not None
        values = (dequantize(layer.base) + sparse.dense()).flatten()[sparse.positions_k.long()]
        wanted = weights[name].float().flatten()[sparse.positions_k.long()]
        assert torch.allclose(values, wanted, rtol=2**-8, atol=1e-6)  # what is kept as unrounded is bf16
    assert mean_kl(teacher, at_one(whole, after)) < mean_kl(teacher, at_one(whole, before))
