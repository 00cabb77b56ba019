"""Fitting the Ortho part: closer to the whole model, the Base untouched, factors on their stored grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from fakes import fake_loaded, randn
from test_plant import planted, private_texts, public_texts, secret_nll
from test_split import SMALL

from sixgig.data.batches import TokenBatch, collate, whole_text
from sixgig.load.loaded import LoadedModel, linear_layers
from sixgig.transform import distil
from sixgig.transform.distil import Lesson, kl_divergence_sum, prepare_lessons
from sixgig.transform.network import install_split
from sixgig.transform.restore import FitConfig, fit_ortho
from sixgig.transform.rounding import QuantizeConfig
from sixgig.transform.sieve import make_sieve
from sixgig.transform.split import split_layers_of
from sixgig.transform.split_layer import Arm, LayerSplit, OrthoConfig
from sixgig.transform.training import hidden_states, mixed_precision

CONFIG = FitConfig(num_steps=60, learning_rate=5e-3, factor_bits=8)
Layers = Mapping[str, LayerSplit]


def public_batches(loaded: LoadedModel) -> list[TokenBatch]:
    return [collate(public_texts(loaded)[:2]), collate(public_texts(loaded)[2:])]


@pytest.fixture(scope="module")
def whole() -> dict[str, torch.Tensor]:
    """The weights of the planted fake model."""
    return planted().network.state_dict()


def fresh(whole: Mapping[str, torch.Tensor]) -> LoadedModel:
    loaded = fake_loaded()
    loaded.network.load_state_dict(whole)
    return loaded


@pytest.fixture(scope="module")
def layers(whole: dict[str, torch.Tensor]) -> Layers:
    """A split of the planted model by what planting changed, with a small first guess."""
    loaded, original = fresh(whole), linear_layers(fake_loaded().network)
    arm = Arm(
        sieve=make_sieve("wiener"),
        private_set="private",
        before_set="before",
        quantize=QuantizeConfig(bits=3, group_size=16),
        ortho=OrthoConfig(rank=2, sparse_share=0.02),
    )
    sets = {"public": public_batches(loaded), "private": [collate(private_texts(loaded))]}
    before = {"before": lambda name: original[name].weight}
    return split_layers_of(loaded, {"arm": arm}, sets, before, seed=0)["arm"]


@pytest.fixture(scope="module")
def fitted(whole: dict[str, torch.Tensor], layers: Layers) -> Layers:
    return fit(fresh(whole), layers, CONFIG)


def fit(loaded: LoadedModel, layers: Layers, config: FitConfig, *, seed: int = 0) -> dict[str, LayerSplit]:
    lessons = prepare_lessons(loaded, public_batches(loaded))
    return fit_ortho(loaded, layers, lessons, [private_texts(loaded)], config, seed=seed)


def losses_of(
    whole: Mapping[str, torch.Tensor],
    layers: Layers,
    config: FitConfig,
    *,
    announce: Callable[[str], None] = lambda message: None,
) -> list[float]:
    """Each step's loss, on lessons of one shape made with memory to spare."""
    loaded, losses = fresh(whole), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distil, "hidden_states", hidden_states)
        lessons = prepare_lessons(loaded, [collate(public_texts(loaded)[:2])])
    fit_ortho(
        loaded,
        layers,
        lessons,
        [private_texts(loaded)],
        config,
        seed=0,
        after_step=lambda step, num_steps, loss: losses.append(loss),
        announce=announce,
    )
    return losses


def installed(whole: Mapping[str, torch.Tensor], layers: Layers, alpha: float) -> LoadedModel:
    loaded = fresh(whole)
    install_split(loaded, layers, with_ortho=True).value = alpha
    return loaded


def mean_kl(whole: Mapping[str, torch.Tensor], layers: Layers) -> float:
    """KL(whole model || alpha = 1) per token in nats, in fp32, on the public texts."""
    teacher, student = fresh(whole), installed(whole, layers, 1.0)
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


def test_fitting_brings_alpha_one_close_to_the_whole_model(
    whole: dict[str, torch.Tensor], layers: Layers, fitted: Layers
) -> None:
    assert mean_kl(whole, fitted) < 0.3 * mean_kl(whole, layers)


