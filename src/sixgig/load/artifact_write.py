"""Writes a split as one folder: base/, ortho/ and manifest.json, there whole or not at all.

Everything is written to a temporary folder beside the target, which takes its place by rename at the end.
base/ is finished before the first byte of the Ortho part is written, and nothing private ever enters it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

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
    FACTOR_BITS,
    MANIFEST,
    MANIFEST_SCHEMA,
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
from .container import ModelTensors, file_entries, write_listing
from .loaded import linear_layers
from .skeleton import empty_network, whole_tensors

# Files of a model folder that go into base/ unchanged, where they are there. Nothing else is copied.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
# Keys of a config that name a place on the machine where the model was made.
_PLACES = ("_name_or_path", "_model_name_or_path", "_commit_hash")
_SLACK_BYTES = 2**20  # headers, lists and paddings


@dataclass(frozen=True, kw_only=True)
class SplitSizes:
    """Bytes of the files as written, and bits a weight from them.

    `base_layer_bytes` is what the split layers alone take in base/; `ortho_*` is 0 without an Ortho part.
    """

    num_split_weights: int
    num_parameters: int
    base_bytes: int
    base_layer_bytes: int
    ortho_bytes: int
    base_bits_per_split_weight: float
    ortho_bits_per_split_weight: float
    bits_per_parameter: float  # both parts over all parameters of the model


def save_split(
    folder: Path,
    *,
    loaded_folder: Path,
    bases: Mapping[str, Quantized],
    orthos: Mapping[str, OrthoPart] | None,
    manifest: Mapping[str, Any],
    factor_bits: int,
    private_facts: Mapping[str, Any] | None = None,
) -> SplitSizes:
    """Writes the split of the model in `loaded_folder` to `folder`, which must be empty or not there.

    Args:
        bases, orthos: layer name -> its parts on the CPU; every linear layer of the decoder, no other.
        manifest: what the split is: sieve, claim, data seen; sizes, version and files are added.
        factor_bits: 16, or 8 with an fp32 scale for each rank component. S is kept in fp16 always.
        private_facts: kept in ortho/ortho.json, so never beside a published Base.
    Raises:
        InputError: the folder has content, or the layers are not the model's.
        NumericalError: NaN or Inf, named by tensor; OutOfSpaceError: the disk. Nothing is left behind.
    """
    folder = folder.absolute()
    require_empty(folder)
    if factor_bits not in FACTOR_BITS:
        raise InputError(
            "unsupported factor width", expected=f"one of {FACTOR_BITS}", received=str(factor_bits)
        )
    source = ModelTensors(loaded_folder)
    others = _check_layers(loaded_folder, source, bases, orthos)
    sweep_orphans(folder.parent)
    require_free_space(folder.parent, _needed_bytes(source, others, bases, orthos, factor_bits), "the split")
    with atomic_path(folder) as temporary:
        layer_bytes = _write_base(temporary / BASE, loaded_folder, source, others, bases)
        if orthos is not None:
            _write_ortho(temporary, orthos, factor_bits, dict(private_facts or {}))
        num_others = sum(_numel(shape) for shape in others.values())
        sizes = _sizes(temporary, bases, layer_bytes, num_others)
        write_json(temporary / MANIFEST, _manifest(temporary, manifest, sizes))
    return sizes


def require_empty(folder: Path) -> None:
    """Raises InputError where something is already; nothing of an earlier split is ever overwritten."""
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise InputError(
            "the output folder is not empty",
            expected="a new or an empty folder",
            where=str(folder),
            todo="choose another folder, or remove this one",
        )


def _check_layers(
    loaded_folder: Path,
    source: ModelTensors,
    bases: Mapping[str, Quantized],
    orthos: Mapping[str, OrthoPart] | None,
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all tensors that go into base/ unchanged."""
    weight_bytes = sum(path.stat().st_size for path in source.paths)
    network = empty_network(loaded_folder, weight_bytes=weight_bytes)
    wanted = {name: tuple(layer.weight.shape) for name, layer in linear_layers(network).items()}
    _same_layers("Base", wanted, {name: tuple(base.codes_OI.shape) for name, base in bases.items()})
    if orthos is not None:
        shapes = {name: (len(part.up_Or), part.down_rI.shape[1]) for name, part in orthos.items()}
        _same_layers("Ortho part", wanted, shapes)
    return whole_tensors(network)


