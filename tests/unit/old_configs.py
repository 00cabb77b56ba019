"""The four configuration files of the earlier watermark project, written anew from its documents."""

from __future__ import annotations

from typing import Any

STANDARD: dict[str, Any] = {
    "model_name": "Qwen/Qwen1.5-MoE-A2.7B-Chat",
    "model_revision": None,
    "device": "cuda",
    "torch_dtype": "float16",
    "load_in_4bit": True,
    "load_in_8bit": False,
    "use_flash_attention": False,
    "cpu_offload": True,
    "max_memory": {"0": "6GB", "cpu": "24GB"},
    "extractor_config": {
        "start_layer_idx": 4,
        "end_layer_idx": 10,
        "use_top_k": True,
        "k": 4,
        "token_idx": -1,
    },
    "encoder_config": {"num_bits": 128, "pool_size": 8, "secret_key": "a secret", "semantic_pools": False},
    "watermark_strength_delta": 2.0,
    "detection_z_threshold": 4.0,
    "generation_config": {
        "max_new_tokens": 128,
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.9,
        "pad_token_id": None,
    },
}


def changed(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """`base` with `changes`; an object's keys are changed one by one, the others stay."""
    merged = dict(base)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(name), dict)
        merged[name] = base[name] | value if both else value
    return merged


MIXTRAL = changed(
    STANDARD,
    model_name="mistralai/Mixtral-8x7B-Instruct-v0.1",
    extractor_config={"start_layer_idx": 6, "end_layer_idx": 12, "k": 2},
)
DENSE = changed(
    STANDARD,
    model_name="Qwen/Qwen2.5-1.5B-Instruct",
    cpu_offload=False,
    extractor_config={"start_layer_idx": 8, "end_layer_idx": 12, "use_top_k": False, "k": 0},
)
ULTRA_LOW_MEMORY = changed(
    STANDARD,
    max_memory={"0": "5GiB"},
    extractor_config={"start_layer_idx": 6, "end_layer_idx": 8, "k": 2},
    encoder_config={"num_bits": 64, "pool_size": 4},
    generation_config={"max_new_tokens": 64},
)
ALL = {
    "standard": STANDARD,
    "mixtral": MIXTRAL,
    "dense contrast": DENSE,
    "ultra low memory": ULTRA_LOW_MEMORY,
}
