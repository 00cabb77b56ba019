"""Tiny networks whose layers the INT4 kernel can hold: inputs in multiples of 32, groups of 32."""

from __future__ import annotations

from typing import Any

import tiny_model  # noqa: F401 - one thread, as there
import torch

from sixgig.layers.split_linear import AlphaSwitch, OrthoPart, SplitLinear
from sixgig.numerics.quantize import quantize_rtn
from sixgig.numerics.sparse import keep_top_k

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}


def network(model_type: str = "llama", *, seed: int = 0, tied: bool = True, **changes: Any) -> Any:
    """A network of random weights in fp32; weights are larger than usual, so that its tokens vary."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(model_type, **{**SHAPE, "tie_word_embeddings": tied, **changes})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.15)
        else:  # norms whose weight is 1 would hide where they round
            torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.2)
    return model.eval().requires_grad_(False)


def split_in_place(model: Any, *, bits: int = 4, rank: int = 3, with_ortho: bool = True) -> AlphaSwitch:
    """Every linear layer but the head becomes a SplitLinear in groups of 32; returns their switch."""
    from sixgig.load.loaded import linear_layers

    switch, generator = AlphaSwitch(), torch.Generator().manual_seed(1)
    for name, layer in linear_layers(model).items():
        owner, _, leaf = name.rpartition(".")
        split = SplitLinear(quantize_rtn(layer.weight, bits=bits, group_size=32), layer.bias, switch)
        if with_ortho:
            split.attach(random_ortho(layer.weight.shape, rank, generator))
        setattr(model.get_submodule(owner), leaf, split)
    return switch


def random_ortho(shape: Any, rank: int, generator: torch.Generator, *, share: float = 0.02) -> OrthoPart:
    num_out, num_in = shape
    entries_OI = torch.randn(num_out, num_in, generator=generator)
    return OrthoPart(
        up_Or=0.3 * torch.randn(num_out, rank, generator=generator),
        down_rI=0.3 * torch.randn(rank, num_in, generator=generator),
        sparse=keep_top_k(entries_OI, entries_OI.abs(), int(share * entries_OI.numel())),
    )
