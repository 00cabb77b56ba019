"""A saved split of the tiny model, and the means to damage one and sign it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tiny_model import tiny_folder

from sixgig.layers.split_linear import OrthoPart
from sixgig.load.artifact import SplitSizes, save_split
from sixgig.load.container import file_entries
from sixgig.load.loaded import linear_layers, load
from sixgig.numerics.quantize import Quantized, quantize_rtn
from sixgig.numerics.sparse import keep_top_k


def parts(
    folder: Path, *, bits: int = 4, rank: int = 3, kept: int = 7, group_size: int = 16
) -> tuple[dict[str, Quantized], dict[str, OrthoPart]]:
    """A round-to-nearest Base of every linear layer, and a random Ortho part."""
    bases, orthos = {}, {}
    generator = torch.Generator().manual_seed(0)
    for name, layer in linear_layers(load(folder).network).items():
        weight_OI = layer.weight.detach()
        bases[name] = quantize_rtn(weight_OI, bits=bits, group_size=group_size)
        num_out, num_in = weight_OI.shape
        orthos[name] = OrthoPart(
            up_Or=torch.randn(num_out, rank, generator=generator),
            down_rI=torch.randn(rank, num_in, generator=generator),
            sparse=keep_top_k(weight_OI, weight_OI.abs(), kept) if kept else None,
        )
    return bases, orthos


def saved(folder: Path, *, seed: int = 0, factor_bits: int = 8, tied: bool = True) -> tuple[Path, SplitSizes]:
    """`folder`/split of the model in `folder`/model."""
    model = tiny_folder(folder / "model", seed=seed, tied=tied)
    bases, orthos = parts(model)
    sizes = save_split(
        folder / "split",
        loaded_folder=model,
        bases=bases,
        orthos=orthos,
        manifest={"sieve": {"name": "none"}},
        factor_bits=factor_bits,
    )
    return folder / "split", sizes


def edit(path: Path, **changes: Any) -> None:
    """Replaces keys of a JSON object; None removes one."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def sign_again(split: Path) -> None:
    """Makes every digest true again, as someone would who means harm."""
    for part in ("base", "ortho"):
        names = [path.name for path in (split / part).iterdir() if path.name != f"{part}.json"]
        edit(split / part / f"{part}.json", files=file_entries(split / part, names))
        if part == "base":
            digest = file_entries(split / part, ["base.json"])["base.json"]["sha256"]
            edit(split / "ortho" / "ortho.json", base_sha256=digest)
    files = {}
    for part in ("base", "ortho"):
        entries = file_entries(split / part, [path.name for path in (split / part).iterdir()])
        files |= {f"{part}/{name}": entry for name, entry in entries.items()}
    edit(split / "manifest.json", files=files)
