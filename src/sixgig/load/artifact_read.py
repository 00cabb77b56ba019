"""Opens a split: the Base alone, or with its Ortho part attached to live switches.

Digests are checked first, then shapes, then numbers, and only then is a layer put in place; the network is
built without weights and filled tensor by tensor, so that at no time more than one layer is held twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import IntegrityError
from ..files import read_json, sha256_file
from ..layers.split_linear import AlphaSwitch, SplitLinear, split_layers
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
    BaseLayer,
    base_layers_from_json,
    decode_base,
    decode_ortho,
    ortho_layers_from_json,
)
from .container import (
    TensorFile,
    TensorSpecs,
    entries_of,
    own_folder,
    read_schema,
    verify_file,
    verify_listed,
)
from .loaded import LoadedModel, linear_layers
from .skeleton import empty_network, put_parameter, whole_tensors


def open_split(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    with_ortho: bool = True,
    dtype: torch.dtype = torch.float32,
) -> LoadedModel:
    """The model of a split, its switch at alpha = 0; `layers.split_linear.set_alpha` turns it.

    `dtype` is that of embedding, norms and activations. With `with_ortho=False` nothing of ortho/ is read,
    and it may be absent.
    Raises:
        IntegrityError: a file or tensor is missing, altered, of another form, or of another Base.
        NumericalError: NaN or Inf in a tensor. InputError: a config that is not accepted.
    """
    _check_manifest(folder, with_ortho)
    loaded = open_base(own_folder(folder, BASE), device=device, dtype=dtype)
    if with_ortho:
        attach_ortho(loaded, own_folder(folder, ORTHO))
    return loaded


def open_base(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> LoadedModel:
    """The Base alone, from its own folder and nothing else. Raises as `open_split`."""
    listing = read_schema(folder, BASE_LIST, BASE_SCHEMA)
    verify_listed(folder, BASE_LIST, entries_of(listing, folder / BASE_LIST))
    layers = base_layers_from_json(listing, folder / BASE_LIST)
    _check_configs(folder)
    file = TensorFile(_required(folder, BASE_TENSORS, listing))
    network = empty_network(folder, weight_bytes=(folder / BASE_TENSORS).stat().st_size)
    _check_layers(network, layers, folder)
    others = whole_tensors(network)
    file.require(_base_specs(layers, others, file))
    device = torch.device(device)
    switch, biases = AlphaSwitch(), {f"{name}.bias" for name in layers}
    for name, layer in layers.items():
        bias = file.get(f"{name}.bias").to(dtype) if f"{name}.bias" in others else None
        split = SplitLinear(decode_base(name, layer, file.get), bias, switch)
        _put_module(network, name, split.to(device))
    for name in others.keys() - biases:
        put_parameter(network, name, file.get(name).to(device, dtype))
    network.tie_weights()
    network.to(device).requires_grad_(False)
    return LoadedModel(network=network, tokenizer=_tokenizer(network, folder), folder=folder, device=device)


def attach_ortho(loaded: LoadedModel, folder: Path) -> None:
    """Attaches the Ortho part in `folder` to an opened Base; raises IntegrityError where it is another's."""
    listing = read_schema(folder, ORTHO_LIST, ORTHO_SCHEMA)
    base_sha256 = sha256_file(loaded.folder / BASE_LIST)
    if listing.get("base_sha256") != base_sha256:
        raise IntegrityError(
            "this Ortho part belongs to another Base",
            expected=f"the Base {listing.get('base_sha256')!r}"[:100],
            received=f"the Base {base_sha256}",
            where=str(folder),
            todo="open it with the Base that it was split from",
        )
    verify_listed(folder, ORTHO_LIST, entries_of(listing, folder / ORTHO_LIST))
    where, factor_bits = folder / ORTHO_LIST, listing.get("factor_bits")
    if factor_bits not in FACTOR_BITS:
        raise IntegrityError("unknown factor width", received=f"{factor_bits!r}"[:100], where=str(where))
    layers = ortho_layers_from_json(listing, where)
    modules = dict(split_layers(loaded.network))
    if layers.keys() != modules.keys():
        raise IntegrityError("the Ortho part has other layers than the Base", where=str(where))
    shapes = {name: _shape_of(module) for name, module in modules.items()}
    file = TensorFile(_required(folder, ORTHO_TENSORS, listing))
    specs: dict[str, Any] = {}
    for name, layer in layers.items():
        specs |= layer.specs(name, shapes[name], factor_bits)
    file.require(specs)
    for name, layer in layers.items():
        ortho = decode_ortho(name, layer, shapes[name], factor_bits, file.get)
        modules[name].attach(ortho)
        modules[name].to(loaded.device)


def is_base(folder: Path) -> bool:
    """Whether `folder` is a base/ on its own."""
    return (folder / BASE_LIST).is_file()


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


def _check_manifest(folder: Path, with_ortho: bool) -> None:
    """The lists of both parts by digest, and that the manifest names the same files as they do."""
    entries = entries_of(read_manifest(folder), folder / MANIFEST)
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


def _check_configs(folder: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        config = read_json(folder / name, max_bytes=2**24) if (folder / name).exists() else {}
        if not isinstance(config, dict) or config.get("auto_map"):
            raise IntegrityError(
                f"{name} asks for code of its own (auto_map), and a model folder's code is never run",
                where=str(folder / name),
            )
        quantised = config.get("quantization_config")
        if name == "config.json" and (
            not isinstance(quantised, dict) or quantised.get("quant_method") != QUANT_METHOD
        ):
            raise IntegrityError(
                "not the config of a Base", expected=f"quant_method {QUANT_METHOD}", where=str(folder / name)
            )


def _check_layers(network: Any, layers: dict[str, BaseLayer], folder: Path) -> None:
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
    layers: dict[str, BaseLayer], others: dict[str, tuple[int, ...]], file: TensorFile
) -> TensorSpecs:
    specs: dict[str, Any] = {}
    for name, layer in layers.items():
        specs |= layer.specs(name)
    # Tensors that were not split keep the type they had in the model.
    for name, shape in others.items():
        specs[name] = (shape, file.dtype(name) if name in file.names else torch.float32)
    return specs


def _required(folder: Path, name: str, listing: dict[str, Any]) -> Path:
    if name not in listing["files"]:
        raise IntegrityError(f"missing file: {name}", where=str(folder), todo="get the whole folder again")
    return folder / name


def _shape_of(module: SplitLinear) -> BaseLayer:
    return BaseLayer(
        num_out=module.out_features,
        num_in=module.in_features,
        bits=module.bits,
        group_size=module.group_size,
    )


def _put_module(network: Any, name: str, module: SplitLinear) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(owner), leaf, module)


def _tokenizer(network: Any, folder: Path) -> Any:
    from transformers import AutoTokenizer, GenerationConfig

    if (folder / "generation_config.json").is_file():
        network.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
