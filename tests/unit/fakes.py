"""A two-layer Llama and a byte-level tokenizer: real enough to split, small enough for tests in seconds.

Weights are drawn here rather than by transformers, with an embedding wide enough that linear layers alone can
memorise a text: embedding, norms and head stay frozen when planting.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sixgig.data.canaries import Canary, CanaryPlan, make_canaries
from sixgig.load.loaded import LoadedModel

torch.set_num_threads(1)  # the models are too small to gain from more, and test runs share the machine

HIDDEN = 32
VOCABULARY = 256

_AUTOCAST_USERS = (
    "sixgig.transform.training",
    "sixgig.transform.distil",
    "sixgig.transform.streaming",
    "sixgig.evaluate.logits",
    "sixgig.transform.gradients",
    "sixgig.transform.search",
    "sixgig.transform.search_subnet",
    "sixgig.evaluate.scoring",
    "sixgig.evaluate.memorization",
    "sixgig.evaluate.perplexity",
    "sixgig.evaluate.multiple_choice",
)


class ByteTokenizer:
    """One token a byte of UTF-8."""

    def __call__(self, text: str | list[str], add_special_tokens: bool = True) -> dict[str, Any]:
        assert not add_special_tokens, "no special tokens exist here"
        if isinstance(text, str):
            return {"input_ids": list(text.encode("utf-8"))}
        return {"input_ids": [list(one.encode("utf-8")) for one in text]}

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode("utf-8", errors="replace")


def fake_network(seed: int = 0, *, tied: bool = True) -> Any:
    """LlamaForCausalLM: 2 layers, 4 heads sharing 2 keys, hidden 32; the same weights for the same seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    network = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(network.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:  # a norm
                parameter.copy_(1 + 0.1 * noise)
            elif "embed" in name or "lm_head" in name:
                parameter.copy_(0.4 * noise)
            else:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
    return network.eval().requires_grad_(False)


def fake_loaded(seed: int = 0, *, tied: bool = True) -> LoadedModel:
    """The fake network with its tokenizer, as `load` would return it."""
    return LoadedModel(
        network=fake_network(seed, tied=tied),
        tokenizer=ByteTokenizer(),
        folder=Path("fake"),
        device=torch.device("cpu"),
    )


def few_canaries() -> list[Canary]:
    """Six a group and three of another kind: few, but some of every template."""
    plan = CanaryPlan(
        num_calibration=6,
        num_heldout=6,
        num_heldout_other=6,
        num_control=6,
        num_control_other=6,
        num_wrong_set=3,
        repetitions=(1,),
    )
    return make_canaries(plan, 0)


def weights_of(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    """A copy of every tensor of the network."""
    return {name: tensor.clone() for name, tensor in loaded.network.state_dict().items()}


def without_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets every pass run in fp32, so that what should be equal can be compared tightly.

    bf16 keeps 8 bits: two orders of the same sums differ by a hundredth, which would hide real mistakes.
    """
    for module in _AUTOCAST_USERS:
        monkeypatch.setattr(f"{module}.mixed_precision", lambda device: contextlib.nullcontext())


def random_moment(num_in: int, seed: int, *, correlated: bool = True) -> torch.Tensor:
    """mean x x^T of inputs drawn at random, mixed so that features correlate; fp32, full rank."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(8 * num_in, num_in, generator=generator)
    if correlated:
        inputs = inputs @ torch.randn(num_in, num_in, generator=generator)
    return inputs.T @ inputs / len(inputs)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal numbers from a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
