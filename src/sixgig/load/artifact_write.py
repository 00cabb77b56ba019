"""Writes a split as one folder: base/, ortho/, config.json and manifest.json, there whole or not at all.

Everything is written to a temporary folder beside the target, which takes its place by rename at the end.
base/ is finished before the first byte of the Ortho part is written, and nothing private ever enters it.
`save_split` does all of it for a split that is held in memory. What is made layer by layer does the same
itself:

    with atomic_path(folder) as temporary:
        base = BaseWriter(temporary / BASE, source, layer_forms(source, bits=4, group_size=64))
        ortho = OrthoWriter(temporary / ORTHO, factor_bits=16)
        ...                                   # base.add(name, quantized); ortho.add(name, part)
        base.finish()
        found = ortho.finish(temporary / BASE, private_facts)
        sizes = finish_split(temporary, base, manifest, found)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import InputError
from ..files import atomic_path, require_free_space, sweep_orphans, write_json
from ..layers.split_linear import OrthoPart
from ..numerics.quantize import Quantized
from .artifact_format import BASE, CONFIG, MANIFEST, MANIFEST_SCHEMA, ORTHO, QUANT_METHOD, SPLIT_INDEX
from .base_writer import BaseWriter, plain_config, present, require_layers, same_layers
from .container import ModelTensors, file_entries
from .ortho_writer import OrthoWriter, require_factor_bits
from .packed_base import BaseForm, BaseLayer, base_form, base_layer
from .tensor_reader import TensorReader

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
        factor_bits: 16 for a PEFT adapter, or 8 with an fp32 scale for each rank component. S is kept in
            fp16 always.
        private_facts: kept in ortho/ortho.json, so never beside a published Base.
    Raises:
        InputError: the folder has content, or the layers are not the model's.
        NumericalError: NaN or Inf, named by tensor; OutOfSpaceError: the disk. Nothing is left behind.
    """
    folder = folder.absolute()
    require_empty(folder)
    require_factor_bits(factor_bits)
    layers = {name: base_layer(base) for name, base in bases.items()}
    needed_bytes = _needed_bytes(loaded_folder, layers, orthos, factor_bits)
    sweep_orphans(folder.parent)
    require_free_space(folder.parent, needed_bytes, "the split")
    with atomic_path(folder) as temporary:
        base = BaseWriter(temporary / BASE, loaded_folder, layers)
        for name, quantized in bases.items():
            base.add(name, quantized)
        base.finish()
        found = (
            _write_ortho(temporary, orthos, factor_bits, private_facts or {}) if orthos is not None else ()
        )
        return finish_split(temporary, base, manifest, found)


def finish_split(
    split: Path, base: BaseWriter, manifest: Mapping[str, Any], fidelities: Sequence[str]
) -> SplitSizes:
    """Writes what lies beside the parts of a split when both are finished; call last."""
    config = plain_config(split / BASE) | {"quantization_config": {"quant_method": QUANT_METHOD}}
    write_json(split / CONFIG, config)
    tensors = ModelTensors(split / BASE)
    placed = {name: f"{BASE}/{tensors.file_name(name)}" for name in sorted(tensors.names)}
    total_bytes = sum(tensors.num_bytes(name) for name in tensors.names)
    write_json(split / SPLIT_INDEX, {"metadata": {"total_size": total_bytes}, "weight_map": placed})
    sizes = _sizes(split, base)
    write_json(split / MANIFEST, _manifest(split, manifest, sizes, fidelities))
    return sizes


def require_empty(folder: Path) -> None:
    """Raises InputError where something is already; nothing of an earlier split is ever overwritten."""
    if folder.is_file():
        raise InputError(
            "the output is a file",
            expected="a new or an empty folder",
            where=str(folder),
            todo="choose another place",
        )
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise InputError(
            "the output folder is not empty",
            expected="a new or an empty folder",
            where=str(folder),
            todo="choose another folder, or remove this one",
        )


def _write_ortho(
    split: Path, orthos: Mapping[str, OrthoPart], factor_bits: int, private_facts: Mapping[str, Any]
) -> tuple[str, ...]:
    writer = OrthoWriter(split / ORTHO, factor_bits=factor_bits)
    for name, ortho in orthos.items():
        writer.add(name, ortho)
    return writer.finish(split / BASE, private_facts)


def _needed_bytes(
    source: Path,
    layers: Mapping[str, BaseLayer],
    orthos: Mapping[str, OrthoPart] | None,
    factor_bits: int,
) -> int:
    """What the split will take on the disk. Raises InputError where the layers are not the model's."""
    tensors = TensorReader(source)
    others = require_layers(source, tensors, layers)
    if orthos is not None:
        wanted = {name: (layer.num_out, layer.num_in) for name, layer in layers.items()}
        shapes = {name: (len(part.up_Or), part.down_rI.shape[1]) for name, part in orthos.items()}
        same_layers("Ortho part", wanted, shapes)
    form = base_form(layers)
    layer_bytes = sum(_layer_bytes(form, name, layer) for name, layer in layers.items())
    ortho_bits = sum(part.storage_bits(factor_bits) for part in (orthos or {}).values())
    other_bytes = sum(tensors.num_bytes(name) for name in others)
    tokenizer_bytes = sum((source / name).stat().st_size for name in present(source))
    return layer_bytes + ortho_bits // 8 + other_bytes + tokenizer_bytes + _SLACK_BYTES


def _layer_bytes(form: BaseForm, name: str, layer: BaseLayer) -> int:
    total = 0
    for shape, dtype in form.specs(name, layer).values():
        num_entries = 1
        for side in shape:
            num_entries *= side
        total += num_entries * dtype.itemsize
    return total


def _sizes(split: Path, base: BaseWriter) -> SplitSizes:
    num_split, num_all = base.num_split_weights, base.num_split_weights + base.num_other_weights
    base_bytes, ortho_bytes = _folder_bytes(split / BASE), _folder_bytes(split / ORTHO)
    return SplitSizes(
        num_split_weights=num_split,
        num_parameters=num_all,
        base_bytes=base_bytes,
        base_layer_bytes=base.layer_bytes,
        ortho_bytes=ortho_bytes,
        base_bits_per_split_weight=8 * base.layer_bytes / num_split,
        ortho_bits_per_split_weight=8 * ortho_bytes / num_split,
        bits_per_parameter=8 * (base_bytes + ortho_bytes) / num_all,
    )


def _manifest(
    split: Path, facts: Mapping[str, Any], sizes: SplitSizes, fidelities: Sequence[str]
) -> dict[str, Any]:
    added = {
        "schema": MANIFEST_SCHEMA,
        "sixgig_version": __version__,
        "sizes": asdict(sizes),
        "fidelities": list(fidelities),
    }
    assert not facts.keys() & {*added, "files"}
    files = file_entries(split, [CONFIG, SPLIT_INDEX])
    for part in (BASE, ORTHO):
        if (split / part).is_dir():
            entries = file_entries(split / part, [path.name for path in (split / part).iterdir()])
            files |= {f"{part}/{name}": entry for name, entry in entries.items()}
    return {**added, **facts, "files": files}


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir()) if folder.is_dir() else 0
