"""transformers' Llama at the benchmark's shape with random weights, every linear layer in a peer's own form.

The network is made without memory and filled module by module on the device, each linear layer made into the
peer's before the next has memory: building takes seconds, and its peak is near what stays. Values decide no
time, so where a peer takes codes, they are random too.

Legend: O outputs, I inputs, G groups of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Progress = Callable[[str], None]
Linear = Callable[[nn.Linear, Tensor], nn.Module]  # the layer without memory, its weight [O, I] -> the peer's

_WEIGHT_SIZE = 0.02
_INT4_MIDDLE, _INT4_SCALE = 8, 0.005


def random_llama(
    shape: Mapping[str, int],
    device: torch.device,
    dtype: torch.dtype,
    linear: Linear,
    *,
    with_head: bool,
    progress: Progress,
) -> Any:
    """A LlamaForCausalLM of `shape` (the fields of decode_8b_model.Shape); `linear` makes its linear layers,
    the head too `with_head`, else it stays in `dtype`."""
    from transformers import LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = llama_config(shape)
    with torch.device("meta"):
        network: Any = LlamaForCausalLM(config)
    network.to(dtype).eval().requires_grad_(False)
    modules: list[tuple[str, Any]] = list(network.named_modules())
    for name, module in modules:
        progress(f"building {name}")
        if isinstance(module, nn.Linear):
            weight_OI = _random(module.weight.shape, device, dtype)
            made = linear(module, weight_OI) if with_head or name != "lm_head" else _dense(module, weight_OI)
            parent, _, own_name = name.rpartition(".")
            setattr(network.get_submodule(parent), own_name, made)
            del weight_OI, made  # else they live on while the next, the head at last, is made
        elif isinstance(module, nn.Embedding):
            module.weight = _frozen(_random(module.weight.shape, device, dtype))
        elif list(module.parameters(recurse=False)):
            module.weight = _frozen(torch.ones(module.weight.shape, device=device, dtype=dtype))
    network.model.rotary_emb = LlamaRotaryEmbedding(config=config).to(device)
    return network


def llama_config(shape: Mapping[str, int]) -> Any:
    """Without a token that ends the answer, so that all answers are of one length."""
    from transformers import LlamaConfig

    settings: dict[str, Any] = {"attn_implementation": "sdpa"}
    return LlamaConfig(
        num_hidden_layers=shape["num_layers"],
        hidden_size=shape["hidden"],
        intermediate_size=shape["channels"],
        num_attention_heads=shape["num_heads"],
        num_key_value_heads=shape["num_kv_heads"],
        head_dim=shape["head_dim"],
        vocab_size=shape["vocabulary"],
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        **settings,
    )


def bitsandbytes_nf4(device: torch.device, *, double: bool) -> Linear:
    """As transformers loads it with `BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
    bnb_4bit_compute_dtype=torch.bfloat16, bnb_4bit_use_double_quant=double)`: blocks of 64."""
    from bitsandbytes.nn import Linear4bit, Params4bit  # pyright: ignore[reportMissingImports]

    def linear(module: nn.Linear, weight_OI: Tensor) -> nn.Module:
        how = {"quant_type": "nf4", "compress_statistics": double}
        made = Linear4bit(
            module.in_features,
            module.out_features,
            bias=False,
            compute_dtype=torch.bfloat16,
            device="meta",
            **how,
        )
        made.weight = Params4bit(weight_OI, requires_grad=False, module=made, **how)
        return made.to(device)

    return linear


def torchao_int4(device: torch.device, group_size: int) -> Linear:
    """`Int4WeightOnlyConfig` in the packing that torch's own tinygemm kernel reads; its others need kernels
    of another package (mslk). On a CPU, where that packing cannot be made, `IntxWeightOnlyConfig`, which is
    no figure's peer and serves to try the script."""
    from torchao.quantization import (  # pyright: ignore[reportMissingImports]
        Int4WeightOnlyConfig,
        IntxWeightOnlyConfig,
        PerGroup,
        quantize_,
    )

    if device.type == "cuda":
        config = Int4WeightOnlyConfig(group_size=group_size, int4_packing_format="tile_packed_to_4d")
    else:
        config = IntxWeightOnlyConfig(
            weight_dtype=torch.int4,  # pyright: ignore[reportAttributeAccessIssue]
            granularity=PerGroup(group_size),
        )

    def linear(module: nn.Linear, weight_OI: Tensor) -> nn.Module:
        made = _dense(module, weight_OI)
        quantize_(made, config)
        if type(made.weight.data) is Tensor:  # it says no more than a line in its log
            raise RuntimeError(f"torchao left a weight {tuple(weight_OI.shape)} unquantised")
        return made

    return linear


def gemlite_int4(device: torch.device, dtype: torch.dtype, group_size: int) -> Linear:
    """`gemlite.helper.A16W4_HQQ_INT` on codes, scales and zero points.

    Tuned launches: those that come with gemlite where it knows the card; an H200, which it does not, gets
    those of the H100, the same chip; other shapes are tuned by its default search.
    """
    import gemlite  # pyright: ignore[reportMissingImports]
    from gemlite.helper import A16W4_HQQ_INT  # pyright: ignore[reportMissingImports]

    if "H200" in torch.cuda.get_device_name(device):
        tuned = Path(str(gemlite.__file__)).parent / "configs" / "h100.json"
        if not gemlite.load_config(str(tuned)):
            raise RuntimeError(f"gemlite's own tuned launches are not at {tuned}")
    processor = A16W4_HQQ_INT(device=str(device), dtype=dtype)

    def linear(module: nn.Linear, weight_OI: Tensor) -> nn.Module:
        codes_OI = torch.randint(0, 16, weight_OI.shape, dtype=torch.uint8, device=device)
        groups = (module.out_features, module.in_features // group_size)
        scales_OG = torch.full(groups, _INT4_SCALE, dtype=dtype, device=device)
        return processor.from_weights(codes_OI, scales_OG, torch.full_like(scales_OG, _INT4_MIDDLE))

    return linear


def _random(shape: torch.Size, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, device=device, dtype=dtype).normal_(0, _WEIGHT_SIZE)


def _dense(module: nn.Linear, weight_OI: Tensor) -> nn.Linear:
    module.weight = _frozen(weight_OI)
    return module


def _frozen(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)
