"""Opens a split: the Base alone, or with its Ortho part attached to live switches.

Digests are checked first, then shapes, then numbers, and only then is a layer put in place; the network is
built without weights and filled tensor by tensor, so that at no time more than one layer is held twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import IntegrityError
from ..files import read_json
from ..layers.split_linear import AlphaSwitch, SplitLinear, split_layers
from .artifact_format import (
    BASE,
    BASE_LIST,
    BASE_SCHEMA,
    CONFIG,
    MANIFEST,
    MANIFEST_SCHEMA,
    ORTHO,
    ORTHO_LIST,
    ORTHO_SCHEMA,
    SPLIT_INDEX,
    base_layers_from_json,
)
from .container import (
    ModelTensors,
    TensorSpecs,
    entries_of,
    own_folder,
    read_schema,
    verify_file,
    verify_listed,
)
from .loaded import LoadedModel, linear_layers
from .ortho_reader import read_ortho
from .packed_base import BaseForm, BaseLayer, base_form, decode_base, quantization_config
from .skeleton import empty_network, put_parameter, whole_tensors


def open_split(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    with_ortho: bool = True,
    fidelity: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> LoadedModel:
    """The model of a split, its switch at alpha = 0; `layers.split_linear.set_alpha` turns it.

    `dtype` is that of embedding, norms and activations. `fidelity` is "lora" for U V alone, "compact" for
    U V + S, or None for the best there is. With `with_ortho=False` nothing of ortho/ is read, and it may be
    absent.
    Raises:
        IntegrityError: a file or tensor is missing, altered, of another form, or of another Base.
        NumericalError: NaN or Inf in a tensor. InputError: a config that is not accepted.
    """
    check_manifest(folder, with_ortho)
    loaded = open_base(own_folder(folder, BASE), device=device, dtype=dtype)
    if with_ortho:
        attach_ortho(loaded, own_folder(folder, ORTHO), fidelity=fidelity)
    return loaded


def open_base(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> LoadedModel:
    """The Base alone, from its own folder and nothing else. Raises as `open_split`."""
    layers = checked_base_layers(folder)
    form, tensors = base_form(layers), ModelTensors(folder)
    network = empty_network(folder, weight_bytes=sum(path.stat().st_size for path in tensors.paths))
    check_layers(network, layers, folder)
    others = whole_tensors(network)
    tensors.require(_base_specs(layers, form, others, tensors))
    device = torch.device(device)
    switch, biases = AlphaSwitch(), {f"{name}.bias" for name in layers}
    for name, layer in layers.items():
        bias = tensors.get(f"{name}.bias").to(dtype) if f"{name}.bias" in others else None
        split = SplitLinear(decode_base(name, layer, form, tensors.get), bias, switch)
        put_module(network, name, split.to(device))
    for name in others.keys() - biases:
        put_parameter(network, name, tensors.get(name).to(device, dtype))
    network.tie_weights()
    network.to(device).requires_grad_(False)
    return LoadedModel(network=network, tokenizer=_tokenizer(network, folder), folder=folder, device=device)


def checked_base_layers(folder: Path) -> dict[str, BaseLayer]:
    """The layers of a base/ whose files are all there, unaltered, and whose config says the same of them."""
    listing = read_schema(folder, BASE_LIST, BASE_SCHEMA)
    verify_listed(folder, BASE_LIST, entries_of(listing, folder / BASE_LIST))
    layers = base_layers_from_json(listing, folder / BASE_LIST)
    _check_configs(folder, layers)
    return layers


def attach_ortho(loaded: LoadedModel, folder: Path, *, fidelity: str | None = None) -> None:
    """Attaches the Ortho part in `folder` to an opened Base; raises IntegrityError where it is another's."""
    modules = dict(split_layers(loaded.network))
    shapes = {name: _shape_of(module) for name, module in modules.items()}
    for name, ortho in read_ortho(folder, loaded.folder, shapes, fidelity=fidelity).items():
        modules[name].attach(ortho)
        modules[name].to(loaded.device)


def is_base(folder: Path) -> bool:
    """Whether `folder` is a base/ on its own."""
    return (folder / BASE_LIST).is_file()


