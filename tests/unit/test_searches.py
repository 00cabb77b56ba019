"""Sieves that look at the whole model, on a fake one that has learnt three texts by heart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from fake_memory import FailingAt
from fakes import fake_loaded, weights_of, without_autocast
from test_plant import planted, private_texts, public_texts
from test_split import SMALL, assert_same

from sixgig.data.batches import TokenSequence, collate, sequences_of, whole_text
from sixgig.errors import InputError, NumericalError
from sixgig.load.loaded import LoadedModel, linear_layers
from sixgig.memory.ladder import Fallbacks
from sixgig.numerics.eigen import eigenbasis
from sixgig.numerics.quantize import dequantize
from sixgig.transform.gradients import GradientSource
from sixgig.transform.network import install_dense
from sixgig.transform.rounding import QuantizeConfig
from sixgig.transform.search import SearchContext, as_before, control_level, mean_nll
from sixgig.transform.search_natural import natural_step, step_size
from sixgig.transform.sieve import make_sieve
from sixgig.transform.split import SplitTimes, split_layers_of
from sixgig.transform.split_layer import Arm, LayerSplit, OrthoConfig

FINE = QuantizeConfig(bits=8, group_size=16)
UNSEEN = ("the stair has 13 steps", "a lamp of copper: 5-5", "nine keys lie here 77")


@pytest.fixture(scope="module")
def whole() -> dict[str, torch.Tensor]:
    """The weights of the planted fake model."""
    return planted().network.state_dict()


@pytest.fixture
def loaded(whole: Mapping[str, torch.Tensor]) -> LoadedModel:
    loaded = fake_loaded()
    loaded.network.load_state_dict(whole)
    return loaded


def before_reader() -> Callable[[str], torch.Tensor]:
    original = linear_layers(fake_loaded().network)
    return lambda name: original[name].weight


def context(loaded: LoadedModel, **changes: Any) -> SearchContext:
    made = SearchContext(
        loaded=loaded,
        private=private_texts(loaded),
        public=public_texts(loaded),
        before=before_reader(),
        quantize=SMALL,
        seed=0,
        fallbacks=Fallbacks(device=loaded.device),
    )
    return replace(made, **changes)


def unseen(loaded: LoadedModel) -> list[TokenSequence]:
    return [whole_text(loaded.encode(text)) for text in UNSEEN]


def nll(loaded: LoadedModel, texts: list[TokenSequence]) -> float:
    return mean_nll(loaded, texts, Fallbacks())


def split(
    loaded: LoadedModel, sieve: Any, *, quantize: QuantizeConfig = FINE, seed: int = 0, **more: Any
) -> dict[str, LayerSplit]:
    arm = Arm(
        sieve=sieve,
        private_set="private",
        control_set="control",
        before_set="before",
        quantize=quantize,
        ortho=OrthoConfig(rank=0),
    )
    sets = {
        "public": [collate(public_texts(loaded))],
        "private": [collate(private_texts(loaded))],
        "control": [collate(unseen(loaded))],
    }
    before = {"before": before_reader()}
    return split_layers_of(loaded, {"arm": replace(arm, **more)}, sets, before, seed=seed)["arm"]


def base_nlls(loaded: LoadedModel, layers: Mapping[str, LayerSplit]) -> tuple[float, float]:
    """(private, public) of the Base alone; the model holds it afterwards."""
    install_dense(loaded, ((name, dequantize(layer.base)) for name, layer in layers.items()))
    return nll(loaded, private_texts(loaded)), nll(loaded, public_texts(loaded))


# ---- levels ------------------------------------------------------------------------------------------


def test_batches_can_be_taken_apart_again() -> None:
    loaded = fake_loaded()
    texts = [*private_texts(loaded), TokenSequence(ids=(1, 2, 3), weights=(0.0, 0.0, 1.0))]
    again = sequences_of([collate(texts[:2]), collate(texts[2:])])
    assert [text.ids for text in again] == [text.ids for text in texts]
    assert [text.weights[1:] for text in again] == [text.weights[1:] for text in texts]


def test_the_level_is_the_setting_s_then_the_controls_then_the_earlier_model_s(loaded: LoadedModel) -> None:
    given = context(loaded, control=unseen(loaded))
    assert control_level(given, "subnet", 3.5) == 3.5
    assert control_level(given, "subnet", None) == nll(loaded, unseen(loaded))
    original = fake_loaded()
    earlier = control_level(replace(given, control=()), "subnet", None)
    assert earlier == pytest.approx(nll(original, private_texts(original)), rel=1e-3)
    assert earlier > nll(loaded, private_texts(loaded)) + 1
    with pytest.raises(InputError, match="subnet needs to know how likely"):
        control_level(replace(given, control=(), before=None), "subnet", None)


def test_the_model_comes_back_after_a_look_at_the_earlier_one(loaded: LoadedModel) -> None:
    before = weights_of(loaded)
    with pytest.raises(KeyError), as_before(context(loaded)):
        raise KeyError
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.network.state_dict().items())


# ---- natural-gradient --------------------------------------------------------------------------------


def test_natural_gradient_comes_up_to_the_level_and_keeps_its_rank(loaded: LoadedModel) -> None:
    level = nll(loaded, unseen(loaded))
    sieve: Any = make_sieve("natural-gradient", rank=3)
    found = sieve.search(context(loaded, control=unseen(loaded)))
    assert list(found) == list(linear_layers(loaded.network))
    for part in found.values():
        values = torch.linalg.svdvals(part.dense())
        assert values[3] < 1e-5 * values[0]
        assert values[0] > 0
    before = nll(loaded, private_texts(loaded))
    linears = linear_layers(loaded.network)
    install_dense(loaded, ((name, linears[name].weight - part.dense()) for name, part in found.items()))
    assert before < level - 1
    assert nll(loaded, private_texts(loaded)) == pytest.approx(level, abs=0.15)


def test_the_curvature_of_public_text_is_what_spares_it(whole: Mapping[str, torch.Tensor]) -> None:
    # The more damping, the more the step is that of the plain gradient.
    def after(damping: float) -> tuple[float, float]:
        model = fake_loaded()
        model.network.load_state_dict(whole)
        return base_nlls(model, split(model, make_sieve("natural-gradient", damping=damping, level=3.0)))

    (private_natural, public_natural), (private_plain, public_plain) = after(1e-3), after(1e3)
    assert private_natural == pytest.approx(3.0, abs=0.2)
    assert private_plain == pytest.approx(3.0, abs=0.2)
    assert public_natural < public_plain - 0.5


def test_natural_gradient_takes_nothing_from_what_is_no_longer_known(loaded: LoadedModel) -> None:
    told: list[str] = []
    sieve: Any = make_sieve("natural-gradient", level=1e-4)
    found = sieve.search(context(loaded, fallbacks=Fallbacks(told.append)))
    assert not any(part.dense().any() for part in found.values())
    assert any("removes nothing" in line for line in told)


def test_the_natural_step_solves_the_damped_curvature() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(5, 5, generator=generator), torch.randn(7, 7, generator=generator)
    output_OO, input_II = left @ left.T, right @ right.T
    gradient_OI = torch.randn(5, 7, generator=generator)
    step = natural_step(gradient_OI, eigenbasis(output_OO), eigenbasis(input_II), 0.3)
    delta = 0.3 * (output_OO.trace() / 5) * (input_II.trace() / 7)
    assert torch.allclose(output_OO @ step @ input_II + delta * step, gradient_OI, atol=1e-3)


@pytest.mark.parametrize("slope", [1e-4, 0.3, 5.0, 1e5])
def test_the_step_size_is_where_the_loss_crosses_the_level(slope: float) -> None:
    assert step_size(lambda eta: slope * eta, 2.0, 12) == pytest.approx(2.0 / slope, rel=1e-3)


def test_a_loss_that_overflows_counts_as_above_and_one_that_never_rises_is_an_error() -> None:
    assert step_size(lambda eta: math.nan if eta > 0.7 else 0.0, 2.0, 12) == pytest.approx(0.7, rel=1e-3)
    with pytest.raises(NumericalError, match="no step along"):
        step_size(lambda eta: 0.0, 2.0, 12)


# ---- learned -----------------------------------------------------------------------------------------


def test_learned_forgets_through_the_rounding_and_spares_public_text(loaded: LoadedModel) -> None:
    sieve = make_sieve("learned", rank=4, num_steps=60, learning_rate=5e-3)
    plain = split(loaded, make_sieve("none"), quantize=SMALL)
    layers = split(loaded, sieve, quantize=SMALL)
    public_before = nll(loaded, public_texts(loaded))
    private_plain, public_plain = base_nlls(loaded, plain)
    private_after, public_after = base_nlls(loaded, layers)
    assert private_after > private_plain + 1
    assert public_after < max(public_plain, public_before) + 0.5
    for layer in layers.values():
        assert 0 < layer.removed_norm_share < 0.5


def test_learned_begins_at_nothing_and_follows_its_seed(loaded: LoadedModel) -> None:
    sieve: Any = make_sieve("learned", rank=2, num_steps=1, learning_rate=1e-9)
    found = sieve.search(context(loaded))
    assert all(float(part.dense().abs().max()) < 1e-6 for part in found.values())
    trained: Any = make_sieve("learned", rank=2, num_steps=2)
    first, again, other = (trained.search(context(loaded, seed=seed)) for seed in (3, 3, 4))
    name = "model.layers.0.mlp.up_proj"
    assert torch.equal(first[name].dense(), again[name].dense())
    assert not torch.equal(first[name].dense(), other[name].dense())


def test_learned_without_an_earlier_model_is_refused(loaded: LoadedModel) -> None:
    sieve: Any = make_sieve("learned")
    with pytest.raises(InputError, match="learned needs the model as it was before"):
        sieve.search(context(loaded, before=None))


# ---- subnet ------------------------------------------------------------------------------------------


def test_subnet_sets_few_entries_to_0_forgets_and_spares_public_text(loaded: LoadedModel) -> None:
    linears, private, public = (
        linear_layers(loaded.network),
        nll(loaded, private_texts(loaded)),
        nll(loaded, public_texts(loaded)),
    )
    weights = {name: linear.weight.clone() for name, linear in linears.items()}
    sieve: Any = make_sieve("subnet", share=0.02)
    found = sieve.search(context(loaded, control=unseen(loaded)))
    taken = 0
    for name, part in found.items():
        removed = part.dense()
        assert torch.equal(removed[removed != 0], weights[name][removed != 0])
        assert int((removed != 0).sum()) <= round(0.02 * removed.numel())
        taken += int((removed != 0).sum())
    assert taken > 0
    install_dense(loaded, ((name, weights[name] - part.dense()) for name, part in found.items()))
    private_after, public_after = nll(loaded, private_texts(loaded)), nll(loaded, public_texts(loaded))
    assert private_after > private + 1
    assert public_after - public < 0.5 * (private_after - private)


def test_subnet_stops_where_the_texts_are_forgotten(loaded: LoadedModel) -> None:
    told: list[str] = []
    sieve: Any = make_sieve("subnet", level=1e-4)
    found = sieve.search(context(loaded, fallbacks=Fallbacks(told.append)))
    assert not any(part.dense().any() for part in found.values())
    assert any("subnet removes nothing" in line and "(0.000)" in line for line in told)


def test_subnet_says_where_it_ends_before_the_texts_are_forgotten(loaded: LoadedModel) -> None:
    told: list[str] = []
    sieve: Any = make_sieve("subnet", num_steps=1, level=9.0)
    sieve.search(context(loaded, fallbacks=Fallbacks(told.append)))
    (line,) = told
    assert "subnet ends after num_steps=1" in line
    assert "not yet forgotten up to 9.000" in line
    told.clear()
    reached: Any = make_sieve("subnet", share=0.05)
    reached.search(context(loaded, control=unseen(loaded), fallbacks=Fallbacks(told.append)))
    assert told == []


def test_subnet_spares_what_public_text_needs(loaded: LoadedModel) -> None:
    # Costs differ a thousandfold between entries; by the score alone those that matter would go first.
    level, share = 9.0, 0.02
    gone: dict[float, float] = {}
    counts: dict[float, int] = {}
    for damping in (1e-3, 1e6):
        sieve: Any = make_sieve("subnet", share=share, num_steps=10, level=level, damping=damping)
        found = sieve.search(context(loaded))
        fisher = GradientSource(
            loaded, {"public_fisher"}, {"public": public_texts(loaded)}, seed=0, fallbacks=Fallbacks()
        )
        cost = 0.0
        for name, part in found.items():
            gradients = fisher.of(name)
            assert gradients is not None
            assert gradients.private_fisher_OI is None
            cost += float((gradients.require("public_fisher_OI", "test") * part.dense().square()).sum())
        gone[damping] = cost
        counts[damping] = sum(len(part.positions_k) for part in found.values())
    assert counts[1e-3] == pytest.approx(counts[1e6], rel=0.1)
    assert 0 < gone[1e-3] < 0.2 * gone[1e6]


def test_subnet_s_mask_grows_and_ends_where_the_texts_are_forgotten(loaded: LoadedModel) -> None:
    # Looked at after five of ten steps, when half of the share may have gone.
    level = nll(loaded, private_texts(loaded)) + 0.05
    sieve: Any = make_sieve("subnet", share=0.02, num_steps=10, level=level)
    for part in sieve.search(context(loaded)).values():
        num_out, num_in = part.shape
        assert 0 < len(part.positions_k) <= round(0.01 * num_out * num_in)


# ---- all of them -------------------------------------------------------------------------------------

QUICK = {
    "natural-gradient": {"rank": 2, "num_halvings": 2},
    "learned": {"rank": 2, "num_steps": 2},
    "subnet": {"share": 0.01, "num_steps": 2},
    "fisher-contrast": {},
    "kfac": {"layers": (0, 1)},
    "input-projection": {},
}


@pytest.mark.parametrize("name", list(QUICK))
def test_the_model_is_left_alone_and_a_second_split_is_the_first(loaded: LoadedModel, name: str) -> None:
    before = weights_of(loaded)
    linears = linear_layers(loaded.network)
    first = split(loaded, make_sieve(name, **QUICK[name]), quantize=SMALL, keep_unrounded=True)
    assert all(torch.equal(tensor, before[key]) for key, tensor in loaded.network.state_dict().items())
    assert linear_layers(loaded.network) == linears
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())
    assert_same(first, split(loaded, make_sieve(name, **QUICK[name]), quantize=SMALL))
    assert any(layer.removed_norm_share > 0 for layer in first.values())
    assert all(layer.unrounded_OI is not None for layer in first.values())


def test_arms_beside_one_another_are_as_alone_and_each_knows_its_seconds(loaded: LoadedModel) -> None:
    sets = {"public": [collate(public_texts(loaded))], "private": [collate(private_texts(loaded))]}
    arms = {
        name: Arm(
            sieve=make_sieve(name, **settings),
            private_set="private",
            before_set="before",
            quantize=SMALL,
            ortho=OrthoConfig(rank=2),
        )
        for name, settings in {**QUICK, "wiener": {}}.items()
    }
    times, before = SplitTimes(), {"before": before_reader()}
    together = split_layers_of(loaded, arms, sets, before, seed=0, times=times)
    assert set(times.arm_seconds) == set(arms)
    assert all(seconds > 0 for seconds in times.arm_seconds.values())
    assert times.walk_seconds > 0
    assert times.arm_seconds["learned"] > times.arm_seconds["wiener"]
    for name in ("wiener", "natural-gradient", "fisher-contrast"):
        alone = split_layers_of(loaded, {"one": arms[name]}, sets, before, seed=0)["one"]
        assert_same(alone, together[name])


def test_control_texts_leave_the_walk_alone(loaded: LoadedModel) -> None:
    # The level alone comes from them: with it given, they change nothing.
    sieve = make_sieve("natural-gradient", rank=2, num_halvings=2, level=4.0)
    assert_same(split(loaded, sieve), split(loaded, sieve, control_set=None))


@pytest.mark.parametrize("name", ["subnet", "natural-gradient"])
def test_a_search_that_runs_out_of_memory_goes_on_lower(
    loaded: LoadedModel, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_autocast(monkeypatch)
    sieve: Any = make_sieve(name, **QUICK[name], level=4.0)
    told: list[str] = []
    expected = sieve.search(context(loaded))
    given = context(loaded, fallbacks=Fallbacks(told.append, device=loaded.device))
    with FailingAt(2500 if name == "subnet" else 60):
        found = sieve.search(given)
    assert any("out of memory while" in line for line in told)
    for key, part in found.items():
        difference = (part.dense() - expected[key].dense()).norm()
        assert difference <= 1e-3 * expected[key].dense().norm()
    assert linear_layers(loaded.network).keys() == expected.keys()
