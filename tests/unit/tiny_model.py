"""A two-layer Llama with a byte-like tokenizer in a folder, small enough to split within a test."""

from __future__ import annotations

import json
from pathlib import Path

import torch

torch.set_num_threads(1)  # tensors this small lose time to threads

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_folder(
    folder: Path, *, seed: int = 0, tied: bool = True, template: bool = True, **shape: int
) -> Path:
    """Writes the model with random weights drawn from `seed`; `shape` replaces sizes. Returns `folder`."""
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _write_tokenizer(folder, template)
    config = LlamaConfig(
        vocab_size=tokenizer,
        **{"hidden_size": 24, "intermediate_size": 40, **shape},
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if tied:
        del state["lm_head.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    fields = {**config.to_dict(), "architectures": ["LlamaForCausalLM"], "_name_or_path": "/home/ann/model"}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def altered_linears(source: Path, folder: Path, *, seed: int = 1, scale: float = 0.02) -> Path:
    """The same model after a pretended fine-tuning that touched linear layers alone."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("proj.weight"):
            tensors[name] = tensor + scale * torch.randn(tensor.shape, generator=generator)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _write_tokenizer(folder: Path, template: bool) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if template:
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    return len(vocabulary)
