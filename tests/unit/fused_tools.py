"""A Llama small enough for Triton's interpreter, its layers split, and decoders over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import randn
from kernel_tools import DEVICE, random_ortho
from torch import Tensor

from sixgig.layers.split_linear import AlphaSwitch, OrthoPart, SplitLinear
from sixgig.load.loaded import LoadedModel, linear_layers
from sixgig.numerics.kernels.product import Launch
from sixgig.numerics.quantize import quantize_rtn
from sixgig.runtime import fused_model as fused_model_module
from sixgig.runtime.fused_decoder import FusedDecoder
from sixgig.runtime.fused_model import FusedModel, fused_model

VOCABULARY = 100
KINDS = ("qkv", "out", "gate_up", "down", "head")


def small_llama(dtype: torch.dtype, *, hidden: int = 64, num_heads: int = 4, **others: Any) -> Any:
    """Two layers, two query heads a key-value head, on `DEVICE`; logits of a few units."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=3 * hidden // 2,
        num_hidden_layers=2,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads // 2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        **others,
    )
    network: Any = LlamaForCausalLM(config)
    for index, (_, parameter) in enumerate(sorted(network.named_parameters())):
        noise = randn(*parameter.shape, seed=index)
        is_norm = parameter.dim() == 1
        parameter.data = 1 + noise / 8 if is_norm else noise / parameter.shape[1] ** 0.5
    network.get_output_embeddings().weight.data *= 4
    network.get_input_embeddings().weight.data *= hidden**0.5
    return network.eval().requires_grad_(False).to(DEVICE, dtype)


def split_layers_of(network: Any, *, rank: int = 3, num_sparse: int = 60, **grid: int) -> AlphaSwitch:
    """Puts a split layer in each linear layer's place; the last decoder layer has S alone. Their switch."""
    switch = AlphaSwitch()
    last = f"layers.{len(network.base_model.layers) - 1}."
    for index, (name, linear) in enumerate(linear_layers(network).items()):
        base = quantize_rtn(linear.weight.float().cpu(), **({"bits": 4, "group_size": 64} | grid))
        layer = SplitLinear(base, None, switch)
        part_rank = 0 if last in name else rank
        part = random_ortho(*linear.weight.shape, rank=part_rank, num_sparse=num_sparse, seed=100 + index)
        layer.attach(OrthoPart(up_Or=part.up_Or.float(), down_rI=part.down_rI.float(), sparse=part.sparse))
        network.set_submodule(name, layer.to(DEVICE))
    return switch


def without_ortho(network: Any) -> None:
    """Takes every Ortho part out."""
    for module in network.modules():
        if isinstance(module, SplitLinear):
            module.attach(None)


def as_loaded(network: Any) -> LoadedModel:
    return LoadedModel(network=network, tokenizer=None, folder=Path("tiny"), device=DEVICE)


def interpreted_decoder(
    monkeypatch: pytest.MonkeyPatch,
    network: Any,
    dtype: torch.dtype,
    *,
    context: int = 32,
    head_bits: int = 16,
) -> FusedDecoder:
    """Cut into few programs: the interpreter's time goes by their number."""
    monkeypatch.setattr(fused_model_module, "ORTHO_BLOCK_ROWS", 32)
    monkeypatch.setattr("sixgig.runtime.fused_step._ATTENTION_SPLIT", 2)
    model: FusedModel = fused_model(as_loaded(network), dtype=dtype, head_bits=head_bits)
    launches = {kind: Launch(block_rows=32, max_inner_helpers=2, max_sparse_helpers=1) for kind in KINDS}
    return FusedDecoder(model, context_tokens=context, launches=launches, capture=False)


@torch.no_grad()
def logits_of(network: Any, ids: list[int]) -> Tensor:
    """After each token, [T, V], in the network's own type."""
    return network(torch.tensor([ids], device=DEVICE)).logits[0]
