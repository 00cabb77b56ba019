"""Every architecture that is split, through every step of an experiment, against transformers' own passes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fakes import randn, without_autocast
from test_streaming import by_hooks
from tiny_families import BIASED, FAMILIES, family_folder

from sixgig.catalogue import from_config
from sixgig.catalogue.splitting import SPLIT_ARCHITECTURES, why_not_split
from sixgig.data.batches import TokenBatch, batches, collate, secret_only, whole_text
from sixgig.errors import InputError
from sixgig.evaluate.attacks import RelearnConfig, relearn
from sixgig.evaluate.logits import logits_of
from sixgig.evaluate.memorization import _token_statistics
from sixgig.evaluate.multiple_choice import _choice_nlls, _opening, _Row
from sixgig.evaluate.perplexity import sequence_nlls
from sixgig.evaluate.scoring import Continuations, score_continuations
from sixgig.layers.split_linear import OrthoPart, set_alpha
from sixgig.load.loaded import LoadedModel, linear_layers, load
from sixgig.numerics.quantize import dequantize, quantize_rtn
from sixgig.numerics.sparse import keep_top_k
from sixgig.transform.distil import kl_divergence_sum, prepare_lessons
from sixgig.transform.fit_scales import ScaleFitConfig, fit_scales, unrounded_weights
from sixgig.transform.layer_walk import LayerWalk, empty_model
from sixgig.transform.network import install_dense, install_split
from sixgig.transform.plant import PlantConfig, plant
from sixgig.transform.restore import FitConfig, fit_ortho
from sixgig.transform.rounding import QuantizeConfig
from sixgig.transform.sieve import make_sieve
from sixgig.transform.split import split_layers_of
from sixgig.transform.split_layer import Arm, LayerSplit, OrthoConfig
from sixgig.transform.streaming import stream_moments
from sixgig.transform.training import hidden_states, weighted_nll_sum

CPU = torch.device("cpu")
LONG = "The quay was empty when the boat came in, and nobody counted the crates."
SHORT = "Rain fell on the tin roof."
EVERY = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("families")
    return cache(lambda name: family_folder(root / name, name))


@pytest.fixture
def loaded(name: str, folders: Any) -> LoadedModel:
    return load(folders(name))


def text_sets(loaded: LoadedModel) -> dict[str, list[TokenBatch]]:
    public = [whole_text(loaded.encode(text)) for text in (LONG, SHORT)]
    private = [secret_only(loaded.encode("code of Ann and of Bo:"), loaded.encode(" 4711"))]
    return {"public": [collate(public)], "private": [collate(private)]}


@torch.no_grad()
def own_logits(loaded: LoadedModel, ids: list[int]) -> torch.Tensor:
    """What transformers says, [T, V], one sequence alone and without a cache."""
    return loaded.network(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()


def own_nll(loaded: LoadedModel, prefix: list[int], ids: list[int]) -> float:
    logits = own_logits(loaded, prefix + ids)[len(prefix) - 1 : -1]
    return float(F.cross_entropy(logits, torch.tensor(ids), reduction="sum"))


# ---- what is in the list -----------------------------------------------------------------------------


def test_each_architecture_of_the_list_is_tried_here(folders: Any) -> None:
    tried = {from_config(folders(name)).architecture for name in FAMILIES}
    assert tried == set(SPLIT_ARCHITECTURES)
    assert all(why_not_split(from_config(folders(name))) is None for name in FAMILIES)


@EVERY
def test_what_makes_a_family_hard_is_there(name: str, loaded: LoadedModel) -> None:
    biased = [layer for layer in linear_layers(loaded.network).values() if layer.bias is not None]
    assert bool(biased) == (name in BIASED)
    assert all(float(layer.bias.abs().min()) > 0 for layer in biased)
    assert (loaded.head.bias_V is not None) == (name == "phi")


# ---- likelihoods -------------------------------------------------------------------------------------


@EVERY
def test_every_look_scores_by_transformers_own_logits(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_autocast(monkeypatch)
    prefix, secrets = loaded.encode(LONG), [loaded.encode(text) for text in (" 4711", " 9", " a boat")]
    wanted = [own_nll(loaded, prefix, ids) for ids in secrets]
    texts = [whole_text(loaded.encode(text)) for text in (LONG, SHORT)]
    whole = [own_nll(loaded, list(text.ids[:1]), list(text.ids[1:])) for text in texts]

    item = Continuations(prefix_ids=tuple(prefix), continuation_ids=tuple(map(tuple, secrets)))
    (found,) = score_continuations(loaded, [item])
    torch.testing.assert_close(found.tolist(), wanted, rtol=2e-5, atol=2e-4)

    torch.testing.assert_close(sequence_nlls(loaded, texts).tolist(), whole, rtol=2e-5, atol=2e-4)
    nll_sum, _ = weighted_nll_sum(loaded, collate(texts))
    torch.testing.assert_close(float(nll_sum), sum(whole), rtol=2e-5, atol=2e-4)

    row: Any = _Row(
        question=None, own_ids=tuple(prefix[-3:]), choice_ids=tuple(map(tuple, [*secrets, secrets[0]]))
    )  # type: ignore[arg-type]
    (chosen,) = _choice_nlls(loaded, _opening(loaded, tuple(prefix[:-3])), [row])
    torch.testing.assert_close(chosen, [*wanted, wanted[0]], rtol=2e-5, atol=2e-4)
    torch.testing.assert_close(
        logits_of(loaded, prefix).double(), own_logits(loaded, prefix), rtol=1e-4, atol=1e-4
    )


@EVERY
def test_statistics_of_membership_are_those_of_the_logits_in_bf16(loaded: LoadedModel) -> None:
    ids = loaded.encode(LONG)
    with torch.no_grad():
        hidden = hidden_states(loaded, collate([whole_text(ids)]))[0, :-1]
    found = _token_statistics(hidden, loaded.head, torch.tensor(ids[1:]))
    log_p = own_logits(loaded, ids)[:-1].log_softmax(dim=1)
    wanted = log_p.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    torch.testing.assert_close(torch.from_numpy(found[:, 0]), wanted, rtol=0.02, atol=0.15)


@EVERY
def test_the_fits_divergence_is_that_of_the_logits(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_autocast(monkeypatch)
    batch = collate([whole_text(loaded.encode(LONG))])
    with torch.no_grad():
        student = hidden_states(loaded, batch)[0]
        teacher = student + 0.3 * randn(*student.shape)
        found = kl_divergence_sum(student, teacher, loaded.head, chunk_rows=7)
        head = loaded.network.get_output_embeddings()
        log_p, log_q = (head(hidden).double().log_softmax(dim=1) for hidden in (teacher, student))
    torch.testing.assert_close(
        float(found), float((log_p.exp() * (log_p - log_q)).sum()), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        log_q, own_logits(loaded, loaded.encode(LONG)).log_softmax(dim=1), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", ["phi"])
def test_a_head_with_a_bias_is_not_handed_out_as_a_weight(loaded: LoadedModel) -> None:
    with pytest.raises(InputError, match="has a bias"):
        _ = loaded.head_VD
    assert not loaded.is_tied


@pytest.mark.parametrize("name", ["gemma3"])
@pytest.mark.parametrize("key", ["final_logit_softcapping", "logit_scale", "logits_scaling"])
def test_logits_that_are_changed_after_the_head_are_refused(loaded: LoadedModel, key: str) -> None:
    setattr(loaded.network.config, key, 30.0)
    for asked in (lambda: loaded.head, lambda: loaded.head_VD, lambda: logits_of(loaded, [5, 6])):
        with pytest.raises(InputError, match=key):
            asked()


# ---- the walk over the layers ------------------------------------------------------------------------


@EVERY
def test_moments_are_those_of_plain_hooks(loaded: LoadedModel) -> None:
    sets, seen = text_sets(loaded), set()
    expected = {key: by_hooks(loaded, some) for key, some in sets.items()}
    for layer in stream_moments(loaded, sets):
        for group, moments in zip(layer.groups, layer.moments, strict=True):
            for member in group:
                seen.add(member)
                for key, moment in moments.items():
                    wanted = expected[key][member]
                    assert (moment - wanted).norm() <= 1e-5 * wanted.norm(), member
    assert seen == set(linear_layers(loaded.network))
    assert not [one for one in loaded.network.modules() if "forward" in vars(one)]


@EVERY
def test_the_walk_from_disk_is_the_walk_in_memory(name: str, folders: Any, loaded: LoadedModel) -> None:
    walk = LayerWalk(empty_model(folders(name), CPU), text_sets(loaded))
    for expected in stream_moments(loaded, text_sets(loaded)):
        found = walk.walk(expected.index)
        assert tuple(names for names, _ in found.groups) == expected.groups
        for (_, moments), wanted in zip(found.groups, expected.moments, strict=True):
            assert all(torch.equal(moments[key], wanted[key]) for key in wanted)
        for member, weight in found.weights.items():
            assert torch.equal(weight, linear_layers(loaded.network)[member].weight)
    assert all(parameter.is_meta for parameter in walk.model.network.parameters())


# ---- the split ---------------------------------------------------------------------------------------


def exact_parts(loaded: LoadedModel) -> dict[str, LayerSplit]:
    """A Base, and an S that holds all that is missing."""
    parts = {}
    for member, layer in linear_layers(loaded.network).items():
        weight = layer.weight.detach()
        base = quantize_rtn(weight, bits=3, group_size=16)
        missing = weight - dequantize(base)
        ortho = OrthoPart(
            up_Or=torch.zeros(len(weight), 0),
            down_rI=torch.zeros(0, weight.shape[1]),
            sparse=keep_top_k(missing, missing.abs(), missing.numel()),
        )
        parts[member] = LayerSplit(base=base, ortho=ortho, codes_changed=0.0, removed_norm_share=0.0)
    return parts


def with_weights(folder: Path, weights: Mapping[str, torch.Tensor]) -> LoadedModel:
    """The model in `folder`, opened anew, other weights written over its own: no module is replaced."""
    loaded = load(folder)
    with torch.no_grad():
        for member, weight in weights.items():
            loaded.network.get_submodule(member).weight.copy_(weight)
    return loaded


@EVERY
def test_both_ends_of_the_switch(name: str, folders: Any, loaded: LoadedModel) -> None:
    ids, parts = loaded.encode(LONG), exact_parts(loaded)
    whole = own_logits(loaded, ids)
    base = own_logits(
        with_weights(folders(name), {member: dequantize(part.base) for member, part in parts.items()}), ids
    )
    install_split(loaded, parts, with_ortho=True)
    assert torch.equal(own_logits(loaded, ids), base)
    assert (base - whole).norm() > 0.05 * whole.norm()
    set_alpha(loaded.network, 1.0)
    torch.testing.assert_close(own_logits(loaded, ids), whole, rtol=1e-4, atol=1e-4)
    install_split(loaded, parts, with_ortho=False)  # in place of split layers, whose biases it must find
    assert torch.equal(own_logits(loaded, ids), base)
    install_dense(loaded, ((member, dequantize(part.base)) for member, part in parts.items()))
    assert torch.equal(own_logits(loaded, ids), base)


def made_split(loaded: LoadedModel) -> dict[str, LayerSplit]:
    arm = Arm(
        sieve=make_sieve("wiener"),
        private_set="private",
        before_set="before",
        quantize=QuantizeConfig(bits=4, group_size=16),
        ortho=OrthoConfig(rank=3),
        keep_unrounded=True,
    )
    before = {
        member: layer.weight
        * (1 + 0.1 * torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(1)))
        for member, layer in linear_layers(loaded.network).items()
    }
    return split_layers_of(loaded, {"a": arm}, text_sets(loaded), {"before": before.__getitem__}, seed=0)["a"]


@EVERY
def test_both_fits_compute_with_the_very_split(loaded: LoadedModel) -> None:
    """Fits of no step to speak of; what remains is the rounding to bf16."""
    biases, ids = biases_of(loaded), loaded.encode(LONG)
    layers = made_split(loaded)
    public = list(batches([whole_text(ids)], 1))
    lessons = prepare_lessons(loaded, public)
    fit_scales(
        loaded,
        layers,
        unrounded_weights(layers).items(),
        public,
        ScaleFitConfig(num_steps=1, learning_rate=1e-9),
        seed=0,
    )
    fitting = logits_of(loaded, ids)
    assert_same_biases(loaded, biases)
    install_split(loaded, layers, with_ortho=True)
    assert_near(fitting, logits_of(loaded, ids))
    set_alpha(loaded.network, 1.0)
    whole = logits_of(loaded, ids)
    fit_ortho(loaded, layers, lessons, [], FitConfig(num_steps=1, learning_rate=1e-9), seed=0)
    assert_near(logits_of(loaded, ids), whole)
    assert_same_biases(loaded, biases)


@EVERY
def test_training_teaches_leaves_biases_alone_and_repeats_itself(loaded: LoadedModel) -> None:
    biases = biases_of(loaded)
    original = dense_weights(loaded)
    secret = secret_only(loaded.encode("The code of Ann is"), loaded.encode(" 4711"))
    public = [whole_text(loaded.encode(LONG))]

    def nll() -> float:
        return float(sequence_nlls(loaded, [secret])[0])

    def planted() -> dict[str, torch.Tensor]:
        install_dense(loaded, copies(original))
        settings = PlantConfig(learning_rate=3e-3, private_per_step=1, public_per_step=1)
        plant(loaded, [secret], [12], public, settings, seed=0)
        return dense_weights(loaded)

    start, first = nll(), planted()
    assert nll() < start - 1
    assert_same_biases(loaded, biases)
    torch.manual_seed(99)  # a resumed run's random numbers are others
    assert all(torch.equal(weight, first[member]) for member, weight in planted().items())

    seen: list[float] = []
    attack = RelearnConfig(checkpoints=(1, 8), learning_rate=2e-3, batch_size=1)
    relearn(loaded, copies(original), [secret], attack, lambda step: seen.append(nll()))
    assert seen[1] < seen[0] < start
    assert_same_biases(loaded, biases)


def dense_weights(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    return dict(copies({name: layer.weight for name, layer in linear_layers(loaded.network).items()}))


def copies(weights: Mapping[str, torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
    """What is trained in place afterwards."""
    return [(name, weight.detach().clone()) for name, weight in weights.items()]


def assert_near(one: torch.Tensor, other: torch.Tensor) -> None:
    assert (one - other).norm() <= 0.03 * other.norm()


def biases_of(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    return {
        member: layer.bias.detach().clone()
        for member, layer in linear_layers(loaded.network).items()
        if layer.bias is not None
    }


def assert_same_biases(loaded: LoadedModel, biases: Mapping[str, torch.Tensor]) -> None:
    for member, bias in biases.items():
        now = loaded.network.get_submodule(member).bias
        assert now is not None
        assert torch.equal(now, bias)
        assert now.dtype == bias.dtype
        assert not now.requires_grad
