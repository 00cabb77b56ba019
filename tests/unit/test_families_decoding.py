"""Packed decoding of every architecture that is split: with its biases, and a word where it is slow."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from test_decoders import PROMPT, by_generate, lean, loaded_of, told
from tiny_packable import network, split_in_place

from sixgig.layers.cpu_linear import CpuLinear
from sixgig.layers.read_bytes import read_bytes
from sixgig.layers.split_linear import set_alpha, split_layers
from sixgig.runtime.fused_model import why_unknown
from sixgig.runtime.lean_decoder import LeanDecoder
from sixgig.runtime.make_decoder import make_decoder
from sixgig.runtime.network_decoder import NetworkDecoder

BIASED_LLAMA = ("llama", {"attention_bias": True, "mlp_bias": True})
LEAN = [BIASED_LLAMA, ("qwen2", {"seed": 3}), ("qwen3", {"head_dim": 32})]
SLOW = [
    ("phi", {"num_key_value_heads": 4, "tied": False}),
    ("gemma3_text", {"head_dim": 32, "sliding_window": 8}),
    ("mistral", {"sliding_window": 8}),
]


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize(("model_type", "changes"), LEAN)
def test_the_lean_decoders_tokens_are_those_of_the_split_network(
    model_type: str, changes: dict[str, Any], alpha: float
) -> None:
    model = network(model_type, **changes)
    split_in_place(model)
    expected = copy.deepcopy(model)
    for one in (model, expected):
        set_alpha(one, alpha)
    tokens = by_generate(expected)
    assert len(set(tokens)) > 3  # a model that repeats itself would agree by chance
    assert told(lean(model)) == tokens


@pytest.mark.parametrize(("model_type", "changes"), [*LEAN, *SLOW])
def test_packed_decoding_keeps_biases_and_says_where_it_is_slow(
    model_type: str, changes: dict[str, Any]
) -> None:
    model = network(model_type, **changes).to(torch.bfloat16)
    split_in_place(model)
    biased = [layer for _, layer in split_layers(model) if layer.bias is not None]
    assert bool(biased) == (model_type in ("llama", "qwen2", "phi"))
    wanted_V = NetworkDecoder(copy.deepcopy(model), context_tokens=64).prefill(PROMPT)
    without = copy.deepcopy(model)
    for _, layer in split_layers(without):
        layer.bias = None
    bare_V = NetworkDecoder(without, context_tokens=64).prefill(PROMPT)
    chosen = make_decoder(loaded_of(model), context_tokens=64, head_bits=16)
    found_V = chosen.decoder.prefill(PROMPT)
    assert (found_V - wanted_V).norm() < 0.1 * wanted_V.norm()
    if biased:
        assert (bare_V - wanted_V).norm() > 0.3 * wanted_V.norm()
    is_slow = (model_type, changes) in SLOW
    assert isinstance(chosen.decoder, NetworkDecoder if is_slow else LeanDecoder)
    assert any("no lean decoder" in note for note in chosen.notes) == is_slow
    if is_slow:
        assert any(isinstance(module, CpuLinear) for module in model.modules())


@pytest.mark.parametrize(("model_type", "changes"), SLOW[:2])
def test_a_packed_head_and_packed_layers_are_counted_in_what_is_read(
    model_type: str, changes: dict[str, Any]
) -> None:
    sizes = {}
    for bits in (16, 8):
        model = network(model_type, **changes).to(torch.bfloat16)
        split_in_place(model, with_ortho=False)
        packed = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, torch.nn.Linear))
        decoder = make_decoder(loaded_of(model), context_tokens=64, head_bits=bits).decoder
        layers = [module for module in model.modules() if isinstance(module, CpuLinear)]
        sizes[bits] = decoder.read_bytes(0.0)
        assert sizes[bits] > sum(read_bytes(layer, 0.0) for layer in layers)
        assert packed == model.config.vocab_size * model.config.hidden_size  # the head alone was left whole
    assert sizes[8] < sizes[16]


@pytest.mark.parametrize("name", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.up_proj"])
def test_the_fused_decoder_refuses_a_bias_wherever_it_is(name: str) -> None:
    model = network("llama")
    assert why_unknown(model) is None
    layer = model.model.layers[0].get_submodule(name)
    layer.bias = torch.nn.Parameter(torch.ones(layer.out_features), requires_grad=False)
    assert f"{name} has a bias" in (why_unknown(model) or "")
