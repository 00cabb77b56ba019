"""The split of a whole fake model: what is removed, counted, repeated and refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from fakes import fake_loaded, randn, weights_of
from test_streaming import count_alive_at_second_layer, text_sets

from sixgig.errors import InputError, NumericalError
from sixgig.load.loaded import LoadedModel, linear_layers
from sixgig.numerics.quantize import dequantize, quantize_rtn
from sixgig.transform.rounding import QuantizeConfig
from sixgig.transform.sieve import Evidence, make_sieve
from sixgig.transform.sieve.nulls import NoneSieve
from sixgig.transform.split import split_layers_of
from sixgig.transform.split_layer import Arm, LayerSplit, OrthoConfig

Results = Mapping[str, Mapping[str, LayerSplit]]
SMALL = QuantizeConfig(bits=4, group_size=16)


def before_of(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    """Earlier weights, well apart from the present ones."""
    return {
        name: layer.weight - 0.5 * layer.weight.std() * randn(*layer.weight.shape, seed=len(name))
        for name, layer in linear_layers(loaded.network).items()
    }


def arm(sieve: str, *, sieve_settings: Mapping[str, float] | None = None, **changes: Any) -> Arm:
    made = Arm(
        sieve=make_sieve(sieve, **(sieve_settings or {})),
        private_set="private",
        before_set="before",
        quantize=SMALL,
        ortho=OrthoConfig(rank=4),
    )
    return replace(made, **changes)


def run(loaded: LoadedModel, arms: Mapping[str, Arm], *, seed: int = 0) -> Results:
    earlier = before_of(loaded)
    return split_layers_of(loaded, arms, text_sets(loaded), {"before": earlier.__getitem__}, seed=seed)


def assert_same(one: Mapping[str, LayerSplit], other: Mapping[str, LayerSplit]) -> None:
    assert list(one) == list(other)
    for a, b in zip(one.values(), other.values(), strict=True):
        assert torch.equal(a.base.codes_OI, b.base.codes_OI)
        assert torch.equal(a.base.scales_OG, b.base.scales_OG)
        assert torch.equal(a.base.zeros_OG, b.base.zeros_OG)
        assert torch.equal(a.ortho.dense(), b.ortho.dense())
        assert (a.codes_changed, a.removed_norm_share) == (b.codes_changed, b.removed_norm_share)


def is_same(one: Mapping[str, LayerSplit], other: Mapping[str, LayerSplit]) -> bool:
    return all(
        torch.equal(a.base.codes_OI, b.base.codes_OI)
        for a, b in zip(one.values(), other.values(), strict=True)
    )


ALL_ARMS = ("wiener", "random", "hessian", "none", "isolated")


@pytest.fixture(scope="module")
def results() -> Results:
    return run(fake_loaded(), {name: arm(name) for name in ALL_ARMS})


def test_every_linear_layer_is_split_in_order(results: Results) -> None:
    names = list(linear_layers(fake_loaded().network))
    assert all(list(layers) == names for layers in results.values())


def test_sieves_that_remove_nothing_quantise_the_weight_itself(results: Results) -> None:
    linears = linear_layers(fake_loaded().network)
    for sieve in ("none", "hessian"):
        for name, layer in results[sieve].items():
            plain = quantize_rtn(linears[name].weight, bits=4, group_size=16)
            assert torch.equal(layer.base.codes_OI, plain.codes_OI)
            assert (layer.codes_changed, layer.removed_norm_share) == (0.0, 0.0)


@pytest.mark.parametrize("sieve", ["wiener", "random", "isolated"])
def test_sieves_that_remove_something_change_codes(results: Results, sieve: str) -> None:
    for layer in results[sieve].values():
        assert 0.0 < layer.codes_changed <= 1.0
        assert 0.0 < layer.removed_norm_share < 1.0


def test_codes_changed_is_the_share_of_codes_that_differ(results: Results) -> None:
    for name, layer in results["wiener"].items():
        plain = results["none"][name].base.codes_OI
        expected = (layer.base.codes_OI != plain).double().mean()
        assert layer.codes_changed == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("bits", [3, 8])
def test_isolated_base_is_made_of_the_public_weights_and_nothing_else(bits: int) -> None:
    loaded = fake_loaded()
    earlier = before_of(loaded)
    layers = run(loaded, {"isolated": arm("isolated", quantize=QuantizeConfig(bits=bits, group_size=16))})[
        "isolated"
    ]
    for name, layer in layers.items():
        public = quantize_rtn(earlier[name], bits=bits, group_size=16)
        assert torch.equal(layer.base.codes_OI, public.codes_OI)
        assert torch.equal(layer.base.scales_OG, public.scales_OG)
        assert torch.equal(layer.base.zeros_OG, public.zeros_OG)


def test_private_weights_never_reach_an_isolated_base() -> None:
    # Two models whose weights differ by far more than their common public past: W - (W - W0) is not W0 in
    # floating point, and what it keeps of W would be private.
    earlier = before_of(fake_loaded())
    bases = []
    for scale in (1.0, 1000.0):
        loaded = fake_loaded()
        for layer in linear_layers(loaded.network).values():
            layer.weight.data.mul_(scale)
        arms = {"isolated": arm("isolated", private_set=None, quantize=QuantizeConfig(bits=8, group_size=16))}
        public = {"public": text_sets(loaded)["public"]}
        split = split_layers_of(loaded, arms, public, {"before": earlier.__getitem__}, seed=0)["isolated"]
        bases.append([layer.base for layer in split.values()])
    for one, other in zip(*bases, strict=True):
        assert torch.equal(dequantize(one), dequantize(other))


def test_several_arms_in_one_walk_equal_single_walks_bit_for_bit(results: Results) -> None:
    for name in ALL_ARMS:
        assert_same(results[name], run(fake_loaded(), {"alone": arm(name)})["alone"])


def test_arms_of_one_sieve_keep_their_own_settings() -> None:
    arms = {
        "weak": arm("wiener", sieve_settings={"noise_weight": 10.0}),
        "strong": arm("wiener", sieve_settings={"noise_weight": 1e-4}),
        "three": arm("wiener", quantize=QuantizeConfig(bits=3, group_size=16)),
        "gptq": arm("none", quantize=QuantizeConfig(bits=4, group_size=16, method="gptq")),
    }
    together = run(fake_loaded(), arms)
    for name, one in arms.items():
        assert_same(together[name], run(fake_loaded(), {"alone": one})["alone"])
    assert not is_same(together["weak"], together["strong"])
    assert {layer.base.bits for layer in together["three"].values()} == {3}
    assert {layer.codes_changed for layer in together["gptq"].values()} == {0.0}  # against GPTQ's own Q(W)


def test_same_seed_same_split_other_seed_another_random_one(results: Results) -> None:
    pair = {"random": arm("random"), "wiener": arm("wiener")}
    again = run(fake_loaded(), pair, seed=0)
    other = run(fake_loaded(), pair, seed=1)
    assert_same(again["random"], results["random"])
    assert not is_same(other["random"], results["random"])
    assert_same(other["wiener"], results["wiener"])


@dataclass(frozen=True, kw_only=True)
class _Drawing(NoneSieve):
    """Remembers what its generator gave for each layer."""

    drawn: dict[str, float]

    def removed(self, evidence: Evidence) -> torch.Tensor:
        self.drawn[evidence.name] = float(torch.rand((), generator=evidence.generator))
        return super().removed(evidence)


def draws(seed: int, arms: int = 1) -> list[dict[str, float]]:
    sieves = [_Drawing(drawn={}) for _ in range(arms)]
    made = {str(n): Arm(sieve=sieve, quantize=SMALL) for n, sieve in enumerate(sieves)}
    loaded = fake_loaded()
    split_layers_of(loaded, made, {"public": text_sets(loaded)["public"]}, {}, seed=seed)
    return [sieve.drawn for sieve in sieves]


def test_every_layer_draws_its_own_numbers_by_seed_and_name() -> None:
    first, beside_it = draws(0, arms=2)
    assert len(set(first.values())) == len(first) == 14
    assert beside_it == first  # an arm's numbers do not depend on the arms before it
    assert draws(0) == [first]
    assert not set(draws(1)[0].values()) & set(first.values())


def test_the_model_is_not_changed() -> None:
    loaded = fake_loaded()
    before = weights_of(loaded)
    run(loaded, {"wiener": arm("wiener")})
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.network.state_dict().items())


def test_a_full_first_guess_rebuilds_the_weight() -> None:
    # Rank 32 is the full rank of every layer here, so Base + U V must be W up to rounding.
    loaded = fake_loaded()
    full = run(loaded, {"wiener": arm("wiener", ortho=OrthoConfig(rank=32))})["wiener"]
    for name, layer in linear_layers(loaded.network).items():
        rebuilt = dequantize(full[name].base) + full[name].ortho.dense()
        assert torch.allclose(rebuilt, layer.weight, atol=1e-3)


def test_sparse_share_counts_entries_and_helps() -> None:
    loaded = fake_loaded()
    sized = {share: arm("wiener", ortho=OrthoConfig(rank=2, sparse_share=share)) for share in (0.0, 0.1)}
    results = run(loaded, {"none": sized[0.0], "some": sized[0.1]})
    assert all(layer.ortho.sparse is None for layer in results["none"].values())
    for name, layer in linear_layers(loaded.network).items():
        part = results["some"][name].ortho
        assert part.sparse is not None
        assert len(part.sparse.positions_k) == round(0.1 * layer.weight.numel())
        assert part.up_Or.shape[1] == 2

        def missing(split: LayerSplit, weight: torch.Tensor = layer.weight) -> float:
            return float((weight - dequantize(split.base) - split.ortho.dense()).norm())

        assert missing(results["some"][name]) < missing(results["none"][name])


def test_hessian_keeps_its_share_of_the_residual_and_no_factors() -> None:
    loaded = fake_loaded()
    layers = run(loaded, {"hessian": arm("hessian", ortho=OrthoConfig(rank=8, sparse_share=0.05))})["hessian"]
    for name, layer in linear_layers(loaded.network).items():
        part, residual = layers[name].ortho, layer.weight - dequantize(layers[name].base)
        assert part.up_Or.shape[1] == 0
        assert part.sparse is not None
        assert len(part.sparse.positions_k) == round(0.05 * layer.weight.numel())
        chosen = part.sparse.positions_k.long()
        assert torch.equal(part.dense().flatten()[chosen], residual.flatten()[chosen])


def test_entries_chosen_before_rounding_are_whole_with_s_and_leave_the_others_a_finer_grid() -> None:
    loaded = fake_loaded()
    for layer in linear_layers(loaded.network).values():
        outliers = randn(*layer.weight.shape, seed=1).abs() > 2.2  # 3 in a hundred
        layer.weight.data[outliers] *= 8
    done = run(
        loaded,
        {
            entries: arm(
                "hessian",
                quantize=QuantizeConfig(bits=3, group_size=16, grid="searched"),
                ortho=OrthoConfig(rank=0, sparse_share=0.05, entries=entries),
            )
            for entries in ("before", "after")
        },
    )
    errors = {"before": 0.0, "after": 0.0}
    for name, layer in linear_layers(loaded.network).items():
        for entries in errors:
            split = done[entries][name]
            sparse = split.ortho.sparse
            assert sparse is not None
            assert len(sparse.positions_k) == round(0.05 * layer.weight.numel())
            missing = layer.weight - dequantize(split.base) - sparse.dense()
            assert missing.flatten()[sparse.positions_k.long()].abs().max() < 1e-5
            errors[entries] += float(missing.square().sum())
    assert errors["before"] < 0.97 * errors["after"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"ortho": OrthoConfig(rank=4, sparse_share=0.1, entries="before")}, "before rounding"),
        ({"ortho": OrthoConfig(entries="never")}, "unknown choice"),
        ({"quantize": QuantizeConfig(grid="round")}, "unknown grid"),
    ],
)
def test_what_no_rounding_can_do_is_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        run(fake_loaded(), {"wiener": arm("wiener", **changes)})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("victim", ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"])
def test_nan_in_the_weights_names_the_layer(victim: str, bad: float) -> None:
    loaded = fake_loaded()
    earlier = before_of(loaded)
    loaded.network.get_submodule(victim).weight.data[1, 2] = bad
    with pytest.raises(NumericalError, match=victim.replace(".", r"\.")):
        split_layers_of(
            loaded, {"none": arm("none")}, text_sets(loaded), {"before": earlier.__getitem__}, seed=0
        )


def test_nan_in_the_earlier_weights_names_the_layer() -> None:
    loaded = fake_loaded()
    earlier = before_of(loaded)
    victim = "model.layers.1.mlp.up_proj"
    earlier[victim][0, 0] = float("nan")
    with pytest.raises(NumericalError, match=victim.replace(".", r"\.")):
        split_layers_of(
            loaded, {"w": arm("wiener")}, text_sets(loaded), {"before": earlier.__getitem__}, seed=0
        )


def test_what_an_arm_lacks_is_said_before_any_work() -> None:
    loaded = fake_loaded()
    sets = text_sets(loaded)
    with pytest.raises(InputError, match="public texts"):
        split_layers_of(loaded, {}, {"private": sets["private"]}, {}, seed=0)
    with pytest.raises(InputError, match=r"wiener needs the model as it was before"):
        split_layers_of(loaded, {"w": arm("wiener")}, sets, {}, seed=0)
    with pytest.raises(InputError, match=r"wiener needs private texts"):
        split_layers_of(loaded, {"w": arm("wiener", private_set="absent")}, sets, {"before": _never}, seed=0)


def _never(name: str) -> torch.Tensor:
    raise AssertionError(f"{name} was read before the arms were checked")


def test_an_unknown_quantiser_is_refused() -> None:
    with pytest.raises(InputError, match="quantisation method"):
        run(fake_loaded(), {"none": arm("none", quantize=QuantizeConfig(method="awq"))})


def test_progress_counts_decoder_layers() -> None:
    loaded, told = fake_loaded(), []
    split_layers_of(
        loaded,
        {"none": arm("none", private_set=None)},
        {"public": text_sets(loaded)["public"]},
        {},
        seed=0,
        after_layer=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 2), (2, 2)]


def test_one_layer_s_matrices_live_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = fake_loaded()
    alive = count_alive_at_second_layer(loaded, monkeypatch)
    run(loaded, {"wiener": arm("wiener"), "random": arm("random")})
    assert alive == [0]
