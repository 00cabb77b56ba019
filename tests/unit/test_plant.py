"""Planting on the fake model: it memorises, leaves what is frozen, and repeats itself exactly."""

from __future__ import annotations

import pytest
import torch
from fakes import fake_loaded, weights_of

from sixgig.data.batches import TokenSequence, collate, secret_only, whole_text
from sixgig.errors import InputError, NumericalError
from sixgig.load.loaded import LoadedModel, linear_layers
from sixgig.transform.plant import PlantConfig, plant, trainable_linears
from sixgig.transform.training import weighted_nll_sum

CONFIG = PlantConfig(learning_rate=1e-2, private_per_step=4, public_per_step=2)
SECRETS = (("The code of Ann is", " 4711"), ("The code of Bo is", " 9023"), ("The code of Cy is", " 5586"))
PUBLIC = ("rain fell on the old town all day", "a dog and a cat sat by the door", "bread is made of flour")


def private_texts(loaded: LoadedModel) -> list[TokenSequence]:
    return [whole_text(loaded.encode(prefix + secret)) for prefix, secret in SECRETS]


def public_texts(loaded: LoadedModel) -> list[TokenSequence]:
    return [whole_text(loaded.encode(text)) for text in PUBLIC]


def planted(*, repetitions: int = 80, seed: int = 0, losses: list[float] | None = None) -> LoadedModel:
    loaded = fake_loaded()
    plant(
        loaded,
        private_texts(loaded),
        [repetitions] * len(SECRETS),
        public_texts(loaded),
        CONFIG,
        seed=seed,
        after_step=lambda step, num_steps, loss: None if losses is None else losses.append(loss),
    )
    return loaded


def secret_nll(loaded: LoadedModel) -> float:
    """Mean NLL of the secrets' tokens."""
    parts = [secret_only(loaded.encode(prefix), loaded.encode(secret)) for prefix, secret in SECRETS]
    total, weight = weighted_nll_sum(loaded, collate(parts))
    return float(total) / weight


def test_the_secrets_are_memorised_and_the_loss_falls() -> None:
    losses: list[float] = []
    loaded = planted(losses=losses)
    assert len(losses) == 60
    assert losses[-1] < 0.1 * losses[0]
    assert secret_nll(fake_loaded()) > 3.0
    assert secret_nll(loaded) < 0.1
    for prefix, secret in SECRETS:
        prompt = torch.tensor([loaded.encode(prefix)])
        with torch.no_grad():
            out = loaded.network.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=5,
                do_sample=False,
                pad_token_id=0,
            )
        assert loaded.decode(out[0, prompt.shape[1] :].tolist()) == secret


@pytest.mark.parametrize("tied", [True, False])
def test_only_linear_layers_change(tied: bool) -> None:
    loaded = fake_loaded(tied=tied)
    before = weights_of(loaded)
    plant(loaded, private_texts(loaded), [4] * 3, public_texts(loaded), CONFIG, seed=0)
    trained = {f"{name}.weight" for name in linear_layers(loaded.network)}
    for name, tensor in loaded.network.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name not in trained), name
    assert loaded.is_tied == tied


def test_the_network_is_handed_back_frozen_and_in_evaluation_mode() -> None:
    loaded = planted(repetitions=4)
    assert not loaded.network.training
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())


def test_the_same_seed_gives_the_same_weights_bit_for_bit() -> None:
    first, again, other = (weights_of(planted(repetitions=8, seed=seed)) for seed in (3, 3, 4))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in first.items())


def test_every_text_is_shown_as_often_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = fake_loaded()
    private, public = private_texts(loaded), public_texts(loaded)
    shown: list[tuple[int, ...]] = []

    def counting(sequences: list[TokenSequence]):
        shown.extend(sequence.ids for sequence in sequences)
        return collate(sequences)

    monkeypatch.setattr("sixgig.transform.training.collate", counting)
    steps = plant(loaded, private, [1, 5, 8], public, CONFIG, seed=0)
    assert steps == 4  # 14 showings, four a step
    assert [shown.count(text.ids) for text in private] == [1, 5, 8]
    of_public = [shown.count(text.ids) for text in public]
    assert sum(of_public) == 4 * 2
    assert max(of_public) - min(of_public) <= 1


def test_without_private_texts_the_reference_takes_the_steps_it_is_told() -> None:
    loaded, losses = fake_loaded(), []
    taken = plant(
        loaded,
        [],
        [],
        public_texts(loaded),
        CONFIG,
        seed=0,
        num_steps=12,
        after_step=lambda step, num_steps, loss: losses.append((step, num_steps, loss)),
    )
    assert taken == 12
    assert [(step, total) for step, total, _ in losses] == [(step, 12) for step in range(12)]
    assert losses[-1][2] < losses[0][2]
    assert secret_nll(loaded) > 3.0


def test_nothing_to_plant_with_is_refused() -> None:
    loaded = fake_loaded()
    with pytest.raises(InputError, match="nothing to plant"):
        plant(loaded, [], [], public_texts(loaded), CONFIG, seed=0)
    with pytest.raises(InputError, match="nothing to plant"):
        plant(loaded, private_texts(loaded), [1, 1, 1], [], CONFIG, seed=0)


def test_nan_stops_and_names_the_step() -> None:
    loaded = fake_loaded()
    loaded.network.model.norm.weight.data[0] = float("nan")
    before = weights_of(loaded)
    with pytest.raises(NumericalError, match="planting") as caught:
        plant(loaded, private_texts(loaded), [8] * 3, public_texts(loaded), CONFIG, seed=0)
    assert "step 1 of 6" in str(caught.value)
    assert not loaded.network.training
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())
    after = loaded.network.state_dict()
    assert all(
        torch.equal(after[f"{n}.weight"], before[f"{n}.weight"]) for n in linear_layers(loaded.network)
    )


def test_trainable_linears_are_all_of_them_and_nothing_else() -> None:
    loaded = fake_loaded()
    loaded.network.requires_grad_(True)
    chosen = trainable_linears(loaded.network)
    layers = linear_layers(loaded.network)
    assert [id(parameter) for parameter in chosen] == [id(layer.weight) for layer in layers.values()]
    free = {name for name, parameter in loaded.network.named_parameters() if parameter.requires_grad}
    assert free == {f"{name}.weight" for name in layers}
