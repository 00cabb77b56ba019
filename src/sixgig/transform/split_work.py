"""What a split from disk keeps of each finished decoder layer, so that it can go on where it was ended.

    DIR.partial/key.json              what the split is made from; other inputs are refused by name
    DIR.partial/layer-0007.safetensors  codes, scales, zero points, U V and S of the layer's linear layers
    DIR.partial/layer-0007.json       their forms and facts, and the digest of the file beside; written last

The folder holds what was private, so it is its owner's alone, and it goes when the split is written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InputError, IntegrityError
from ..files import atomic_path, read_json, sha256_file, sweep_orphans, write_json
from ..layers.split_linear import OrthoPart
from ..load.container import TensorFile
from ..numerics.pack import pack_codes, unpack_codes
from ..numerics.quantize import Quantized
from ..numerics.sparse import SparsePart
from .split_layer import LayerSplit

_KEY, _KEY_SCHEMA, _LAYER_SCHEMA = "key.json", "sixgig.split-work/1", "sixgig.split-layer/1"


@dataclass(frozen=True, kw_only=True)
class _Form:
    """One linear layer's sizes and facts, as its file's list has them."""

    num_out: int
    num_in: int
    bits: int
    group_size: int
    num_kept: int | None
    codes_changed: float
    removed_norm_share: float


def partial_folder(out: Path) -> Path:
    """Where the work on a split in `out` lies."""
    return out.absolute().with_name(f"{out.name}.partial")


class SplitWork:
    """The finished layers of one split. Use as a context manager: one process at a time works on it."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """`device`: where codes are packed and unpacked."""
        self.folder, self._device = folder, device
        self.num_finished = 0
        self.notices: list[str] = []

    def __enter__(self) -> SplitWork:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.folder.is_symlink():
            raise InputError("the folder of a split's work is a link", where=str(self.folder))
        os.chmod(self.folder, 0o700)
        self._lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise InputError(
                "another sixgig process is working on this split",
                where=str(self.folder),
                todo="wait for it or stop it, then run the same command again",
            ) from error
        sweep_orphans(self.folder)
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def secrets(self) -> Mapping[str, str]:
        """What an earlier process put beside its key, such as the key of a keyed digest; empty at first."""
        return self._earlier().get("secrets", {})

    def begin(self, inputs: Mapping[str, Any], secrets: Mapping[str, str]) -> None:
        """Takes up what is finished with the same `inputs`, or begins.

        Raises:
            InputError naming the inputs that are not those of the work that is there.
        """
        earlier = self._earlier()
        if not earlier:
            write_json(self.folder / _KEY, {"schema": _KEY_SCHEMA, "inputs": inputs, "secrets": secrets})
            return
        before, now = _flat(earlier["inputs"]), _flat(inputs)
        differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if differing:
            raise InputError(
                "an unfinished split lies here, made from other inputs",
                expected="; ".join(f"{name} = {before.get(name, 'none')}" for name in differing),
                received="; ".join(f"{name} = {now.get(name, 'none')}" for name in differing),
                where=str(self.folder),
                todo="run the earlier command again, remove that folder, or choose another output folder",
            )
        while self._is_sound(self.num_finished):
            self.num_finished += 1

    def save(self, splits: Mapping[str, LayerSplit]) -> None:
        """Keeps the next decoder layer's linear layers, in their order."""
        forms, tensors = {}, {}
        for name, split in splits.items():
            forms[name] = _form(split)
            tensors |= self._encoded(name, split)
        file, listing = self._paths(self.num_finished)
        with atomic_path(file) as temporary:
            save_file(tensors, temporary)  # readable by its owner alone
        facts = {name: asdict(form) for name, form in forms.items()}
        write_json(listing, {"schema": _LAYER_SCHEMA, "sha256": sha256_file(file), "layers": facts})
        self.num_finished += 1

    def forms(self) -> Iterator[tuple[str, _Form]]:
        """Every finished linear layer's name and facts, in order."""
        for index in range(self.num_finished):
            for name, form in read_json(self._paths(index)[1])["layers"].items():
                yield name, _Form(**form)

    def parts(self) -> FinishedParts:
        """(name, Base, Ortho part) of every finished linear layer, as often as it is gone through."""
        return FinishedParts(self)

    def layer_parts(self, index: int) -> Iterator[tuple[str, Quantized, OrthoPart]]:
        """One decoder layer's, the Base on this work's device and the Ortho part on the CPU."""
        file, listing = self._paths(index)
        stored = TensorFile(file)
        for name, form in read_json(listing)["layers"].items():
            yield name, *self._decoded(name, _Form(**form), stored)

    def sweep(self) -> None:
        """Removes all of it."""
        self._lock.release()
        shutil.rmtree(self.folder)

    def _earlier(self) -> dict[str, Any]:
        path = self.folder / _KEY
        if not path.exists():
            if any(self.folder.glob("layer-*")):
                raise IntegrityError(
                    "the work of a split has lost its key", where=str(path), todo="remove the folder"
                )
            return {}
        content = read_json(path)
        if not isinstance(content, dict) or content.get("schema") != _KEY_SCHEMA:
            raise IntegrityError(
                "not the work of a split", where=str(path), todo="remove the folder, or choose another output"
            )
        return content

    def _is_sound(self, index: int) -> bool:
        file, listing = self._paths(index)
        if not listing.exists():
            return False
        try:
            content = read_json(listing)
            if content["schema"] == _LAYER_SCHEMA and content["sha256"] == sha256_file(file):
                return True
        except (IntegrityError, KeyError, TypeError, OSError):
            pass
        self.notices.append(
            f"the kept result of layer {index} is damaged; it and all after it are done again"
        )
        return False

    def _paths(self, index: int) -> tuple[Path, Path]:
        stem = f"layer-{index:04d}"
        return self.folder / f"{stem}.safetensors", self.folder / f"{stem}.json"

    def _encoded(self, name: str, split: LayerSplit) -> dict[str, Tensor]:
        base, ortho = split.base, split.ortho
        tensors = {
            f"{name}.packed": pack_codes(base.codes_OI.to(self._device), base.bits).cpu(),
            f"{name}.scales": base.scales_OG,
            f"{name}.zeros": base.zeros_OG,
            f"{name}.up": ortho.up_Or,
            f"{name}.down": ortho.down_rI,
        }
        if ortho.sparse is not None:
            tensors |= {
                f"{name}.positions": ortho.sparse.positions_k,
                f"{name}.values": ortho.sparse.values_k,
            }
        return {key: tensor.contiguous() for key, tensor in tensors.items()}

    def _decoded(self, name: str, form: _Form, stored: TensorFile) -> tuple[Quantized, OrthoPart]:
        def get(part: str) -> Tensor:
            return stored.get(f"{name}.{part}")

        base = Quantized(
            codes_OI=unpack_codes(get("packed").to(self._device), form.bits, form.num_in),
            scales_OG=get("scales").to(self._device),
            zeros_OG=get("zeros").to(self._device),
            bits=form.bits,
            group_size=form.group_size,
        )
        sparse = None
        if form.num_kept is not None:
            sparse = SparsePart(
                positions_k=get("positions"), values_k=get("values"), shape=(form.num_out, form.num_in)
            )
        return base, OrthoPart(up_Or=get("up"), down_rI=get("down"), sparse=sparse)


class FinishedParts:
    """(name, Base, Ortho part) of all finished layers, one layer held at a time."""

    def __init__(self, work: SplitWork) -> None:
        self._work = work

    def __iter__(self) -> Iterator[tuple[str, Quantized, OrthoPart]]:
        for index in range(self._work.num_finished):
            yield from self._work.layer_parts(index)


def _form(split: LayerSplit) -> _Form:
    sparse = split.ortho.sparse
    return _Form(
        num_out=split.base.codes_OI.shape[0],
        num_in=split.base.codes_OI.shape[1],
        bits=split.base.bits,
        group_size=split.base.group_size,
        num_kept=None if sparse is None else sparse.positions_k.numel(),
        codes_changed=split.codes_changed,
        removed_norm_share=split.removed_norm_share,
    )


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}, so that what differs can be named."""
    if not isinstance(value, dict):
        return {name: value}
    found = {}
    for key, part in value.items():
        found |= _flat(part, f"{name}.{key}" if name else str(key))
    return found
