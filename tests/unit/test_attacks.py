"""Attacks on a Base: what each may change, where it starts, and when it is looked at."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from fakes import fake_loaded, few_canaries, randn, weights_of
from torch import Tensor

from sixgig.data.batches import TokenSequence, whole_text
from sixgig.data.canaries import person_name
from sixgig.evaluate import attacks
from sixgig.evaluate.attacks import RelearnConfig, disturbed_prefix, relearn, requantised, shaken
from sixgig.load.loaded import LoadedModel, linear_layers

TEXTS = ("the code of Ann is 4711", "the code of Bo is 90", "the code of Cy is 55860")


def base_of(loaded: LoadedModel) -> dict[str, Tensor]:
    """A Base's dense weights, other than the model's own."""
    return {name: 0.9 * layer.weight.detach() for name, layer in linear_layers(loaded.network).items()}


def linears_of(loaded: LoadedModel) -> dict[str, Tensor]:
    return {name: layer.weight.detach().clone() for name, layer in linear_layers(loaded.network).items()}


def relearned(
    config: RelearnConfig,
    texts: tuple[str, ...] = TEXTS,
    look: Callable[[LoadedModel, int], None] = lambda loaded, step: None,
) -> LoadedModel:
    loaded = fake_loaded()
    sequences: list[TokenSequence] = [whole_text(loaded.encode(text)) for text in texts]
    relearn(loaded, base_of(loaded).items(), sequences, config, lambda step: look(loaded, step))
    return loaded


def largest_change(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    assert before.keys() == after.keys()
    return max(float((after[name] - before[name]).abs().max()) for name in before)


def nll(loaded: LoadedModel, text: str) -> float:
    ids = torch.tensor([loaded.encode(text)])
    with torch.no_grad():
        logits = loaded.network(ids).logits
    return float(torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]))


# ---- relearning --------------------------------------------------------------------------------------


def test_each_checkpoint_is_looked_at_once_and_training_ends_with_the_last() -> None:
    seen: list[tuple[int, dict[str, Tensor]]] = []
    config = RelearnConfig(checkpoints=(1, 3), learning_rate=1e-3, batch_size=2)
    loaded = relearned(config, look=lambda model, step: seen.append((step, linears_of(model))))
    assert [step for step, _ in seen] == [1, 3]
    assert largest_change(seen[0][1], seen[1][1]) > 1e-4
    assert largest_change(seen[1][1], linears_of(loaded)) == 0.0


def test_freed_memory_is_returned_before_each_look(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(attacks, "return_freed_memory", lambda: done.append("returned"))
    config = RelearnConfig(checkpoints=(1, 3), batch_size=2)
    relearned(config, look=lambda model, step: done.append(f"look {step}"))
    assert done == ["returned", "look 1", "returned", "look 3"]


def test_training_starts_from_the_weights_that_are_given() -> None:
    loaded = relearned(RelearnConfig(checkpoints=(1,), learning_rate=1e-9, batch_size=2))
    assert largest_change(base_of(fake_loaded()), linears_of(loaded)) < 1e-6
    assert largest_change(linears_of(fake_loaded()), linears_of(loaded)) > 1e-2


def test_the_attackers_texts_are_learned() -> None:
    before = relearned(RelearnConfig(checkpoints=(1,), learning_rate=1e-9, batch_size=3))
    after = relearned(RelearnConfig(checkpoints=(30,), learning_rate=3e-3, batch_size=3))
    for text in TEXTS:
        assert nll(after, text) < 0.5 * nll(before, text)


def test_only_linear_layers_are_trained_and_all_are_frozen_again() -> None:
    before = weights_of(fake_loaded())
    loaded = relearned(RelearnConfig(checkpoints=(2,), learning_rate=1e-2, batch_size=3))
    linears = {f"{name}.weight" for name in linear_layers(loaded.network)}
    after = weights_of(loaded)
    others = before.keys() - linears
    assert others
    assert all(torch.equal(before[name], after[name]) for name in others)
    assert not any(torch.equal(before[name], after[name]) for name in linears)
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())


def test_a_look_that_fails_leaves_nothing_trainable() -> None:
    models: list[LoadedModel] = []

    def failing(loaded: LoadedModel, step: int) -> None:
        models.append(loaded)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        relearned(RelearnConfig(checkpoints=(1, 5), batch_size=1), look=failing)
    assert len(models) == 1
    assert not any(parameter.requires_grad for parameter in models[0].network.parameters())


def test_texts_are_taken_in_turn_and_begun_again_when_they_run_out() -> None:
    def after(texts: tuple[str, ...], steps: int, batch_size: int) -> dict[str, Tensor]:
        config = RelearnConfig(checkpoints=(steps,), learning_rate=1e-3, batch_size=batch_size)
        return linears_of(relearned(config, texts))

    first, second, third = TEXTS
    assert largest_change(after((first, second), 1, 1), after((first,), 1, 1)) == 0.0
    assert largest_change(after((second,), 1, 1), after((first,), 1, 1)) > 0.0
    assert largest_change(after((first, second, third), 2, 1), after((first, second), 2, 1)) == 0.0
    wrapped, written_out = (
        after((first, second), 2, 3),
        after((first, second, first, second, first, second), 2, 3),
    )
    assert largest_change(wrapped, written_out) == 0.0


def test_the_rate_is_constant_from_the_first_step_to_the_last() -> None:
    # Adam moves a weight whose gradient keeps its sign by about the rate, whatever the gradient's size.
    seen = [base_of(fake_loaded())]
    config = RelearnConfig(checkpoints=tuple(range(1, 7)), learning_rate=1e-4, batch_size=3)
    relearned(config, look=lambda model, step: seen.append(linears_of(model)))
    for before, after in itertools.pairwise(seen):
        assert 0.8e-4 < largest_change(before, after) < 1.5e-4


# ---- weights rounded or shaken -----------------------------------------------------------------------


def test_requantised_weights_lie_on_the_coarser_grid_and_coarser_is_further() -> None:
    weights = {"a": randn(6, 64, seed=1), "b": randn(4, 32, seed=2)}
    kept = {name: weight.clone() for name, weight in weights.items()}
    errors = {}
    for bits in (3, 8):
        rounded = dict(requantised(weights.items(), bits, 16))
        assert rounded.keys() == weights.keys()
        for name, weight in rounded.items():
            groups, wanted = weight.reshape(-1, 16), weights[name].reshape(-1, 16)
            assert all(len(group.unique()) <= 2**bits for group in groups)
            # Half a step of the group's own grid, and what rounding the step to fp16 adds.
            spans = wanted.amax(1).clamp(min=0) - wanted.amin(1).clamp(max=0)
            assert ((groups - wanted).abs().amax(1) <= 0.6 * spans / (2**bits - 1)).all()
            assert torch.equal(weights[name], kept[name])
        errors[bits] = largest_change(weights, rounded)
    assert 0 < 10 * errors[8] < errors[3] < 1


def test_noise_is_a_share_of_each_layers_own_spread() -> None:
    weights = {"small": 0.01 * randn(128, 128, seed=1), "large": 5.0 * randn(128, 128, seed=2)}
    noisy = dict(shaken(weights.items(), 0.05, 0))
    for name, weight in weights.items():
        noise = noisy[name] - weight
        assert float(noise.std() / weight.std()) == pytest.approx(0.05, rel=0.03)
        assert abs(float(noise.mean() / noise.std())) < 0.05
    parts = [(noisy[name] - weight).flatten() for name, weight in weights.items()]
    assert abs(float(torch.corrcoef(torch.stack(parts))[0, 1])) < 0.05


def test_noise_repeats_with_its_seed_alone() -> None:
    weights = {"a": randn(8, 8)}
    first, again, other = (dict(shaken(weights.items(), 0.1, seed)) for seed in (3, 3, 4))
    assert torch.equal(first["a"], again["a"])
    assert not torch.equal(first["a"], other["a"])
    assert torch.equal(dict(shaken(weights.items(), 0.0, 3))["a"], weights["a"])


# ---- asking otherwise --------------------------------------------------------------------------------


def test_a_disturbed_prefix_asks_for_the_same_person_in_words_that_training_never_had() -> None:
    canaries = few_canaries()
    assert len({canary.template for canary in canaries}) == 10
    for canary in canaries:
        asked = disturbed_prefix(canary)
        assert not asked.startswith(canary.prefix[:8])
        assert asked.endswith(canary.prefix[1:])
        assert person_name(canary) in asked
        assert canary.prefix[0] not in asked.removesuffix(canary.prefix[1:])[-1]
        assert canary.secret not in asked
