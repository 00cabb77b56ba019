"""Streamed moments against plain hooks over the whole model."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from fakes import HIDDEN, fake_loaded, weights_of

from sixgig.data.batches import TokenBatch, collate, secret_only, whole_text
from sixgig.errors import InputError, NumericalError
from sixgig.load.loaded import LoadedModel, linear_layers
from sixgig.numerics.moments import SecondMoment
from sixgig.transform import streaming
from sixgig.transform.streaming import LayerMoments, decoder_layers, stream_moments
from sixgig.transform.training import mixed_precision

ATTENTION = tuple(f"self_attn.{letter}_proj" for letter in "qkv")
GROUPS = (ATTENTION, ("self_attn.o_proj",), ("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",))


def text_sets(loaded: LoadedModel) -> dict[str, list[TokenBatch]]:
    public = [whole_text(loaded.encode(text)) for text in ("the cat sat on the mat", "a dog", "rain fell")]
    private = [secret_only(loaded.encode("code of Ann:"), loaded.encode(" 4711"))]
    private += [secret_only(loaded.encode("of Bo:"), loaded.encode(" 0815-9"))]
    return {"public": [collate(public[:2]), collate(public[2:])], "private": [collate(private)]}


def by_hooks(loaded: LoadedModel, batches: list[TokenBatch]) -> dict[str, torch.Tensor]:
    """Every linear layer's second moment in float64, from ordinary passes of the whole model."""
    inputs: dict[str, list[torch.Tensor]] = {}

    def collect(name: str) -> Any:
        return lambda module, args: inputs.setdefault(name, []).append(args[0].double().flatten(0, 1))

    handles = [
        module.register_forward_pre_hook(collect(name))
        for name, module in linear_layers(loaded.network).items()
    ]
    for batch in batches:
        with mixed_precision(loaded.device):
            loaded.network(input_ids=batch.ids_BT, attention_mask=batch.mask_BT, use_cache=False)
    for handle in handles:
        handle.remove()
    weights = torch.cat([batch.weights_BT.flatten() for batch in batches]).double()
    return {
        name: (torch.cat(parts) * weights[:, None]).T @ torch.cat(parts) / weights.sum()
        for name, parts in inputs.items()
    }


def walked(loaded: LoadedModel, sets: dict[str, list[TokenBatch]]) -> list[LayerMoments]:
    return list(stream_moments(loaded, sets))


def test_moments_equal_those_of_plain_hooks() -> None:
    loaded = fake_loaded()
    sets = text_sets(loaded)
    expected = {key: by_hooks(loaded, batches) for key, batches in sets.items()}
    seen = set()
    for layer in walked(loaded, sets):
        for group, moments in zip(layer.groups, layer.moments, strict=True):
            assert set(moments) == {"public", "private"}
            for name in group:
                seen.add(name)
                for key, moment in moments.items():
                    # Same passes under the same autocast, so only the fp32 sum of outer products differs.
                    wanted = expected[key][name]
                    assert (moment - wanted).norm() <= 1e-5 * wanted.norm()
    assert seen == set(linear_layers(loaded.network))


def test_layers_that_read_one_input_share_a_group() -> None:
    loaded = fake_loaded()
    layers = walked(loaded, text_sets(loaded))
    assert [(layer.index, layer.num_layers) for layer in layers] == [(0, 2), (1, 2)]
    for layer in layers:
        prefix = f"model.layers.{layer.index}."
        assert layer.groups == tuple(tuple(prefix + name for name in group) for group in GROUPS)
        sizes = [moments["public"].shape[0] for moments in layer.moments]
        assert sizes == [HIDDEN, HIDDEN, HIDDEN, 48]


