"""What a layer keeps of a position: the estimate against every allocation of a planting pass on this CPU."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from traced_memory import PROGRAMS, config_of, spec_of, traced_more_bytes

from sixgig.catalogue import all_models
from sixgig.data.batches import whole_text
from sixgig.experiments.pass_memory import looked_layer_bytes, trained_layer_bytes
from sixgig.load.loaded import LoadedModel, linear_layers
from sixgig.memory.workload import Workload
from sixgig.transform.network import dense_linear, install
from sixgig.transform.plant import trainable_linears
from sixgig.transform.training import nll_pieces

CPU = torch.device("cpu")
WORK = Workload(task="split", bits=32, context=192)  # longer than what a CPU's short cut for attention takes


@cache
def loaded_of(name: str, num_layers: int, head_dim: int, biased: bool) -> LoadedModel:
    kinds = ["sliding_attention", "full_attention"] * num_layers
    layers: dict[str, Any] = {"layer_types": kinds[:num_layers]} if name.startswith("gemma3") else {}
    layers |= {} if name == "phi" else {"head_dim": head_dim}
    network = PROGRAMS.build(config_of(name, num_hidden_layers=num_layers, **layers), WORK, CPU)
    if biased:
        for layer_name, layer in linear_layers(network).items():
            bias = torch.ones(layer.out_features)
            install(network, {layer_name: dense_linear(layer.weight.detach(), bias_O=bias)})
    return LoadedModel(network=network, tokenizer=None, folder=Path(), device=CPU)


def traced_step_bytes(loaded: LoadedModel, num_texts: int) -> int:
    ids = torch.randint(2, 500, (num_texts, WORK.context), generator=torch.Generator().manual_seed(0))
    texts = [whole_text(row) for row in ids.tolist()]
    trainable_linears(loaded.network)

    def step() -> None:
        (piece,) = nll_pieces(loaded, [texts], 1)
        piece().backward()

    try:
        return traced_more_bytes(step)
    finally:
        for parameter in loaded.network.parameters():
            parameter.grad = None


@pytest.mark.parametrize(
    ("name", "head_dim", "biased"),
    [
        ("llama-whole-heads", 32, False),
        ("llama", 32, True),
        ("qwen3", 64, False),  # queries twice as wide as the hidden state
        ("phi", 32, False),
        ("gemma3", 32, False),
    ],
)
def test_the_estimate_is_above_what_a_layer_keeps_by_a_fourth_at_most(
    name: str, head_dim: int, biased: bool
) -> None:
    two, four = (loaded_of(name, num_layers, head_dim, biased) for num_layers in (2, 4))
    few, many = 2, 6
    of_layers = [traced_step_bytes(four, num) - traced_step_bytes(two, num) for num in (few, many)]
    real = (of_layers[1] - of_layers[0]) / (2 * (many - few) * WORK.context)
    assert real <= trained_layer_bytes(spec_of(two.network.config)) <= 1.25 * real


def test_of_a_plain_layer_the_figures_are_those_that_they_were() -> None:
    for spec in all_models():
        if spec.architecture == "LlamaForCausalLM":
            assert trained_layer_bytes(spec) == 34 * spec.hidden_size + 8 * spec.intermediate_size
            assert looked_layer_bytes(spec) == 40 * spec.hidden_size + 8 * spec.intermediate_size