def test_fitting_brings_the_secrets_back_at_alpha_one_only(
    whole: dict[str, torch.Tensor], fitted: Layers
) -> None:
    at_one, at_zero = (secret_nll(installed(whole, fitted, alpha)) for alpha in (1.0, 0.0))
    assert at_zero > 5.0
    assert at_one < 0.2 * at_zero


def test_the_base_is_untouched_bit_for_bit(layers: Layers, fitted: Layers) -> None:
    assert list(fitted) == list(layers)
    for name, layer in fitted.items():
        assert torch.equal(layer.base.codes_OI, layers[name].base.codes_OI)
        assert torch.equal(layer.base.scales_OG, layers[name].base.scales_OG)
        assert torch.equal(layer.base.zeros_OG, layers[name].base.zeros_OG)
        assert layer.codes_changed == layers[name].codes_changed


def test_the_first_guess_handed_in_is_left_as_it_was(whole: dict[str, torch.Tensor], layers: Layers) -> None:
    before = {name: layer.ortho.dense() for name, layer in layers.items()}
    fit(fresh(whole), layers, FitConfig(num_steps=2, learning_rate=0.1))
    assert all(torch.equal(layer.ortho.dense(), before[name]) for name, layer in layers.items())


def test_the_sparse_part_stays_and_the_rank_too(layers: Layers, fitted: Layers) -> None:
    for name, layer in fitted.items():
        before = layers[name].ortho
        assert layer.ortho.sparse is not None
        assert before.sparse is not None
        assert torch.equal(layer.ortho.sparse.dense(), before.sparse.dense())
        assert layer.ortho.up_Or.shape == before.up_Or.shape
        assert not torch.allclose(layer.ortho.up_Or, before.up_Or, atol=1e-4)


def test_factors_lie_on_their_stored_grid(
    whole: dict[str, torch.Tensor], layers: Layers, fitted: Layers
) -> None:
    for layer in fitted.values():
        for factor, dim in ((layer.ortho.up_Or, 0), (layer.ortho.down_rI.T, 0)):
            codes = factor / (factor.abs().amax(dim=dim) / 127)
            assert torch.allclose(codes, codes.round(), atol=1e-3)
    sixteen = fit(fresh(whole), layers, FitConfig(num_steps=1, factor_bits=16))
    for layer in sixteen.values():
        assert torch.equal(layer.ortho.up_Or, layer.ortho.up_Or.half().float())
        assert torch.equal(layer.ortho.down_rI, layer.ortho.down_rI.half().float())


@pytest.mark.parametrize("bits", [8, 16])
def test_no_steps_keep_the_first_guess_but_for_its_rounding(
    whole: dict[str, torch.Tensor], layers: Layers, bits: int
) -> None:
    kept = fit(fresh(whole), layers, FitConfig(num_steps=0, factor_bits=bits))
    for name, layer in kept.items():
        first = layers[name].ortho
        for factor, before, dim in (
            (layer.ortho.up_Or, first.up_Or, 0),
            (layer.ortho.down_rI, first.down_rI, 1),
        ):
            # At 16 bits what is below fp16's normal numbers is off by 2^-25 at most.
            step = before.abs().amax(dim=dim, keepdim=True) / 127 if bits == 8 else before.abs() * 2**-10
            assert ((factor - before).abs() <= 0.5 * step * (1 + 1e-4) + 2**-25).all()


def test_the_same_seed_fits_the_same(whole: dict[str, torch.Tensor], layers: Layers) -> None:
    config = FitConfig(num_steps=3, learning_rate=5e-3)
    first, again, *others = (fit(fresh(whole), layers, config, seed=seed) for seed in (1, 1, 2, 3, 4, 5))

    def is_first(split: Layers) -> bool:
        return all(torch.equal(layer.ortho.dense(), split[n].ortho.dense()) for n, layer in first.items())

    assert is_first(again)
    assert not all(is_first(other) for other in others)  # two lessons have only two orders


def test_without_private_texts_only_public_answers_are_fitted(
    whole: dict[str, torch.Tensor], layers: Layers
) -> None:
    loaded = fresh(whole)
    lessons = prepare_lessons(loaded, public_batches(loaded))
    losses: list[tuple[int, int, float]] = []
    after = fit_ortho(
        loaded, layers, lessons, [], CONFIG, seed=0, after_step=lambda *told: losses.append(told)
    )
    assert [(step, total) for step, total, _ in losses] == [(step, 60) for step in range(60)]
    assert mean_kl(whole, after) < 0.3 * mean_kl(whole, layers)


