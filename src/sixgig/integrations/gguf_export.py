"""A split's parts as GGUF: the Base as a model, U V as a LoRA adapter, both read again before they are kept.

Tensors go to the file one at a time, so that no more than one layer is ever in memory. What llama.cpp does
with rows of q and k in Llama is done here (`gguf_blocks.turned`); S has no place in a GGUF adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..catalogue import ModelSpec, from_config
from ..errors import InputError, IntegrityError
from ..files import atomic_path, read_json, require_free_space
from ..load.artifact_format import ORTHO_LIST, ORTHO_SCHEMA, ortho_layers_from_json
from ..load.artifact_read import checked_base_layers
from ..load.container import ModelTensors, read_schema
from ..load.ortho_reader import read_ortho
from ..load.packed_base import base_form, decode_base
from .gguf_blocks import choose_kind, encode, stored_shape, turned, turned_base
from .gguf_tokenizer import add_tokenizer

_FAMILIES = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2"}
_TYPES = {torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: np.uint8}


@dataclass(frozen=True, kw_only=True)
class GgufFile:
    """What was written. `kind` is that of the split layers' weights, or of the adapter's factors."""

    path: Path
    kind: str
    is_exact: bool
    num_tensors: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    """One tensor to come: its stored shape (of bytes, for blocks and bf16), types, and how to make it."""

    name: str
    shape: tuple[int, ...]
    dtype: Any
    raw: Any
    make: Callable[[], np.ndarray]


def export_base(base: Path, out: Path, *, weights: str = "auto") -> GgufFile:
    """Writes base/ as a GGUF model.

    `weights`: see `gguf_blocks`; "auto" is q8_0, which holds a Base of up to 4 bits exactly, or else f16.
    All other tensors keep their type. Raises IntegrityError for a damaged Base, InputError for a model or
    tokenizer that GGUF cannot hold and for a file that is there already.
    """
    layers = checked_base_layers(base)
    kind = choose_kind(weights, layers)
    spec, tensors = _known(base), ModelTensors(base)
    form, names = base_form(layers), _names(spec, base)
    coming = []
    for name, layer in layers.items():
        shape, dtype = stored_shape(layer, kind)
        heads = _turning_heads(spec, name)

        def make(name: str = name, heads: int | None = heads) -> np.ndarray:
            quantized = decode_base(name, layers[name], form, tensors.get)
            return encode(turned_base(quantized, heads) if heads else quantized, kind)[0]

        raw = _raw_type(kind)
        coming.append(_Tensor(name=names(f"{name}.weight"), shape=shape, dtype=dtype, raw=raw, make=make))
    coming += _other_tensors(spec, tensors, {f"{name}.weight_" for name in layers}, names)
    writer = _writer(spec)
    writer.add_type("model")
    _add_shapes(writer, spec, base)
    add_tokenizer(writer, base, spec.vocab_size)
    is_exact = kind in ("q8_0", "f32")
    return _write(writer, coming, out, kind=kind, is_exact=is_exact)


def export_adapter(base: Path, ortho: Path, out: Path) -> GgufFile:
    """Writes U V of ortho/ as a GGUF LoRA adapter; llama.cpp's scale 1 is alpha = 1 without S.

    Raises as `export_base`, and InputError where ortho/ has no low-rank part.
    """
    layers, spec = checked_base_layers(base), _known(base)
    stored = ortho_layers_from_json(read_schema(ortho, ORTHO_LIST, ORTHO_SCHEMA), ortho / ORTHO_LIST)
    rank = max((layer.rank for layer in stored.values()), default=0)
    if not rank:
        raise InputError("this Ortho part has no low-rank factors", where=str(ortho))
    names = _names(spec, base)
    coming = []
    for name, part in read_ortho(ortho, base, layers, fidelity="lora").items():
        if not part.up_Or.shape[1]:
            continue
        # One alpha serves all layers, so smaller ranks are filled up with zeros.
        missing = rank - part.up_Or.shape[1]
        up_Or = torch.nn.functional.pad(part.up_Or, (0, missing))
        down_rI = torch.nn.functional.pad(part.down_rI, (0, 0, 0, missing))
        heads = _turning_heads(spec, name)
        for side, factor in (("lora_a", down_rI), ("lora_b", turned(up_Or, heads) if heads else up_Or)):
            coming.append(_plain(f"{names(f'{name}.weight')}.{side}", factor))
    writer = _writer(spec)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    return _write(writer, coming, out, kind="f32", is_exact=True)


def _known(base: Path) -> ModelSpec:
    """The model's shapes. Raises InputError for an architecture whose form in GGUF is not known here."""
    spec = from_config(base, packed=True)
    if spec.architecture not in _FAMILIES:
        raise InputError(
            "GGUF export does not know this architecture",
            expected=", ".join(_FAMILIES),
            received=spec.architecture,
            where=str(base),
        )
    return spec


def _writer(spec: ModelSpec) -> Any:
    from gguf import GGUFWriter

    return GGUFWriter(None, _FAMILIES[spec.architecture])


