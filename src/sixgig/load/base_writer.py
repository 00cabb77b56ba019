"""Writes base/ layer by layer: a compressed-tensors model folder that opens alone.

Nothing private enters it: it is made from quantised layers, from the model's other tensors and files, and
from nothing else.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from .. import __version__
from ..errors import InputError
from ..files import read_json, write_json
from ..numerics.quantize import Quantized
from .artifact_format import BASE_LIST, BASE_SCHEMA, CONFIG
from .container import write_listing
from .loaded import linear_layers
from .packed_base import BaseLayer, base_form, base_layer, encode_base, quantization_config
from .shards import SHARD_BYTES, ShardWriter
from .skeleton import empty_network, whole_tensors
from .tensor_reader import TensorReader

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
_TOKENIZER_PLACES = ("name_or_path", "tokenizer_file", "special_tokens_map_file", "vocab_file", "merges_file")
_PLACES = ("_name_or_path", "_model_name_or_path", "_commit_hash")


class BaseWriter:
    """`add` every split layer once, in any order, then `finish`.

    Args:
        folder: base/ itself, not there yet.
        source: the folder of the model that is split; everything but its split layers is taken from there.
        layers: the form of every layer that will come; see `layer_forms`.
        shard_bytes: what may wait in memory before it is written.
    Raises:
        InputError: the layers are not the model's, or one comes twice, in another form or not at all.
        NumericalError: a scale is no number.
    """

    def __init__(
        self,
        folder: Path,
        source: Path,
        layers: Mapping[str, BaseLayer],
        *,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self._folder, self._source, self._layers = folder, source, dict(layers)
        self._tensors = TensorReader(source)
        self._others = require_layers(source, self._tensors, layers)
        self._form = base_form(self._layers)
        self._missing = set(self._layers)
        folder.mkdir(parents=True)
        self._shards = ShardWriter(folder, shard_bytes)
        self.layer_bytes = 0

    @property
    def num_split_weights(self) -> int:
        return sum(layer.num_out * layer.num_in for layer in self._layers.values())

    @property
    def num_other_weights(self) -> int:
        return sum(_numel(shape) for shape in self._others.values())

    def add(self, name: str, base: Quantized) -> None:
        """Takes one layer; its tensors wait in memory until they make up a shard."""
        if name not in self._missing or base_layer(base) != self._layers[name]:
            raise InputError(
                "a layer that this Base does not expect",
                expected=f"{name}: {self._layers[name]}" if name in self._missing else "each layer once",
                received=f"{name}: {base_layer(base)}",
            )
        tensors = encode_base(name, base, self._form)
        self.layer_bytes += sum(tensor.nbytes for tensor in tensors.values())
        self._shards.add(tensors)
        self._missing.remove(name)

    def finish(self) -> None:
        """Adds the model's other tensors, the config and the tokenizer, and last the list of files."""
        if self._missing:
            raise InputError(
                "layers of the Base are missing",
                expected=f"all {len(self._layers)} layers",
                received=f"no {sorted(self._missing)[0]} ({len(self._missing)} are missing)",
            )
        for name in self._others:
            self._shards.add({name: self._tensors.get(name)})
        self._shards.finish()
        for name in present(self._source):
            _copy_without_places(self._source / name, self._folder / name)
        config = plain_config(self._source) | {"quantization_config": quantization_config(self._layers)}
        write_json(self._folder / CONFIG, config)
        # safetensors makes files that only their owner can read; a Base is made to be read by others.
        for path in self._folder.glob("*.safetensors"):
            path.chmod((self._folder / CONFIG).stat().st_mode)
        layers = {name: asdict(layer) for name, layer in self._layers.items()}
        write_listing(self._folder, BASE_LIST, BASE_SCHEMA, {"sixgig_version": __version__, "layers": layers})


def layer_forms(source: Path, *, bits: int, group_size: int) -> dict[str, BaseLayer]:
    """The form of every linear layer of the model in `source`, all with the same width and groups."""
    return {
        name: BaseLayer(num_out=num_out, num_in=num_in, bits=bits, group_size=group_size)
        for name, (num_out, num_in) in _shapes(_network(source, TensorReader(source))).items()
    }


def require_layers(
    source: Path, tensors: TensorReader, layers: Mapping[str, BaseLayer]
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of what goes into base/ unchanged. Raises InputError for layers of another model."""
    network = _network(source, tensors)
    found = {name: (layer.num_out, layer.num_in) for name, layer in layers.items()}
    same_layers("Base", _shapes(network), found)
    return whole_tensors(network)


def same_layers(what: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raises InputError naming the first layer that only one of both has, or has in another shape."""
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        raise InputError(
            f"the {what} is not of this model's layers",
            expected=f"{wrong[0]}: {wanted.get(wrong[0], 'no such layer')}",
            received=f"{found.get(wrong[0], 'nothing')} ({len(wrong)} layers differ)",
        )


def present(folder: Path) -> list[str]:
    """The files of a model folder that go into base/ as they are."""
    return [name for name in TOKENIZER_FILES if (folder / name).is_file()]


def _copy_without_places(source: Path, target: Path) -> None:
    """A copy, byte for byte but for a tokenizer's configuration that names places of this machine."""
    if source.name == "tokenizer_config.json":
        content = read_json(source, max_bytes=16 * 2**20)
        if isinstance(content, dict) and any(key in content for key in _TOKENIZER_PLACES):
            write_json(target, {key: content[key] for key in content if key not in _TOKENIZER_PLACES})
            return
    shutil.copyfile(source, target)


def plain_config(folder: Path) -> dict[str, Any]:
    """`folder`/config.json without the places of this machine."""
    config = read_json(folder / CONFIG, max_bytes=2**20)
    return {key: value for key, value in config.items() if key not in _PLACES}


def _network(source: Path, tensors: TensorReader) -> nn.Module:
    return empty_network(source, weight_bytes=sum(path.stat().st_size for path in tensors.paths))


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(layer.weight.shape) for name, layer in linear_layers(network).items()}


def _numel(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