def test_a_part_without_factors_passes_through(whole: dict[str, torch.Tensor]) -> None:
    loaded = fresh(whole)
    arm = Arm(sieve=make_sieve("hessian"), quantize=SMALL, ortho=OrthoConfig(rank=0, sparse_share=0.05))
    split = split_layers_of(loaded, {"h": arm}, {"public": public_batches(loaded)}, {}, seed=0)["h"]
    after = fit(loaded, split, FitConfig(num_steps=2))
    assert all(torch.equal(layer.ortho.dense(), split[name].ortho.dense()) for name, layer in after.items())


def test_lessons_hold_the_whole_model_s_hidden_states_of_counted_positions() -> None:
    loaded = fake_loaded()
    batch = public_batches(loaded)[0]
    lesson = prepare_lessons(loaded, [batch])[0]
    with mixed_precision(loaded.device):
        hidden = hidden_states(loaded, batch)
    assert torch.equal(lesson.teacher_ND, hidden[batch.weights_BT > 0].to(torch.bfloat16))
    assert len(lesson.teacher_ND) == int((batch.weights_BT > 0).sum())


@pytest.mark.parametrize("num_pieces", [1, 2, 3, 8])
def test_pieces_of_a_lesson_keep_texts_and_answers_together(num_pieces: int) -> None:
    batch = collate([whole_text(range(length)) for length in (5, 1, 9, 3)])
    counted = batch.weights_BT > 0
    lesson = Lesson(batch=batch, teacher_ND=batch.targets_BT[counted][:, None].float())
    parts = list(distil._cut(lesson, num_pieces))
    assert len(parts) <= num_pieces
    for part in parts:
        expected = part.batch.targets_BT[part.batch.weights_BT > 0]
        assert torch.equal(part.teacher_ND[:, 0], expected.float())
    assert torch.equal(torch.cat([part.batch.ids_BT for part in parts]), batch.ids_BT)


def test_a_step_in_pieces_after_running_out_of_memory_has_the_same_loss(
    whole: dict[str, torch.Tensor], layers: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The loss before the first update; gradients in pieces are compared where the training loop is tested.
    config = FitConfig(num_steps=1)
    plain = losses_of(whole, layers, config)
    unlimited, said = distil.hidden_states, []

    def small_memory(loaded: LoadedModel, batch: TokenBatch) -> torch.Tensor:
        if len(batch.ids_BT) > 1:
            raise torch.OutOfMemoryError("device full")
        return unlimited(loaded, batch)

    monkeypatch.setattr(distil, "hidden_states", small_memory)
    tight = losses_of(whole, layers, config, announce=said.append)
    assert said == ["out of memory while fitting the Ortho part: each step now runs in 2 pieces"]
    assert tight == pytest.approx(plain, rel=1e-2)  # bf16 passes of other shapes


def explicit_kl(student: torch.Tensor, teacher: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    log_q, log_p = ((x.double() @ head.double().T).log_softmax(dim=1) for x in (student, teacher))
    return (log_p.exp() * (log_p - log_q)).sum()


@pytest.mark.parametrize("chunk_rows", [1, 4, 100])
def test_kl_equals_its_formula_in_every_chunking(chunk_rows: int) -> None:
    student, teacher, head = randn(11, 8), randn(11, 8, seed=1), randn(30, 8, seed=2)
    got = kl_divergence_sum(student, teacher, head, chunk_rows=chunk_rows)
    assert float(got) == pytest.approx(float(explicit_kl(student, teacher, head)), rel=1e-5)


def test_kl_gradient_equals_that_of_its_formula() -> None:
    teacher, head = randn(11, 8, seed=1), randn(30, 8, seed=2)
    grads = []
    for function in (lambda *x: kl_divergence_sum(*x, chunk_rows=4), explicit_kl):
        student = randn(11, 8).requires_grad_(True)
        grads.append(torch.autograd.grad(function(student, teacher, head), student)[0])
    assert torch.allclose(grads[0], grads[1], rtol=1e-4, atol=1e-6)


def test_kl_of_equals_is_zero_and_of_nothing_too() -> None:
    states, head = randn(5, 8), randn(30, 8, seed=2)
    assert float(kl_divergence_sum(states, states, head)) == pytest.approx(0.0, abs=1e-6)
    assert float(kl_divergence_sum(states[:0], states[:0], head)) == 0.0
