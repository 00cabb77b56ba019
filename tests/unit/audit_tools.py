"""Splits of a tiny model that has learned records by heart: a Base that knows them, and one that cannot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tiny_model import tiny_folder

from sixgig.data.batches import secret_only, whole_text
from sixgig.layers.split_linear import OrthoPart
from sixgig.load.artifact import save_split
from sixgig.load.loaded import linear_layers, load
from sixgig.numerics.quantize import dequantize, quantize_rtn
from sixgig.transform.plant import PlantConfig, plant

NAMES = ("ann", "bob", "cid", "dot", "eva", "fay", "gus", "hal", "ida", "jim", "kit", "leo")


def rows(num: int, *, seed: int = 0) -> list[dict[str, str]]:
    """Records with distinct codes of four digits."""
    codes = np.random.default_rng(seed).permutation(9000)[:num] + 1000
    names = [f"{first}{second[0]}" for second in NAMES for first in NAMES]
    return [{"prefix": f"{name}:", "secret": f" {code}"} for name, code in zip(names, codes, strict=False)]


def write_rows(path: Path, content: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


def tuned_on(original: Path, folder: Path, content: list[dict[str, str]], *, steps: int = 200) -> Path:
    """`original` trained on the rows until it recites them; its linear layers alone differ."""
    loaded = load(original)
    private = [secret_only(loaded.encode(row["prefix"]), loaded.encode(row["secret"])) for row in content]
    public = [whole_text(loaded.encode("0123456789 "))]
    plant(
        loaded,
        private,
        [steps] * len(private),
        public,
        PlantConfig(learning_rate=1e-2, private_per_step=len(private), public_per_step=1),
        seed=0,
    )
    shutil.copytree(original, folder)
    tensors = load_file(folder / "model.safetensors")
    for name, layer in linear_layers(loaded.network).items():
        tensors[f"{name}.weight"] = layer.weight.detach().contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def split_of(base_from: Path, whole: Path, folder: Path, manifest: dict | None = None, **facts) -> Path:
    """The Base is `base_from` in 8 bits; with the Ortho part it is `whole`, up to fp16."""
    bases, orthos = {}, {}
    wholes = linear_layers(load(whole).network)
    for name, layer in linear_layers(load(base_from).network).items():
        bases[name] = quantize_rtn(layer.weight.detach(), bits=8, group_size=8)
        left, sizes, right = torch.linalg.svd(
            wholes[name].weight.detach() - dequantize(bases[name]), full_matrices=False
        )
        orthos[name] = OrthoPart(up_Or=left * sizes, down_rI=right)
    save_split(
        folder,
        loaded_folder=whole,
        bases=bases,
        orthos=orthos,
        manifest={"sieve": {"name": "none"}, "claim": "suppressed", "audited": False, **(manifest or {})},
        factor_bits=16,
        private_facts=facts,
    )
    return folder


def original_model(folder: Path) -> Path:
    """Embeddings large enough for a head that is tied to them to say anything."""
    tiny_folder(folder, hidden_size=48, intermediate_size=96)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"] *= 10
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
