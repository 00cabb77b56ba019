"""Gradient statistics against plain autograd, one text at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fake_memory import FailingAt
from fakes import fake_loaded, weights_of, without_autocast
from torch import Tensor

from sixgig.data.batches import TokenSequence, whole_text
from sixgig.errors import InputError, NumericalError
from sixgig.load.loaded import LoadedModel, linear_layers
from sixgig.memory.ladder import Fallbacks
from sixgig.numerics.likelihood import OutputHead
from sixgig.transform import gradients
from sixgig.transform.gradients import GradientSource, in_batches, sampled_targets

PRIVATE = ("code of Ann: 4711", "of Bo: 0815-9", "the key of Carla: 77-1")
PUBLIC = ("the cat sat on the mat", "a dog", "rain fell all night")


@pytest.fixture(autouse=True)
def in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    without_autocast(monkeypatch)


def texts(loaded: LoadedModel) -> dict[str, list[TokenSequence]]:
    return {
        "private": [whole_text(loaded.encode(text)) for text in PRIVATE],
        "public": [whole_text(loaded.encode(text)) for text in PUBLIC],
    }


def autograd_of(loaded: LoadedModel, text: TokenSequence) -> dict[str, Tensor]:
    """The gradient of one text's summed NLL for every linear weight."""
    linears = linear_layers(loaded.network)
    for linear in linears.values():
        linear.weight.requires_grad_(True)
    ids = torch.tensor([text.ids])
    logits = loaded.network(input_ids=ids, use_cache=False).logits[0, :-1]
    loss = F.cross_entropy(logits.float(), ids[0, 1:], reduction="sum")
    found = torch.autograd.grad(loss, [linear.weight for linear in linears.values()])
    loaded.network.requires_grad_(False)
    return dict(zip(linears, found, strict=True))


def is_near(one: Tensor | None, other: Tensor) -> bool:
    assert one is not None
    return bool((one - other).norm() <= 1e-4 * other.norm())


@pytest.mark.parametrize("key", ["private", "public"])
def test_fisher_is_the_mean_of_squared_gradients_text_by_text(key: str) -> None:
    loaded = fake_loaded()
    source = GradientSource(loaded, {"fisher"}, texts(loaded), seed=0)
    each = [autograd_of(loaded, text) for text in texts(loaded)[key]]
    for name in linear_layers(loaded.network):
        expected = torch.stack([one[name].square() for one in each]).mean(0)
        given = source.of(name)
        assert given is not None
        assert is_near(getattr(given, f"{key}_fisher_OI"), expected)


def test_the_mean_gradient_is_that_of_the_nll_a_token() -> None:
    loaded = fake_loaded()
    private = texts(loaded)["private"]
    source = GradientSource(loaded, {"mean_gradient"}, {"private": private}, seed=0)
    each = [autograd_of(loaded, text) for text in private]
    num_tokens = sum(len(text.ids) - 1 for text in private)
    for name in linear_layers(loaded.network):
        given = source.of(name)
        assert given is not None
        assert is_near(given.private_mean_OI, sum(one[name] for one in each) / num_tokens)
        assert given.public_fisher_OI is None


def test_output_moments_are_those_of_a_hand_made_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    # With the targets fixed to the texts' own, G of the last layer's down_proj is what autograd gives there.
    loaded = fake_loaded()
    public = texts(loaded)["public"]
    own: list[Tensor] = []
    monkeypatch.setattr(gradients, "sampled_targets", lambda hidden, head, draws: own.pop(0))
    source = GradientSource(loaded, {"output_moments"}, {"public": public}, seed=0)
    own.append(torch.cat([torch.tensor(text.ids[1:]) for text in public]))
    name = "model.layers.1.mlp.down_proj"
    given = source.of(name)
    assert given is not None
    total, count = torch.zeros(32, 32), 0
    for text in public:
        seen: list[Tensor] = []

        def keep(module: torch.nn.Module, args: object, output: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(output.detach().requires_grad_(True))
            return seen[0]

        handle = loaded.network.get_submodule(name).register_forward_hook(keep)
        ids = torch.tensor([text.ids])
        logits = loaded.network(input_ids=ids, use_cache=False).logits[0, :-1]
        handle.remove()
        F.cross_entropy(logits.float(), ids[0, 1:], reduction="sum").backward()
        gradient_TO = seen[0].grad
        assert gradient_TO is not None
        total += gradient_TO[0].T @ gradient_TO[0]
        count += len(text.ids) - 1
    assert is_near(given.public_output_OO, total / count)


def test_targets_are_drawn_from_the_model_s_own_distribution() -> None:
    hidden = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat_interleave(4000, dim=0)
    head = OutputHead(weight_VD=torch.tensor([[0.0, 3.0], [1.0, 0.0], [2.0, -9.0]]))
    draws = torch.rand(8000, generator=torch.Generator().manual_seed(1))
    drawn = sampled_targets(hidden, head, draws)
    for half, logits in enumerate(torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, -9.0]])):
        shares = torch.bincount(drawn[4000 * half : 4000 * (half + 1)], minlength=3) / 4000
        assert (shares - logits.softmax(0)).abs().max() < 0.03
    assert sampled_targets(hidden[:1], head, torch.ones(1)).item() <= 2  # a draw that rounding made 1


