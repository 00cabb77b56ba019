"""A model folder from outside: its config.json becomes a `ModelSpec`, or is refused by name.

Only architectures whose layers sixgig knows are accepted, and a config that asks for code of its own
(`auto_map`) is refused: nothing from a model folder is ever executed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import InputError, UnknownNameError
from ..files import read_json
from .spec import ModelSpec

SUPPORTED_ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM")


def from_config(path: Path) -> ModelSpec:
    """The shapes in `path`/config.json (or in `path` itself); the licence is not known from there.

    Raises `InputError` for a missing or wrong field and `UnknownNameError` for another architecture.
    """
    file = path / "config.json" if path.is_dir() else path
    config = read_json(file, max_bytes=2**20)
    if not isinstance(config, dict):
        raise InputError("not a model configuration", expected="a JSON object", where=str(file))
    if config.get("auto_map"):
        raise InputError(
            "the configuration asks for code of its own (auto_map), and a model folder's code is never run",
            where=str(file),
            todo="use a model whose architecture transformers itself has",
        )
    architecture = _architecture(config, file)
    hidden_size, num_heads = (
        _positive(config, "hidden_size", file),
        _positive(config, "num_attention_heads", file),
    )
    head_dim = _positive({"head_dim": config.get("head_dim") or hidden_size // num_heads}, "head_dim", file)
    return ModelSpec(
        name=file.parent.resolve().name,
        architecture=architecture,
        num_layers=_positive(config, "num_hidden_layers", file),
        hidden_size=hidden_size,
        intermediate_size=_positive(config, "intermediate_size", file),
        num_heads=num_heads,
        num_kv_heads=_positive(
            {"num_key_value_heads": num_heads} | _present(config), "num_key_value_heads", file
        ),
        head_dim=head_dim,
        vocab_size=_positive(config, "vocab_size", file),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        context=_positive(config, "max_position_embeddings", file),
        licence="unknown",
        gated=None,
        attention_bias=architecture == "Qwen2ForCausalLM",
    )


def _present(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if value is not None}


def _architecture(config: dict[str, Any], file: Path) -> str:
    named = config.get("architectures")
    name = named[0] if isinstance(named, list) and named else None
    if not isinstance(name, str):
        raise InputError(
            "the configuration names no architecture",
            expected=f"architectures: one of {', '.join(SUPPORTED_ARCHITECTURES)}",
            where=str(file),
        )
    if name not in SUPPORTED_ARCHITECTURES:
        raise UnknownNameError("architecture", name, SUPPORTED_ARCHITECTURES, where=str(file))
    # Both exist with extra biases in the wild; our layers know only each architecture's usual ones.
    if name == "LlamaForCausalLM" and (config.get("attention_bias") or config.get("mlp_bias")):
        raise InputError("Llama with biases in its linear layers is not supported", where=str(file))
    return name


def _positive(config: dict[str, Any], key: str, file: Path) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise InputError(
            f"{key} is not a size", expected="a positive integer", received=repr(value), where=str(file)
        )
    return value
