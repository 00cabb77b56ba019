"""The real model answers the same through every decoder as through transformers' `generate`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from transformers import StaticCache

from sixgig.catalogue import EMBEDDED
from sixgig.layers.split_linear import AlphaSwitch, SplitLinear
from sixgig.load.fetch import is_fetched, model_folder
from sixgig.load.loaded import LoadedModel, linear_layers, load
from sixgig.numerics.quantize import quantize_rtn
from sixgig.runtime.generate import Generation
from sixgig.runtime.lean_decoder import LeanDecoder
from sixgig.runtime.lean_model import lean_model
from sixgig.runtime.make_decoder import make_decoder
from sixgig.runtime.network_decoder import NetworkDecoder
from sixgig.runtime.pack_cpu import pack_for_cpu, why_no_kernel

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(not is_fetched(EMBEDDED), reason=f"needs the model: sixgig fetch {EMBEDDED}"),
]
PROMPTS = ("The capital of France is", "def fibonacci(n):\n", "Once upon a time, in a village by the sea,")
NEW, CONTEXT = 24, 128


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_tokens_are_those_of_generate(dtype: torch.dtype) -> None:
    loaded = load(model_folder(EMBEDDED), dtype=dtype)
    network = loaded.network
    model = lean_model(
        network,
        context_tokens=CONTEXT,
        put=lambda _, layer: layer,
        head=network.get_output_embeddings(),
    )
    lean, modules = (
        LeanDecoder(model, context_tokens=CONTEXT),
        NetworkDecoder(network, context_tokens=CONTEXT),
    )
    for prompt in PROMPTS:
        ids = loaded.encode(prompt)
        lean.reset()
        require_same(network, ids, by_generate(network, ids), Generation(lean, ids, max_new_tokens=NEW))
        static = StaticCache(network.config, max_cache_len=CONTEXT)
        expected = by_generate(network, ids, past_key_values=static)
        modules.reset()
        require_same(network, ids, expected, Generation(modules, ids, max_new_tokens=NEW))


@pytest.mark.skipif(why_no_kernel() is not None, reason=why_no_kernel() or "")
def test_packed_layers_answer_alike_in_modules_and_stacked() -> None:
    modules, stacked = split_model(), split_model()
    assert pack_for_cpu(modules).told is None
    chosen = make_decoder(stacked, context_tokens=CONTEXT, kernels="packed", head_bits=16)
    assert isinstance(chosen.decoder, LeanDecoder)
    for prompt in PROMPTS:
        ids = modules.encode(prompt)
        chosen.decoder.reset()
        found = Generation(chosen.decoder, ids, max_new_tokens=NEW)
        require_same(modules.network, ids, by_generate(modules.network, ids), found)


def require_same(network: Any, ids: list[int], expected: list[int], found: Iterable[int]) -> None:
    """The same tokens. In bf16, where torch's attention rounds one row otherwise than three, up to a tie:
    where they part, the network's own logits for the two are no further apart than two of their steps."""
    found = list(found)
    if found == expected:
        return
    assert network.dtype is torch.bfloat16
    assert len(found) == len(expected)
    parted = next(i for i, pair in enumerate(zip(expected, found, strict=True)) if pair[0] != pair[1])
    with torch.no_grad():
        logits_V = network(input_ids=torch.tensor([ids + expected[:parted]])).logits[0, -1].float()
    one, other = logits_V[expected[parted]], logits_V[found[parted]]
    step = 2.0 ** (math.floor(math.log2(float(logits_V.max()))) - 7)
    assert abs(one - other) <= 2 * step
    assert max(one, other) >= logits_V.max() - 2 * step


def split_model() -> LoadedModel:
    loaded = load(model_folder(EMBEDDED), dtype=torch.bfloat16)
    switch = AlphaSwitch()
    for name, layer in linear_layers(loaded.network).items():
        owner, _, leaf = name.rpartition(".")
        base = quantize_rtn(layer.weight.float(), bits=4, group_size=64)
        setattr(loaded.network.get_submodule(owner), leaf, SplitLinear(base, None, switch))
    return loaded


def by_generate(network: Any, ids: list[int], **options: Any) -> list[int]:
    ids_1T = torch.tensor([ids])
    output = network.generate(
        input_ids=ids_1T,
        attention_mask=torch.ones_like(ids_1T),
        do_sample=False,
        max_new_tokens=NEW,
        eos_token_id=None,
        pad_token_id=0,
        **options,
    )
    return output[0, len(ids) :].tolist()
