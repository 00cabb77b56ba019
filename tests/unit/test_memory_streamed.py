"""The simulated split from disk, piece by piece, against every allocation of the real code on this CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from traced_memory import PROGRAMS, config_of, spec_of, traced_more_bytes

from sixgig.data.batches import batches, whole_text
from sixgig.load.loaded import LoadedModel, linear_layers
from sixgig.memory.simulation import streamed
from sixgig.memory.simulation.allocator import Allocator
from sixgig.memory.workload import Splitting, Workload
from sixgig.numerics import cholesky
from sixgig.numerics.quantize import steering
from sixgig.transform import split_stream
from sixgig.transform.layer_walk import WalkedLayer
from sixgig.transform.rounding import QuantizeConfig
from sixgig.transform.sieve import InputStatistics, make_sieve
from sixgig.transform.split_layer import Arm, OrthoConfig
from sixgig.transform.streaming import Tap, decoder_layers, enter, first_output
from sixgig.transform.training import mixed_precision

CPU = torch.device("cpu")
WIDE: dict[str, Any] = {
    "hidden_size": 384,
    "intermediate_size": 1408,
    "num_key_value_heads": 2,
    "head_dim": 96,
}
WORK = Workload(task="split", bits=32, context=192, splitting=Splitting(layers_from="disk"))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that these layers are cut into blocks as real ones are."""
    for module in (cholesky, streamed):
        monkeypatch.setattr(module, "BLOCK", 128)
        monkeypatch.setattr(module, "ROWS", 64)
    defaults = {
        "factor_in_place": 128,
        "add_widened": 128,
        "filtered_rows": 64,
        "inverse_diagonal": 64,
        "inverse_upper_factor": 128,
    }
    for name, block in defaults.items():
        monkeypatch.setitem(getattr(cholesky, name).__kwdefaults__, "block", block)


def moment_of(num_in: int) -> torch.Tensor:
    inputs = torch.randn(2 * num_in, num_in)
    return inputs.T @ inputs / len(inputs)


def played_more(memory: Allocator, play: Any) -> int:
    before = memory.allocated_bytes
    play()
    return memory.peak_allocated_bytes - before


@pytest.fixture(scope="module")
def config() -> Any:
    return config_of("llama", **WIDE)


@pytest.mark.parametrize("num_in", [384, 1408])
def test_what_the_sieve_solves(num_in: int) -> None:
    moment, change = moment_of(num_in), torch.randn(200, num_in)
    statistics = InputStatistics(name="layer", public_II=moment, private_II=moment.clone(), in_blocks=True)
    real = traced_more_bytes(lambda: statistics.filtered(change, 0.01, 1e-4))
    memory = Allocator()
    matrices = streamed.Matrices(memory, change.numel(), num_in, 64)
    one = streamed.Linear(num_weights=change.numel(), num_in=num_in)

    def play() -> None:
        streamed._factor(memory, num_in)
        streamed._filtered(matrices, one)

    assert played_more(memory, play) == pytest.approx(real, rel=0.05)


@pytest.mark.parametrize("num_in", [384, 1408])
def test_what_steers_gptq(num_in: int) -> None:
    moment = moment_of(num_in)
    real = traced_more_bytes(lambda: steering(moment))
    memory = Allocator()
    assert played_more(memory, lambda: streamed._steering(memory, num_in)) == pytest.approx(real, rel=0.05)


@pytest.mark.parametrize(("sieve", "method"), [("wiener", "rtn"), ("isolated", "rtn"), ("wiener", "gptq")])
def test_the_linear_layers_of_one_decoder_layer(config: Any, sieve: str, method: str) -> None:
    network = PROGRAMS.build(config, WORK, CPU)
    prefix = "model.layers.0."
    weights = {
        name: layer.weight.detach().bfloat16()
        for name, layer in linear_layers(network).items()
        if name.startswith(prefix)
    }
    names = list(weights)
    groups = [tuple(names[:3]), tuple(names[3:4]), tuple(names[4:6]), tuple(names[6:])]

    arm = Arm(
        sieve=make_sieve(sieve),
        private_set="private",
        before_set="before",
        quantize=QuantizeConfig(method=method),
        ortho=OrthoConfig(rank=16),
    )
    # The tracer does not see the end of what was there before it began, so moments are made under its eyes.
    real = traced_more_bytes(lambda: _split(groups, weights, arm))
    spec = spec_of(config)
    how = replace(WORK.splitting, solves=sieve == "wiener", method=method)
    work, memory = replace(WORK, splitting=how), Allocator()
    roles = dict(zip(streamed.Walker.LEADERS, groups, strict=True))
    held = [
        {role: memory.hold(4 * weights[group[0]].shape[1] ** 2, "moments") for role, group in roles.items()}
        for _ in ("public", "private")
    ]
    streamed._split_groups(spec, work, memory, held)
    assert memory.peak_allocated_bytes == pytest.approx(real, rel=0.05)


def _split(groups: list[tuple[str, ...]], weights: dict[str, torch.Tensor], arm: Arm) -> None:
    walked = WalkedLayer(weights=weights, groups=[])
    for group in groups:
        width = weights[group[0]].shape[1]
        moments = {key: torch.eye(width).add_(0.1) for key in ("public", "private")}
        walked.groups.append((group, moments))
        del moments

    def before(name: str) -> torch.Tensor:
        return weights[name] * 0.99

    for _ in split_stream._splits_of(walked, before, arm, CPU, 0, lambda line: None):
        pass


def test_the_walk_through_one_layer(config: Any) -> None:
    network = PROGRAMS.build(config, WORK, CPU)
    for layer in linear_layers(network).values():
        layer.weight.data = layer.weight.data.bfloat16()
    loaded = LoadedModel(network=network, tokenizer=None, folder=Path(), device=CPU)
    ids = torch.randint(2, 512, (8, WORK.context), generator=torch.Generator().manual_seed(0))
    sets = list(batches([whole_text(row) for row in ids.tolist()], 10))
    layer = decoder_layers(network)[0]
    names = {name: module for name, module in linear_layers(network).items() if ".layers.0." in name}
    taps = []

    def run() -> None:
        with torch.no_grad():
            flow = enter(loaded, decoder_layers(loaded.network), sets[0])
            tap = Tap(names, CPU)
            with tap, mixed_precision(CPU):
                tap.weights_N = flow.weights_N
                taps.append((tap, first_output(layer(flow.hidden_BTD, **flow.calls[0]))))

    real = traced_more_bytes(run)
    memory = Allocator()
    spec = spec_of(config)
    played = played_more(memory, lambda: streamed._walk(spec, WORK, memory, 0, 8, WORK.context))
    assert played == pytest.approx(real, rel=0.05)