def is_split(folder: Path) -> bool:
    """Whether `folder` is laid out as a split; a fetched model's folder has a manifest too, but no base/."""
    return (folder / MANIFEST).is_file() and (folder / BASE).is_dir()


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of a split. Raises IntegrityError where it is missing, damaged or foreign."""
    if not (folder / MANIFEST).is_file():
        raise IntegrityError(
            "not a split",
            expected=f"a folder with {MANIFEST}, {BASE}/ and perhaps {ORTHO}/",
            where=str(folder),
            todo="make one: sixgig split",
        )
    return read_schema(folder, MANIFEST, MANIFEST_SCHEMA)


def check_manifest(folder: Path, with_ortho: bool) -> None:
    """The config and the lists of both parts by digest; manifest and lists must name the same files."""
    entries = entries_of(read_manifest(folder), folder / MANIFEST)
    for name in (CONFIG, SPLIT_INDEX):
        if name not in entries:
            raise IntegrityError(f"the manifest does not name {name}", where=str(folder / MANIFEST))
        verify_file(folder, name, entries[name])
    parts = ((BASE, BASE_LIST, BASE_SCHEMA), (ORTHO, ORTHO_LIST, ORTHO_SCHEMA))
    for part, list_name, schema in parts[: 1 + with_ortho]:
        if part == ORTHO and f"{ORTHO}/{ORTHO_LIST}" not in entries:
            raise IntegrityError(
                "this split was made without an Ortho part", where=str(folder), todo="open the Base alone"
            )
        own = own_folder(folder, part)
        start = f"{part}/"
        named = {name.removeprefix(start): entry for name, entry in entries.items() if name.startswith(start)}
        if list_name not in named:
            raise IntegrityError(
                f"the manifest does not name {part}/{list_name}", where=str(folder / MANIFEST)
            )
        verify_file(own, list_name, named.pop(list_name))
        listing = read_schema(own, list_name, schema)
        if listing["files"] != named:
            raise IntegrityError(f"manifest and {list_name} name different files", where=str(folder))


def _check_configs(folder: Path, layers: Mapping[str, BaseLayer]) -> None:
    for name in (CONFIG, "tokenizer_config.json"):
        config = read_json(folder / name, max_bytes=2**24) if (folder / name).exists() else {}
        if not isinstance(config, dict) or config.get("auto_map"):
            raise IntegrityError(
                f"{name} asks for code of its own (auto_map), and a model folder's code is never run",
                where=str(folder / name),
            )
        if name == CONFIG and config.get("quantization_config") != quantization_config(layers):
            # Other tools go by this one, so both must describe the same numbers.
            raise IntegrityError(
                "not the config of a Base",
                expected=f"a quantization_config that says what {BASE_LIST} says",
                received=f"{config.get('quantization_config')!r}"[:100],
                where=str(folder / name),
            )


def check_layers(network: Any, layers: dict[str, BaseLayer], folder: Path) -> None:
    wanted = {name: tuple(layer.weight.shape) for name, layer in linear_layers(network).items()}
    found = {name: (layer.num_out, layer.num_in) for name, layer in layers.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        raise IntegrityError(
            f"{BASE_LIST} and config.json describe different layers",
            expected=f"{wrong[0]}: {wanted.get(wrong[0], 'no such layer')}",
            received=f"{found.get(wrong[0], 'nothing')}",
            where=str(folder),
        )


def _base_specs(
    layers: dict[str, BaseLayer], form: BaseForm, others: dict[str, tuple[int, ...]], file: ModelTensors
) -> TensorSpecs:
    specs: dict[str, Any] = {}
    for name, layer in layers.items():
        specs |= form.specs(name, layer)
    # Tensors that were not split keep the type they had in the model.
    for name, shape in others.items():
        specs[name] = (shape, file.dtype(name) if name in file.names else torch.float32)
    return specs


def _shape_of(module: SplitLinear) -> BaseLayer:
    return BaseLayer(
        num_out=module.out_features,
        num_in=module.in_features,
        bits=module.bits,
        group_size=module.group_size,
    )


def put_module(network: Any, name: str, module: nn.Module) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(owner), leaf, module)


def _tokenizer(network: Any, folder: Path) -> Any:
    from transformers import AutoTokenizer, GenerationConfig

    if (folder / "generation_config.json").is_file():
        network.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
