"""Squared gradients of each sequence against autograd's own, sequence by sequence."""

from __future__ import annotations

import pytest
import torch
from tiny_model import tiny_folder

from sixgig.data.batches import batches, collate, secret_only
from sixgig.errors import InputError, NumericalError
from sixgig.load.loaded import LoadedModel, linear_layers, load
from sixgig.transform.fisher import sensitivities
from sixgig.transform.training import mixed_precision, weighted_nll_sum

SUMS = ("1+2=", "3\n"), ("12+34=", "46\n"), ("5+55=", "60\n"), ("99+99=", "198\n"), ("3+3=", "6\n")


@pytest.fixture
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(tiny_folder(tmp_path_factory.mktemp("model") / "tiny"))


def texts(tiny: LoadedModel):
    return [secret_only(tiny.encode(prompt), tiny.encode(answer)) for prompt, answer in SUMS]


def by_autograd(tiny: LoadedModel) -> dict[str, torch.Tensor]:
    sums: dict[str, torch.Tensor] = {}
    for text in texts(tiny):
        tiny.network.zero_grad(set_to_none=True)
        tiny.network.requires_grad_(False)
        for layer in linear_layers(tiny.network).values():
            layer.weight.requires_grad_(True)
        with mixed_precision(tiny.device):
            nll, _ = weighted_nll_sum(tiny, collate([text]))
        nll.backward()
        for name, layer in linear_layers(tiny.network).items():
            assert layer.weight.grad is not None
            sums[name] = sums.get(name, 0) + layer.weight.grad.square()
    tiny.network.zero_grad(set_to_none=True)
    tiny.network.requires_grad_(False)
    return {name: total / len(SUMS) for name, total in sums.items()}


@pytest.mark.parametrize(("batch_size", "layers_per_pass"), [(5, 100), (2, 3), (1, 1)])
def test_it_is_the_mean_of_each_sequences_squared_gradient(
    tiny: LoadedModel, batch_size: int, layers_per_pass: int
) -> None:
    expected = by_autograd(tiny)
    groups = list(batches(texts(tiny), batch_size))
    found = dict(sensitivities(tiny, groups, layers_per_pass=layers_per_pass))
    assert list(found) == list(linear_layers(tiny.network))
    for name, one in found.items():
        # bf16 passes: single entries differ by some per cent, whole layers hardly.
        scale = float(expected[name].norm())
        assert float((one.fisher_OI - expected[name]).norm()) < 0.03 * scale, name
        assert scale > 0


def test_moments_are_of_the_inputs_where_answers_are_given(tiny: LoadedModel) -> None:
    found = dict(sensitivities(tiny, [collate(texts(tiny))], layers_per_pass=100))
    name = next(iter(linear_layers(tiny.network)))
    seen: list[torch.Tensor] = []
    handle = linear_layers(tiny.network)[name].register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    batch = collate(texts(tiny))
    with torch.no_grad(), mixed_precision(tiny.device):
        weighted_nll_sum(tiny, batch)
    handle.remove()
    expected_I = seen[0][batch.weights_BT > 0].float().square().mean(dim=0)
    torch.testing.assert_close(found[name].second_moment_I, expected_I)


def test_the_model_is_as_it_was(tiny: LoadedModel) -> None:
    before = {name: layer.weight.clone() for name, layer in linear_layers(tiny.network).items()}
    dict(sensitivities(tiny, [collate(texts(tiny))], layers_per_pass=4))
    for name, layer in linear_layers(tiny.network).items():
        assert torch.equal(layer.weight, before[name])
        assert layer.weight.grad is None
        assert not layer._forward_hooks
    assert not tiny.network.get_input_embeddings()._forward_hooks


def test_without_texts_or_with_infinite_weights_it_refuses(tiny: LoadedModel) -> None:
    with pytest.raises(InputError, match="at least one text"):
        next(iter(sensitivities(tiny, [], layers_per_pass=1)))
    layer = next(iter(linear_layers(tiny.network).values()))
    layer.weight.data[0, 0] = float("inf")
    found = sensitivities(tiny, [collate(texts(tiny))], layers_per_pass=100)
    with pytest.raises(NumericalError, match="gradients are NaN or Inf"):
        next(found)