def _add_shapes(writer: Any, spec: ModelSpec, base: Path) -> None:
    config = read_json(base / "config.json")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise InputError(
            "scaled rotary positions are not written to GGUF",
            expected="rope_type default",
            received=str(rope)[:100],
            where=str(base / "config.json"),
        )
    writer.add_vocab_size(spec.vocab_size)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(spec.num_layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    num_heads = config["num_attention_heads"]
    writer.add_head_count(num_heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or num_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    head_dim = config.get("head_dim") or config["hidden_size"] // num_heads
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_freq_base(float(rope.get("rope_theta", config.get("rope_theta", 10000.0))))


def _names(spec: ModelSpec, base: Path) -> Callable[[str], str]:
    """A tensor's name here -> its name in GGUF. Raises InputError for one that GGUF does not know."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    wanted = _FAMILIES.get(spec.architecture, "")
    kinds = [kind for kind, name in MODEL_ARCH_NAMES.items() if name == wanted]
    table = get_tensor_name_map(kinds[0], spec.num_layers) if kinds else None

    def name_of(name: str) -> str:
        found = table.get_name(name, try_suffixes=(".weight", ".bias")) if table else None
        if found is None:
            raise InputError("GGUF has no name for a tensor", received=name, where=str(base))
        return found

    return name_of


def _turning_heads(spec: ModelSpec, name: str) -> int | None:
    """Heads by which a layer's rows are turned; None for those that stay as they are."""
    if spec.architecture != "LlamaForCausalLM":
        return None
    leaf = name.rpartition(".")[2]
    heads = {"q_proj": spec.num_heads, "k_proj": spec.num_kv_heads}
    return heads.get(leaf)


def _other_tensors(
    spec: ModelSpec, tensors: ModelTensors, stored: set[str], names: Callable[[str], str]
) -> Iterator[_Tensor]:
    for name in sorted(tensors.names):
        if not any(name.startswith(start) for start in stored):
            shape, dtype = tensors.shape(name), tensors.dtype(name)
            if len(shape) == 1:  # llama.cpp wants norms and biases in fp32
                # The bias of a layer whose rows are turned turns with them.
                heads = _turning_heads(spec, name.removesuffix(".bias"))

                def make(name: str = name, heads: int | None = heads) -> Tensor:
                    values = tensors.get(name).float()
                    return turned(values, heads) if heads else values

                yield _plain_later(names(name), shape, torch.float32, make)
            else:
                yield _plain_later(names(name), shape, dtype, lambda n=name: tensors.get(n))


def _plain(name: str, tensor: Tensor) -> _Tensor:
    return _plain_later(name, tuple(tensor.shape), tensor.dtype, lambda: tensor)


def _plain_later(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, make: Callable[[], Tensor]
) -> _Tensor:
    if dtype not in _TYPES:
        raise InputError("a tensor of a type that GGUF export does not know", received=f"{name}: {dtype}")
    raw = _raw_type({torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}[dtype])

    def array() -> np.ndarray:
        tensor = make().contiguous()
        return tensor.view(torch.uint8).numpy() if dtype == torch.bfloat16 else tensor.numpy()

    stored = (*shape[:-1], 2 * shape[-1]) if dtype == torch.bfloat16 else shape
    return _Tensor(name=name, shape=stored, dtype=_TYPES[dtype], raw=raw, make=array)


def _raw_type(kind: str) -> Any:
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType[kind.upper()]


def _write(writer: Any, coming: list[_Tensor], out: Path, *, kind: str, is_exact: bool) -> GgufFile:
    out = out.absolute()
    if out.exists():
        raise InputError("the file is there already", where=str(out), todo="choose another name")
    total_bytes = 0
    for tensor in coming:
        num_bytes = int(np.prod(tensor.shape)) * np.dtype(tensor.dtype).itemsize
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(tensor.dtype), num_bytes, tensor.raw)
        total_bytes += num_bytes
    require_free_space(out.parent, total_bytes, "the GGUF file")
    with atomic_path(out) as temporary:
        writer.write_header_to_file(temporary)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        digests = {}
        for tensor in coming:
            array = np.ascontiguousarray(tensor.make())
            digests[tensor.name] = _digest(array)
            writer.write_tensor_data(array)
        writer.close()
        _verify(temporary, digests)
    return GgufFile(
        path=out, kind=kind, is_exact=is_exact, num_tensors=len(coming), num_bytes=out.stat().st_size
    )


def _verify(path: Path, digests: Mapping[str, str]) -> None:
    """Reads the file again: every tensor there, byte for byte. Raises IntegrityError."""
    from gguf import GGUFReader

    found = {t.name: _digest(t.data) for t in GGUFReader(path).tensors}
    wrong = sorted(name for name in digests.keys() | found.keys() if digests.get(name) != found.get(name))
    if wrong:
        raise IntegrityError(f"tensor {wrong[0]} did not come back from the file", where=str(path))


def _digest(array: np.ndarray) -> str:
    return sha256(np.ascontiguousarray(array).data).hexdigest()
