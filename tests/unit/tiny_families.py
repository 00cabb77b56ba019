"""Small models of the structure that each splittable architecture really has, in folders for `load`.

Windows are shorter than the texts, heads are not as wide as hidden / heads where a family's own are not, and
nothing that a careless pass could leave out is zero: biases, norms and both rotary bases are drawn.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tiny_model import _write_tokenizer

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
WINDOW = 8
MIXED = ["sliding_attention", "sliding_attention", "full_attention"]
ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
# name -> (model_type, what its configuration says besides SHAPE)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": True}),
    "llama-biased": ("llama", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {"tie_word_embeddings": False, "sliding_window": WINDOW}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-windows": (
        "qwen2",
        {
            "tie_word_embeddings": False,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "max_window_layers": 1,
        },
    ),
    "qwen3": ("qwen3", {"tie_word_embeddings": True, "head_dim": 16}),
    "phi": (
        "phi",
        {
            "tie_word_embeddings": False,
            "num_key_value_heads": 4,
            "partial_rotary_factor": 0.5,
            "resid_pdrop": 0.1,
            "attention_dropout": 0.1,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            "tie_word_embeddings": True,
            "head_dim": 16,
            "num_key_value_heads": 1,
            "sliding_window": WINDOW,
            "layer_types": MIXED,
            "rope_parameters": ROPES,
            "query_pre_attn_scalar": 16,
        },
    ),
}
BIASED = ("llama-biased", "qwen2", "qwen2-windows", "phi")


def family_folder(folder: Path, name: str, *, seed: int = 0, **changes: Any) -> Path:
    """Writes the model `name` with weights drawn from `seed`; `changes` replace keys. Returns `folder`."""
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    model_type, keys = FAMILIES[name]
    vocab_size = _write_tokenizer(folder, template=True)
    config = AutoConfig.for_model(model_type, **{**SHAPE, **keys, "vocab_size": vocab_size, **changes})
    model: Any = AutoModelForCausalLM.from_config(config)
    draw(model, seed)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    fields = {**config.to_dict(), "architectures": [type(model).__name__]}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@torch.no_grad()
def draw(model: Any, seed: int) -> None:
    """Every parameter anew, none of them zero; logits of a few units."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith(".bias"):
            parameter.copy_(0.5 * noise)
        elif parameter.dim() == 1:  # a norm's gain, which Gemma counts from 1
            parameter.copy_((0 if model.config.model_type == "gemma3_text" else 1) + 0.2 * noise)
        elif "embed" in name or "lm_head" in name:
            parameter.copy_(0.4 * noise)
        else:
            parameter.copy_(noise / parameter.shape[1] ** 0.5)
