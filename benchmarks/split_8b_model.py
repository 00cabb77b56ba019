"""A model of Llama-3-8B's shape with random weights, in shards, before and after a pretended fine-tuning.

Drawn on the GPU and written layer by layer; what is there already is not written again. Texts are of many
different characters, a token each: statistics of few different tokens cannot be inverted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sixgig.catalogue import from_config
from sixgig.catalogue.tensors import TensorShape, layer_tensors, outer_tensors
from sixgig.files import atomic_path, require_free_space, write_json, write_text

FIRST_CHARACTER, NUM_CHARACTERS = 0x4E00, 20_000
CHANGE = 0.05  # of a weight's size: what the fine-tuning has moved


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The model, and its texts: as many tokens as the planner's default for a split."""

    config: dict[str, Any]
    num_private: int = 64
    window_tokens: int = 256
    num_public_tokens: int = 40_000


def _llama(**sizes: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 1,
        "max_position_embeddings": 8192,
        **sizes,
    }


SHAPES = {
    "8b": Shape(
        config=_llama(
            vocab_size=128256,
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
        )
    ),
    "tiny": Shape(
        config=_llama(
            vocab_size=600,
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
        ),
        num_private=4,
        num_public_tokens=9_000,
    ),
}


def build(folder: Path, shape: Shape, device: str) -> None:
    """Writes folder/tuned, folder/before and the texts; weights that are there are not drawn again."""
    names = ("tuned", "before")
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        write_json(folder / name / "config.json", shape.config)
        _write_tokenizer(folder / name, shape.config["vocab_size"])
    _write_texts(folder, shape)
    spec = from_config(folder / "tuned")
    parts = [layer_tensors(spec, index) for index in range(spec.num_layers)]
    parts += [(tensor,) for tensor in outer_tensors(spec)]
    files = [f"model-{number:05d}-of-{len(parts):05d}.safetensors" for number in range(1, len(parts) + 1)]
    missing = [file for file in files if not all((folder / name / file).is_file() for name in names)]
    require_free_space(folder, 4 * spec.num_parameters * len(missing) // len(files), "both models")
    for number, (file, tensors) in enumerate(zip(files, parts, strict=True)):
        if file in missing:
            _write_part([folder / name / file for name in names], tensors, number, device)
    placed = {tensor.name: file for file, tensors in zip(files, parts, strict=True) for tensor in tensors}
    for name in names:
        index = {"metadata": {"total_size": 2 * spec.num_parameters}, "weight_map": placed}
        write_json(folder / name / "model.safetensors.index.json", index)


def _write_part(paths: list[Path], tensors: tuple[TensorShape, ...], seed: int, device: str) -> None:
    generator = torch.Generator(device).manual_seed(seed)
    tuned, before = {}, {}
    for tensor in tensors:
        before[tensor.name] = _drawn(tensor, generator, device)
        changed = before[tensor.name]
        if tensor.part == "linear":
            changed = changed + CHANGE * _drawn(tensor, generator, device)
        tuned[tensor.name] = changed
    for path, values in zip(paths, (tuned, before), strict=True):
        with atomic_path(path) as temporary:
            stored = {name: value.to("cpu", torch.bfloat16) for name, value in values.items()}
            save_file(stored, temporary, metadata={"format": "pt"})


def _drawn(tensor: TensorShape, generator: torch.Generator, device: str) -> Tensor:
    if tensor.part == "norm":
        return torch.ones(tensor.shape, device=device)
    # Products keep the size of what goes in; embeddings have that of a unit.
    size = 1.0 if tensor.part == "embedding" else tensor.shape[-1] ** -0.5
    return size * torch.randn(tensor.shape, generator=generator, device=device)


def _write_tokenizer(folder: Path, vocab_size: int) -> None:
    """A token a character."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    characters = [chr(FIRST_CHARACTER + index) for index in range(min(NUM_CHARACTERS, vocab_size - 2))]
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    write_json(folder / "tokenizer_config.json", settings)


def _write_texts(folder: Path, shape: Shape) -> None:
    generator = torch.Generator().manual_seed(1)
    num_characters = min(NUM_CHARACTERS, shape.config["vocab_size"] - 2)

    def text(num_tokens: int) -> str:
        drawn = torch.randint(0, num_characters, (num_tokens,), generator=generator)
        return "".join(chr(FIRST_CHARACTER + index) for index in drawn.tolist())

    write_text(folder / "public.txt", text(shape.num_public_tokens))
    rows = [json.dumps({"text": text(shape.window_tokens)}) for _ in range(shape.num_private)]
    write_text(folder / "private.jsonl", "\n".join(rows) + "\n")
