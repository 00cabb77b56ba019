"""Writes a split whose layers come one by one: the files of `artifact_write`, with one layer held at a time.

`layers` is gone through twice, first for base/, then for ortho/: base/ is finished before the first byte of
the Ortho part is written.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..errors import InputError
from ..files import atomic_path, read_json, require_free_space, sha256_file, sweep_orphans, write_json
from ..layers.split_linear import OrthoPart
from ..numerics.quantize import Quantized
from .artifact_format import (
    BASE,
    BASE_LIST,
    BASE_SCHEMA,
    BASE_TENSORS,
    MANIFEST,
    ORTHO,
    ORTHO_LIST,
    ORTHO_SCHEMA,
    ORTHO_TENSORS,
    QUANT_METHOD,
    base_layer,
    encode_base,
    encode_ortho,
    ortho_layer,
)
from .artifact_write import _PLACES, SplitSizes, _folder_bytes, _manifest, _present, require_empty
from .container import slices, write_listing
from .loaded import linear_layers
from .skeleton import empty_network, whole_tensors
from .tensor_reader import TensorReader
from .tensor_writer import TensorWriter

Layers = Iterable[tuple[str, Quantized, OrthoPart]]


def write_split(
    folder: Path,
    *,
    loaded_folder: Path,
    layers: Layers,
    manifest: Mapping[str, Any],
    factor_bits: int,
    private_facts: Mapping[str, Any],
) -> SplitSizes:
    """Writes the split of the model in `loaded_folder` to `folder`, which must be empty or not there.

    Args:
        layers: (layer name, Base, Ortho part) of every linear layer of the decoder; can be gone through more
            than once. Tensors may lie on any device.
        manifest, factor_bits, private_facts: as in `artifact_write.save_split`.
    Raises:
        As `save_split`; nothing is left behind.
    """
    folder = folder.absolute()
    require_empty(folder)
    source = TensorReader(loaded_folder)
    network = empty_network(loaded_folder, weight_bytes=sum(path.stat().st_size for path in source.paths))
    wanted = {name: tuple(layer.weight.shape) for name, layer in linear_layers(network).items()}
    others = whole_tensors(network)
    other_bytes = sum(source.num_bytes(name) for name in others)
    sweep_orphans(folder.parent)
    # At 8 bits a weight and as much again while a file's parts are joined: more than any split takes.
    largest_bytes = 2 * (sum(torch.Size(shape).numel() for shape in wanted.values()) + other_bytes)
    require_free_space(folder.parent, largest_bytes, "the split")
    with atomic_path(folder) as temporary:
        layer_bytes = _write_base(temporary / BASE, loaded_folder, source, others, wanted, layers)
        _write_ortho(temporary, layers, factor_bits, private_facts)
        num_split = sum(torch.Size(shape).numel() for shape in wanted.values())
        num_others = sum(torch.Size(shape).numel() for shape in others.values())
        sizes = _sizes(temporary, num_split, num_others, layer_bytes)
        write_json(temporary / MANIFEST, _manifest(temporary, manifest, sizes))
    return sizes


def _write_base(
    folder: Path,
    loaded_folder: Path,
    source: TensorReader,
    others: Mapping[str, tuple[int, ...]],
    wanted: Mapping[str, tuple[int, ...]],
    layers: Layers,
) -> int:
    """Writes base/ and returns the bytes that the split layers take in it."""
    folder.mkdir(parents=True)
    forms: dict[str, Any] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    layer_bytes = 0
    with TensorWriter(folder / BASE_TENSORS) as writer:
        for name, base, _ in layers:
            forms[name], shapes[name] = asdict(base_layer(base)), tuple(base.codes_OI.shape)
            for key, tensor in encode_base(name, base).items():
                writer.add(key, tensor)
                layer_bytes += tensor.nbytes
        for name, shape in others.items():
            pieces = (piece for _, piece in slices(source, name))
            writer.add_pieces(name, shape, source.dtype(name), pieces)
    wrong = sorted(name for name in wanted.keys() | shapes.keys() if wanted.get(name) != shapes.get(name))
    if wrong:
        raise InputError(
            "the Base is not of this model's layers",
            expected=f"{wrong[0]}: {wanted.get(wrong[0], 'no such layer')}",
            received=f"{shapes.get(wrong[0], 'nothing')} ({len(wrong)} layers differ)",
        )
    for name in _present(loaded_folder):
        shutil.copyfile(loaded_folder / name, folder / name)
    config = read_json(loaded_folder / "config.json", max_bytes=2**20)
    config = {key: value for key, value in config.items() if key not in _PLACES}
    config["quantization_config"] = {"quant_method": QUANT_METHOD, "format": BASE_SCHEMA}
    write_json(folder / "config.json", config)
    write_listing(folder, BASE_LIST, BASE_SCHEMA, {"sixgig_version": __version__, "layers": forms})
    return layer_bytes


def _write_ortho(split: Path, layers: Layers, factor_bits: int, private_facts: Mapping[str, Any]) -> None:
    folder = split / ORTHO
    folder.mkdir(mode=0o700)  # it holds what was private
    forms = {}
    with TensorWriter(folder / ORTHO_TENSORS) as writer:
        for name, _, ortho in layers:
            forms[name] = asdict(ortho_layer(ortho))
            for key, tensor in encode_ortho(name, ortho, factor_bits).items():
                writer.add(key, tensor)
    (folder / ORTHO_TENSORS).chmod(0o600)
    facts = {
        "sixgig_version": __version__,
        "base_sha256": sha256_file(split / BASE / BASE_LIST),
        "factor_bits": factor_bits,
        "layers": forms,
        "private": dict(private_facts),
    }
    write_listing(folder, ORTHO_LIST, ORTHO_SCHEMA, facts)


def _sizes(split: Path, num_split: int, num_others: int, layer_bytes: int) -> SplitSizes:
    base_bytes, ortho_bytes = _folder_bytes(split / BASE), _folder_bytes(split / ORTHO)
    return SplitSizes(
        num_split_weights=num_split,
        num_parameters=num_split + num_others,
        base_bytes=base_bytes,
        base_layer_bytes=layer_bytes,
        ortho_bytes=ortho_bytes,
        base_bits_per_split_weight=8 * layer_bytes / num_split,
        ortho_bits_per_split_weight=8 * ortho_bytes / num_split,
        bits_per_parameter=8 * (base_bytes + ortho_bytes) / (num_split + num_others),
    )
