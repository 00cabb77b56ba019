"""Writes a split whose layers come one by one: the files of `artifact_write`, with few layers held at a time.

`layers` is gone through twice, first for base/, then for ortho/: base/ is finished before the first byte of
the Ortho part is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..files import atomic_path, require_free_space, sweep_orphans
from ..layers.split_linear import OrthoPart
from ..numerics.quantize import Quantized
from .artifact_format import BASE, ORTHO
from .artifact_write import SplitSizes, finish_split, require_empty
from .base_writer import BaseWriter, layer_forms
from .ortho_writer import OrthoWriter, require_factor_bits
from .tensor_reader import TensorReader

Layers = Iterable[tuple[str, Quantized, OrthoPart]]


def write_split(
    folder: Path,
    *,
    loaded_folder: Path,
    layers: Layers,
    bits: int,
    group_size: int,
    manifest: Mapping[str, Any],
    factor_bits: int,
    private_facts: Mapping[str, Any],
) -> SplitSizes:
    """Writes the split of the model in `loaded_folder` to `folder`, which must be empty or not there.

    Args:
        layers: (layer name, Base, Ortho part) of every linear layer of the decoder; can be gone through more
            than once. Tensors may lie on any device.
        bits, group_size: of every Base.
        manifest, factor_bits, private_facts: as in `artifact_write.save_split`.
    Raises:
        As `save_split`; nothing is left behind.
    """
    folder = folder.absolute()
    require_empty(folder)
    require_factor_bits(factor_bits)
    forms = layer_forms(loaded_folder, bits=bits, group_size=group_size)
    source = TensorReader(loaded_folder)
    sweep_orphans(folder.parent)
    # All weights at 8 bits, and what stays as it is: more than any split takes.
    split_bytes = sum(form.num_out * form.num_in for form in forms.values())
    split_names = {f"{name}.weight" for name in forms}
    other_bytes = sum(source.num_bytes(name) for name in source.names - split_names)
    require_free_space(folder.parent, split_bytes + other_bytes, "the split")
    with atomic_path(folder) as temporary:
        base = BaseWriter(temporary / BASE, loaded_folder, forms)
        for name, quantized, _ in layers:
            base.add(name, quantized.to("cpu"))
        base.finish()
        ortho = OrthoWriter(temporary / ORTHO, factor_bits=factor_bits)
        for name, _, part in layers:
            ortho.add(name, part)
        found = ortho.finish(temporary / BASE, private_facts)
        return finish_split(temporary, base, manifest, found)