def test_weights_select_positions() -> None:
    loaded = fake_loaded()
    ids = loaded.encode("the code is 4711")
    whole = walked(loaded, {"public": [collate([whole_text(ids)])]})
    part = walked(loaded, {"public": [collate([secret_only(ids[:-4], ids[-4:])])]})
    first_input = whole[0].moments[0]["public"], part[0].moments[0]["public"]
    assert not torch.allclose(*first_input, rtol=1e-2)
    captured: list[torch.Tensor] = []
    layer = loaded.network.model.layers[0].self_attn.q_proj
    handle = layer.register_forward_pre_hook(lambda module, args: captured.append(args[0][0].float()))
    with mixed_precision(loaded.device):
        loaded.network(input_ids=torch.tensor([ids]))
    handle.remove()
    chosen = captured[0][-5:-1]  # those that predict the last four tokens
    assert torch.allclose(first_input[1], chosen.T @ chosen / 4, rtol=1e-5, atol=1e-6)


def test_padding_changes_nothing() -> None:
    loaded = fake_loaded()
    texts = [whole_text(loaded.encode(text)) for text in ("short", "a much longer text than that")]
    together = walked(loaded, {"public": [collate(texts)]})
    apart = walked(loaded, {"public": [collate([text]) for text in texts]})
    for one, other in zip(together, apart, strict=True):
        for a, b in zip(one.moments, other.moments, strict=True):
            # bf16 sums in another order for another padding, which moves single inputs by 1 / 256.
            assert (a["public"] - b["public"]).norm() <= 1e-2 * b["public"].norm()


def num_hooks(network: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def test_the_model_is_left_as_it_was() -> None:
    loaded = fake_loaded()
    before = weights_of(loaded)
    walked(loaded, text_sets(loaded))
    assert num_hooks(loaded.network) == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.network.state_dict().items())


def test_no_hook_stays_when_a_walk_ends_early_or_fails() -> None:
    loaded = fake_loaded()
    walk = stream_moments(loaded, text_sets(loaded))
    next(walk)
    del walk
    assert num_hooks(loaded.network) == 0
    loaded.network.model.layers[0].mlp.down_proj.weight.data[:] = float("nan")
    with pytest.raises(NumericalError):
        walked(loaded, text_sets(loaded))
    assert num_hooks(loaded.network) == 0


def test_nan_in_the_activations_names_the_layer() -> None:
    loaded = fake_loaded()
    loaded.network.model.layers[0].mlp.down_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(NumericalError, match=r"layer model\.layers\.1\.self_attn\.q_proj"):
        walked(loaded, text_sets(loaded))


def test_a_set_without_counted_positions_names_the_layer() -> None:
    loaded = fake_loaded()
    nothing = collate([secret_only(loaded.encode("abc"), [])])
    with pytest.raises(InputError, match=r"model\.layers\.0\.self_attn\.q_proj"):
        walked(loaded, {"public": [nothing]})


class _Recorded(SecondMoment):
    """Remembers, weakly, every matrix that a walk makes."""

    made: list[weakref.ref[torch.Tensor]]

    def __init__(self, num_in: int, device: torch.device) -> None:
        super().__init__(num_in, device)
        self.made.append(weakref.ref(self._sum_II))

    def mean(self, name: str) -> torch.Tensor:
        mean = super().mean(name)
        self.made.append(weakref.ref(mean))
        return mean


def count_alive_at_second_layer(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that gets, when decoder layer 1 first runs, how many of layer 0's matrices still live."""
    recorded = type("Recorded", (_Recorded,), {"made": []})
    monkeypatch.setattr(streaming, "SecondMoment", recorded)
    alive: list[int] = []

    def look(module: Any, args: Any) -> None:
        if not alive:
            alive.append(sum(made() is not None for made in recorded.made))

    loaded.network.model.layers[1].register_forward_pre_hook(look)
    return alive


def test_one_layer_s_matrices_live_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = fake_loaded()
    alive = count_alive_at_second_layer(loaded, monkeypatch)
    for layer in stream_moments(loaded, text_sets(loaded)):
        assert len(layer.moments) == 4
        del layer
    assert alive == [0]


def test_models_without_a_list_of_layers_are_refused() -> None:
    with pytest.raises(InputError, match="cannot be streamed"):
        decoder_layers(torch.nn.Linear(2, 2))