def _same_layers(what: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        raise InputError(
            f"the {what} is not of this model's layers",
            expected=f"{wrong[0]}: {wanted.get(wrong[0], 'no such layer')}",
            received=f"{found.get(wrong[0], 'nothing')} ({len(wrong)} layers differ)",
        )


def _needed_bytes(
    source: ModelTensors,
    others: Iterable[str],
    bases: Mapping[str, Quantized],
    orthos: Mapping[str, OrthoPart] | None,
    factor_bits: int,
) -> int:
    layer_bits = sum(base.storage_bits for base in bases.values())
    ortho_bits = sum(part.storage_bits(factor_bits) for part in (orthos or {}).values())
    folder = source.paths[0].parent
    tokenizer_bytes = sum((folder / name).stat().st_size for name in _present(folder))
    other_bytes = sum(source.num_bytes(name) for name in others)
    return (layer_bits + ortho_bits) // 8 + other_bytes + tokenizer_bytes + _SLACK_BYTES


def _write_base(
    folder: Path,
    loaded_folder: Path,
    source: ModelTensors,
    others: Mapping[str, tuple[int, ...]],
    bases: Mapping[str, Quantized],
) -> int:
    """Writes base/ and returns the bytes that the split layers take in it."""
    folder.mkdir(parents=True)
    tensors: dict[str, Tensor] = {}
    for name, base in bases.items():
        tensors |= encode_base(name, base)
    layer_bytes = sum(tensor.nbytes for tensor in tensors.values())
    tensors |= {name: source.get(name) for name in others}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / BASE_TENSORS)
    for name in _present(loaded_folder):
        shutil.copyfile(loaded_folder / name, folder / name)
    config = read_json(loaded_folder / "config.json", max_bytes=2**20)
    config = {key: value for key, value in config.items() if key not in _PLACES}
    # An unknown method and a weight file of another name: transformers then refuses the folder, instead of
    # returning layers with random weights.
    config["quantization_config"] = {"quant_method": QUANT_METHOD, "format": BASE_SCHEMA}
    write_json(folder / "config.json", config)
    # safetensors makes files that only their owner can read; a Base is made to be read by others.
    (folder / BASE_TENSORS).chmod((folder / "config.json").stat().st_mode)
    layers = {name: asdict(base_layer(base)) for name, base in bases.items()}
    write_listing(folder, BASE_LIST, BASE_SCHEMA, {"sixgig_version": __version__, "layers": layers})
    return layer_bytes


def _write_ortho(
    split: Path, orthos: Mapping[str, OrthoPart], factor_bits: int, private_facts: dict[str, Any]
) -> None:
    folder = split / ORTHO
    folder.mkdir(mode=0o700)  # it holds what was private
    tensors: dict[str, Tensor] = {}
    for name, ortho in orthos.items():
        tensors |= encode_ortho(name, ortho, factor_bits)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / ORTHO_TENSORS)
    facts = {
        "sixgig_version": __version__,
        "base_sha256": sha256_file(split / BASE / BASE_LIST),
        "factor_bits": factor_bits,
        "layers": {name: asdict(ortho_layer(ortho)) for name, ortho in orthos.items()},
        "private": private_facts,
    }
    write_listing(folder, ORTHO_LIST, ORTHO_SCHEMA, facts)


def _sizes(split: Path, bases: Mapping[str, Quantized], layer_bytes: int, num_others: int) -> SplitSizes:
    num_split = sum(base.codes_OI.numel() for base in bases.values())
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


def _manifest(split: Path, facts: Mapping[str, Any], sizes: SplitSizes) -> dict[str, Any]:
    added = {"schema": MANIFEST_SCHEMA, "sixgig_version": __version__, "sizes": asdict(sizes)}
    assert not facts.keys() & {*added, "files"}
    files = {
        f"{part}/{name}": entry
        for part in (BASE, ORTHO)
        if (split / part).is_dir()
        for name, entry in file_entries(
            split / part, [path.name for path in (split / part).iterdir()]
        ).items()
    }
    return {**added, **facts, "files": files}


def _present(folder: Path) -> list[str]:
    return [name for name in TOKENIZER_FILES if (folder / name).is_file()]


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir()) if folder.is_dir() else 0


def _numel(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
