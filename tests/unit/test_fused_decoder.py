"""The fused decoder against the network it was made from: the same logits and tokens, within rounding."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from fused_tools import (
    VOCABULARY,
    as_loaded,
    interpreted_decoder,
    logits_of,
    small_llama,
    split_layers_of,
    without_ortho,
)
from kernel_tools import DEVICE, DTYPES, INTERPRETED, rms
from torch import Tensor

from sixgig.errors import InputError
from sixgig.layers.split_linear import SplitLinear
from sixgig.numerics.quantize import dequantize, quantize_rtn
from sixgig.runtime import fused_prefill
from sixgig.runtime.fused_model import fused_model

PROMPT = [5, 17, 3, 60, 5, 99]


def assert_near(found_V: Tensor, network: Any, ids: list[int], dtype: torch.dtype) -> None:
    """Logits after `ids` are about as near to the network's in fp64 as those of the network in `dtype`."""
    exact_V = logits_of(copy.deepcopy(network).double(), ids)[-1]
    own = rms(logits_of(network, ids)[-1].double() - exact_V)
    # The interpreter cuts bf16 off, which adds up, since it always errs towards 0.
    limit = 5.0 if INTERPRETED and dtype == torch.bfloat16 else 1.5
    assert own < 0.05 * rms(exact_V)
    assert rms(found_V.double() - exact_V) <= limit * own


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_are_the_networks(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_llama(dtype)
    switch = split_layers_of(network)
    decoder = interpreted_decoder(monkeypatch, network, dtype)
    switch.value = 1.0
    decoder.set_alpha(1.0)
    assert_near(decoder.prefill(PROMPT), network, PROMPT, dtype)
    ids = [*PROMPT, 42]
    assert_near(decoder.step(42), network, ids, dtype)
    assert_near(decoder.prefill([7, 8]), network, [*ids, 7, 8], dtype)  # a second prompt goes on
    assert_near(decoder.step(0), network, [*ids, 7, 8, 0], dtype)
    assert decoder.position == len(ids) + 3


def test_a_long_prompt_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = torch.float16
    network = small_llama(dtype)
    switch = split_layers_of(network)
    decoder = interpreted_decoder(monkeypatch, network, dtype)
    switch.value = 1.0
    decoder.set_alpha(1.0)
    whole_V = decoder.prefill(PROMPT).clone()
    pieces: list[int] = []

    def seen(layer: Any, x_TD: Tensor, *rest: Any) -> Tensor:
        pieces.append(len(x_TD))
        return channels(layer, x_TD, *rest)

    channels = fused_prefill._channels
    monkeypatch.setattr(fused_prefill, "_channels", seen)
    monkeypatch.setattr(fused_prefill, "PIECE_TOKENS", 4)
    decoder.reset()
    in_pieces_V = decoder.prefill(PROMPT)
    assert pieces == [4, 2] * 2  # of each of two layers
    assert_near(in_pieces_V, network, PROMPT, dtype)
    torch.testing.assert_close(in_pieces_V, whole_V, atol=2e-2, rtol=0)


def test_steps_alone_read_a_prompt_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """From position 0, with plain layers, and with another base of frequencies."""
    dtype = torch.float16
    network = small_llama(dtype, rope_theta=50.0)
    decoder = interpreted_decoder(monkeypatch, network, dtype)
    for count, token in enumerate(PROMPT[:3], start=1):
        assert_near(decoder.step(token), network, PROMPT[:count], dtype)


def test_a_packed_head_is_the_head_rounded_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = torch.float16
    network = small_llama(dtype)
    decoder = interpreted_decoder(monkeypatch, network, dtype, head_bits=4)
    head = network.get_output_embeddings()
    head.weight.data = dequantize(quantize_rtn(head.weight.float().cpu(), bits=4, group_size=64)).to(
        DEVICE, dtype
    )
    assert_near(decoder.prefill(PROMPT), network, PROMPT, dtype)


def test_greedy_tokens_are_those_of_generate(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as the two likeliest tokens are not nearly level, which holds for all tokens here."""
    dtype, num_tokens = torch.float16, 5
    network = small_llama(dtype)
    split_layers_of(network).value = 1.0
    ids = torch.tensor([PROMPT], device=DEVICE)
    expected = network.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=num_tokens
    )[0].tolist()
    best, second = logits_of(network, expected)[len(PROMPT) - 1 : -1].float().topk(2).values.unbind(dim=1)
    assert float((best - second).min()) > 0.05, "another seed, without near ties"
    decoder = interpreted_decoder(monkeypatch, network, dtype)
    decoder.set_alpha(1.0)
    decoder.prefill(PROMPT)
    assert [*PROMPT, *decoder.greedy_tokens(num_tokens).tolist()] == expected
    assert len(set(expected[len(PROMPT) :])) > 1


def test_alpha_is_a_live_switch_and_0_is_the_base_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = torch.float16
    network = small_llama(dtype)
    split_layers_of(network)
    whole = interpreted_decoder(monkeypatch, network, dtype)
    without_ortho(network)
    alone = interpreted_decoder(monkeypatch, network, dtype)

    def read(decoder: Any, alpha: float) -> tuple[Tensor, Tensor]:
        decoder.reset()
        decoder.set_alpha(alpha)
        return decoder.prefill(PROMPT).clone(), decoder.step(1).clone()

    expected = read(alone, 0.0)
    for alpha in (0.0, 0.5, 0.0):
        found = read(whole, alpha)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other) == (alpha == 0.0)
    with pytest.raises(InputError, match="only the Base is here"):
        alone.set_alpha(1.0)


def test_at_alpha_0_a_prompt_touches_nothing_of_the_ortho_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """0 times an overflow would be no number."""
    dtype = torch.float16
    network = small_llama(dtype)
    split_layers_of(network)
    for module in network.modules():
        if isinstance(module, SplitLinear) and module.ortho is not None:
            module.ortho.down_rI.fill_(6e4)
    whole = interpreted_decoder(monkeypatch, network, dtype)
    without_ortho(network)
    alone = interpreted_decoder(monkeypatch, network, dtype)
    assert torch.equal(whole.prefill(PROMPT), alone.prefill(PROMPT))


def test_a_full_cache_says_so_and_a_reset_empties_it(monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = torch.float16
    decoder = interpreted_decoder(monkeypatch, small_llama(dtype), dtype, context=8)
    assert decoder.context_tokens == 8
    first = decoder.prefill(PROMPT).clone()
    for too_much in (lambda: decoder.prefill([1, 2, 3]), lambda: decoder.greedy_tokens(3)):
        with pytest.raises(InputError, match="no room") as raised:
            too_much()
        assert raised.value.expected == "1 to 2 tokens after 6"
    decoder.step(1)
    decoder.step(2)
    with pytest.raises(InputError, match="no room"):
        decoder.step(3)
    with pytest.raises(InputError, match="nothing to read"):
        decoder.prefill([])
    decoder.reset()
    assert decoder.position == 0
    assert torch.equal(decoder.prefill(PROMPT), first)


def test_a_step_counts_its_weights_and_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_llama(torch.float16)
    decoder = interpreted_decoder(monkeypatch, network, torch.float16)
    linear = sum(parameter.numel() for name, parameter in network.named_parameters() if "proj" in name)
    assert decoder.step_bytes == 2 * (linear + VOCABULARY * 64)
    assert decoder.cache_bytes_per_token == 2 * 2 * 2 * 16 * 2  # keys and values, layers, heads, width, fp16


def tiny(kind: str, **others: Any) -> Any:
    """A network of another make, with Llama's shapes."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=1,
        **({"num_attention_heads": 4, "num_key_value_heads": 2} | others),
    )  # fmt: skip
    return getattr(transformers, f"{kind}ForCausalLM")(config)


@pytest.mark.parametrize(
    ("kind", "others", "reason"),
    [
        ("Qwen2", {}, "its architecture is qwen2"),  # biases
        ("Qwen3", {"head_dim": 16}, "its architecture is qwen3"),  # norms of queries and keys
        ("Llama", {"mlp_bias": True}, "has a bias"),
        ("Llama", {"hidden_act": "gelu"}, "its activation is gelu"),
        ("Mistral", {"sliding_window": 8}, "sliding window of 8"),
        # Names and layers like Llama's, and other arithmetic.
        ("Granite", {"residual_multiplier": 0.5}, "its architecture is granite"),
        ("Llama", {"num_attention_heads": 32, "num_key_value_heads": 1}, "serves 32 query heads"),
        (
            "Llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "change with the length",
        ),
    ],
)
def test_what_the_kernels_cannot_do_is_refused(kind: str, others: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match="cannot run this model") as raised:
        fused_model(as_loaded(tiny(kind, **others)))
    assert reason in str(raised.value.received)


def test_a_mistral_without_a_window_is_taken() -> None:
    model = fused_model(as_loaded(tiny("Mistral", sliding_window=None)), head_bits=16)
    assert not model.has_ortho


def test_stacked_layers_of_mixed_widths_keep_their_numbers() -> None:
    from sixgig.layers.split_linear import AlphaSwitch, SplitLinear
    from sixgig.numerics.kernels.layout import untile_base
    from sixgig.numerics.quantize import dequantize, quantize_rtn
    from sixgig.runtime.fused_model import stack

    weights = [torch.randn(16, 128) for _ in range(3)]
    bases = [
        quantize_rtn(one, bits=bits, group_size=64) for one, bits in zip(weights, (4, 8, 3), strict=True)
    ]
    layers = [SplitLinear(base, None, AlphaSwitch()) for base in bases]
    matrix = stack(layers, None, torch.device("cpu"), torch.bfloat16)
    assert matrix.base is not None
    assert torch.equal(dequantize(untile_base(matrix.base)), torch.cat([dequantize(base) for base in bases]))
    other = SplitLinear(quantize_rtn(weights[0], bits=4, group_size=128), None, AlphaSwitch())
    with pytest.raises(InputError, match="different groups"):
        stack([layers[0], other], None, torch.device("cpu"), torch.bfloat16)