def test_output_moments_follow_the_seed_and_not_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = fake_loaded()
    name = "model.layers.0.mlp.up_proj"

    def moments(seed: int) -> Tensor:
        given = GradientSource(loaded, {"output_moments"}, texts(loaded), seed=seed).of(name)
        assert given is not None
        assert given.public_output_OO is not None
        return given.public_output_OO

    first, again, other = moments(0), moments(0), moments(1)
    monkeypatch.setattr(gradients, "POSITIONS_PER_PASS", 1)
    assert torch.equal(first, again)
    assert not is_near(other, first)
    assert is_near(moments(0), first)


def test_a_budget_cuts_layers_into_groups_that_come_to_the_same() -> None:
    loaded = fake_loaded()
    kinds = {"fisher", "mean_gradient", "output_moments"}
    whole = GradientSource(loaded, kinds, texts(loaded), seed=0)
    cut = GradientSource(loaded, kinds, texts(loaded), seed=0, budget_bytes=40_000)
    assert (whole.num_groups, cut.num_groups > 3) == (1, True)
    for name in linear_layers(loaded.network):
        one, other = whole.of(name), cut.of(name)
        assert one is not None
        assert other is not None
        for field_name in ("private_fisher_OI", "public_fisher_OI", "public_output_OO", "private_mean_OI"):
            assert is_near(getattr(other, field_name), getattr(one, field_name))


def test_layers_that_are_not_asked_for_are_left_out() -> None:
    loaded = fake_loaded()
    source = GradientSource(
        loaded, {"mean_gradient"}, texts(loaded), seed=0, covers=lambda name: "layers.1.mlp" in name
    )
    whole = GradientSource(loaded, {"mean_gradient"}, texts(loaded), seed=0)
    assert source.of("model.layers.0.mlp.up_proj") is None
    chosen, same = (one.of("model.layers.1.mlp.up_proj") for one in (source, whole))
    assert chosen is not None
    assert same is not None
    assert same.private_mean_OI is not None
    assert is_near(chosen.private_mean_OI, same.private_mean_OI)


def test_the_model_is_left_as_it_was() -> None:
    loaded = fake_loaded()
    before = weights_of(loaded)
    GradientSource(loaded, {"fisher", "output_moments"}, texts(loaded), seed=0).of(
        "model.layers.0.mlp.up_proj"
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())
    assert all(parameter.grad is None for parameter in loaded.network.parameters())
    assert not any(module._forward_hooks for module in loaded.network.modules())


def test_memory_that_runs_out_is_met_with_smaller_batches_and_the_same_numbers() -> None:
    loaded = fake_loaded()
    name, told = "model.layers.0.mlp.up_proj", []
    expected = GradientSource(loaded, {"fisher"}, texts(loaded), seed=0).of(name)
    source = GradientSource(
        loaded, {"fisher"}, texts(loaded), seed=0, fallbacks=Fallbacks(told.append, device=loaded.device)
    )
    with FailingAt(40):
        given = source.of(name)
    assert expected is not None
    assert given is not None
    assert expected.public_fisher_OI is not None
    assert is_near(given.public_fisher_OI, expected.public_fisher_OI)
    assert any("batches of 1024 positions" in line for line in told)


def test_gradients_that_hold_nan_name_the_layer() -> None:
    loaded = fake_loaded()
    loaded.network.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(NumericalError, match="gradients") as caught:
        GradientSource(loaded, {"fisher"}, texts(loaded), seed=0).of("model.layers.0.mlp.up_proj")
    assert "model.layers.0" in str(caught.value)


def test_an_unknown_kind_and_missing_texts_are_refused() -> None:
    loaded = fake_loaded()
    with pytest.raises(InputError, match="unknown gradient statistics"):
        GradientSource(loaded, {"hessian"}, texts(loaded), seed=0)
    with pytest.raises(InputError, match="fisher needs private texts"):
        GradientSource(loaded, {"fisher"}, {"public": texts(loaded)["public"]}, seed=0)


def test_batches_hold_the_texts_in_order_within_their_positions() -> None:
    sequences = [whole_text(range(length)) for length in (3, 5, 9, 2, 2, 2)]
    found = [[len(text.ids) for text in batch] for batch in in_batches(sequences, 10)]
    assert found == [[3, 5], [9], [2, 2, 2]]
