"""The simulated split, piece by piece, against every allocation of the real code on this CPU.

On a CPU the parts that leave a card stay where they are, so that no whole split can be compared here;
docs/receipts has whole ones, and test_memory_receipt.py holds the simulation to them. What remains between
the two are tensors of a number a row or a group, which weigh more in layers this small than in real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from traced_memory import PROGRAMS, config_of, spec_of, traced_more_bytes

from sixgig.catalogue import all_models
from sixgig.catalogue.splitting import why_not_split
from sixgig.data.batches import batches, whole_text
from sixgig.errors import InputError
from sixgig.layers.split_linear import OrthoPart
from sixgig.load.loaded import LoadedModel, linear_layers
from sixgig.memory.simulation import LOGIT_ROWS, fits, splitting
from sixgig.memory.simulation.allocator import Allocator
from sixgig.memory.simulation.backward import Trained
from sixgig.memory.simulation.programs import simulate
from sixgig.memory.simulation.streamed import split_from_disk
from sixgig.memory.workload import Splitting, Workload
from sixgig.numerics.quantize import dequantize, quantize_rtn
from sixgig.transform.distil import lesson_pieces, prepare_lessons
from sixgig.transform.network import bias_of, install
from sixgig.transform.restore import _FitLinear
from sixgig.transform.sieve import InputStatistics
from sixgig.transform.split_layer import LayerSplit
from sixgig.transform.trained_linear import ScaledLinear
from sixgig.transform.training import nll_pieces

CPU = torch.device("cpu")
RANK = Splitting().rank
WORK = Workload(task="split", bits=32, context=192)  # longer than what a CPU's short cut for attention takes


def played_bytes(play: Callable[[Allocator], object]) -> int:
    memory = Allocator()
    play(memory)
    return memory.peak_allocated_bytes


def test_the_removal_is_solved_in_as_much_room() -> None:
    inputs = torch.randn(900, 300)
    moment = inputs.T @ inputs / len(inputs)
    statistics = InputStatistics(name="layer", public_II=moment, private_II=moment.clone())
    real = traced_more_bytes(lambda: statistics.wiener_filter(0.01, 1e-4))
    assert played_bytes(lambda memory: splitting._solve(memory, 300)) == pytest.approx(real, rel=0.01)


@pytest.mark.parametrize("num_in", [256, 352])
def test_rounding_and_its_inverse_take_as_much_room(num_in: int) -> None:
    weight = torch.randn(192, num_in)
    rounded = quantize_rtn(weight, bits=4, group_size=64)

    def weights(memory: Allocator) -> splitting.Matrices:
        return splitting.Matrices(memory, weight.numel(), num_in, 64)

    real = traced_more_bytes(lambda: quantize_rtn(weight, bits=4, group_size=64))
    assert played_bytes(lambda memory: weights(memory).rounded()) == pytest.approx(real, rel=0.03)
    real = traced_more_bytes(lambda: dequantize(rounded))
    assert played_bytes(lambda memory: weights(memory).dequantized()) == pytest.approx(real, rel=0.03)


@pytest.fixture
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    name = getattr(request, "param", "llama-whole-heads")
    network = PROGRAMS.build(config_of(name, vocab_size=2048), WORK, CPU)
    network.requires_grad_(False)
    return LoadedModel(network=network, tokenizer=None, folder=Path(), device=CPU)


def parts_of(loaded: LoadedModel) -> dict[str, LayerSplit]:
    def split(weight: torch.Tensor) -> LayerSplit:
        num_out, num_in = weight.shape
        factors = torch.randn(num_out, RANK), torch.randn(RANK, num_in)
        base = quantize_rtn(weight, bits=4, group_size=64)
        ortho = OrthoPart(up_Or=factors[0], down_rI=factors[1])
        return LayerSplit(base=base, ortho=ortho, codes_changed=0.0, removed_norm_share=0.0)

    return {name: split(layer.weight) for name, layer in linear_layers(loaded.network).items()}


def texts(num_texts: int) -> list[Any]:
    ids = torch.randint(2, 2048, (num_texts, WORK.context), generator=torch.Generator().manual_seed(0))
    return [whole_text(row) for row in ids.tolist()]


@pytest.mark.parametrize("loaded", ["llama-whole-heads", "qwen3", "phi", "gemma3"], indirect=True)
@pytest.mark.parametrize(("module", "kind"), [(ScaledLinear, fits.ScaleFit), (_FitLinear, fits.OrthoFit)])
def test_a_lesson_of_either_fit(module: Any, kind: Any, loaded: LoadedModel) -> None:
    (lesson,) = prepare_lessons(loaded, list(batches(texts(2), 2)))
    layers = parts_of(loaded)
    given = {name: layer.base if module is ScaledLinear else layer for name, layer in layers.items()}
    biases = {name: bias_of(loaded.network, name) for name in given}
    install(loaded.network, {name: module(part, CPU, bias=biases[name]) for name, part in given.items()})
    (loss,) = lesson_pieces(loaded, lesson, 1)
    real = traced_more_bytes(lambda: loss().backward())

    def play(memory: Allocator) -> None:
        run = kind(spec_of(loaded.network.config), WORK, memory, batch=2, length=WORK.context)
        fits.piece(run, Trained(memory, 4), fits.kl_loss)

    assert played_bytes(play) == pytest.approx(real, rel=0.03)


def test_the_private_texts_of_the_ortho_fit(loaded: LoadedModel) -> None:
    layers = parts_of(loaded)
    install(loaded.network, {name: _FitLinear(layer, CPU) for name, layer in layers.items()})
    (loss,) = nll_pieces(loaded, [texts(8)], 1)
    real = traced_more_bytes(lambda: loss().backward())

    def play(memory: Allocator) -> None:
        run = fits.OrthoFit(spec_of(loaded.network.config), WORK, memory, batch=8, length=WORK.context)
        loss = partial(fits.nll_loss, logit_rows=LOGIT_ROWS["cpu"])
        fits.piece(run, Trained(memory, 4), loss)

    assert played_bytes(play) == pytest.approx(real, rel=0.03)


def test_nothing_but_the_rest_of_the_model_is_held_at_the_end() -> None:
    spec = spec_of(config_of("llama"))
    memory = simulate(spec, Workload(task="split", context=128), workspace_bytes=0)
    left = spec.num_parameters - spec.num_linear_parameters
    assert memory.allocated_bytes == pytest.approx(4 * left, rel=0.02)
    assert {kind for kind, size in memory.by_kind.items() if size} == {"embedding", "norms, biases, routers"}


def test_every_model_that_can_be_split_can_be_planned() -> None:
    for spec in all_models():
        if why_not_split(spec) is None and spec.num_layers < 40:
            memory = Allocator()
            split_from_disk(spec, Workload(task="split", bits=32, context=128), memory)
            # At least one layer in 16 bits with its second moments, and not the whole model.
            layer_bytes = 2 * spec.num_linear_parameters // spec.num_layers
            assert layer_bytes < memory.peak_allocated_bytes < 4 * spec.num_parameters, spec.name


def test_more_or_longer_texts_take_more_room() -> None:
    spec = spec_of(config_of("llama"))

    def peak(context: int, num_texts: int = 64) -> int:
        work = Workload(task="split", context=context, splitting=Splitting(num_texts=num_texts))
        return simulate(spec, work, workspace_bytes=0).peak_allocated_bytes

    assert peak(64) < peak(128) < peak(512)
    few, many = peak(64, 1000), peak(64, 2000)
    assert many - few == pytest.approx(1000 * 64 * spec.hidden_size * 4, rel=0.01)


def test_short_texts_and_a_sieve_that_solves_nothing_take_less() -> None:
    spec = spec_of(config_of("llama"))

    def peak(**of_split: Any) -> int:
        work = Workload(task="split", context=128, splitting=Splitting(**of_split))
        return simulate(spec, work, workspace_bytes=0).peak_allocated_bytes

    assert peak(num_texts=2000, text_tokens=16) < 0.5 * peak(num_texts=2000)
    walk_alone = {"fits_scales": False, "fits_ortho": False, "num_texts": 1, "num_calibration_windows": 1}
    assert peak(**walk_alone, solves=False) < peak(**walk_alone)
    assert peak(fits_ortho=False) <= peak(texts_per_step=1) < peak() < peak(rank=64)


def test_a_batch_is_refused_since_a_split_forms_its_own() -> None:
    with pytest.raises(InputError, match="forms its own batches"):
        Workload(task="split", batch=2)
