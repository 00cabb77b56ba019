"""JSON configuration files of the earlier routing-watermark project, read and checked.

Every key of those files is known, with its type and range; all faults of a file are reported together. A key
that is left out has the earlier project's default where its documents name one, else None.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import InputError, UnknownNameError
from ..files import read_json
from .old_rules import DEVICE, DTYPE, LIMITS, SECRET, TRUTH, WORD, MemoryLimit, Rule, number, whole


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """Which router scores seed the mark: layers [start_layer_idx, end_layer_idx), the k largest of each."""

    start_layer_idx: int | None = None
    end_layer_idx: int | None = None
    use_top_k: bool | None = None
    k: int | None = None
    token_idx: int | None = None


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """How a routing becomes a green list: signature bits, and the size of each bit's token pool."""

    num_bits: int | None = None
    pool_size: int | None = None
    secret_key: str | int | None = field(default=None, repr=False)
    semantic_pools: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How text is drawn."""

    max_new_tokens: int = 128
    do_sample: bool | None = None
    temperature: float = 0.7
    top_p: float = 0.9
    pad_token_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class OldConfig:
    """One file. `max_memory` is in bytes, a limit for each place it names."""

    model_name: str | None = None
    model_revision: str | None = None
    device: str | None = None
    torch_dtype: str | None = None
    load_in_4bit: bool = False
    load_in_8bit: bool = False
    use_flash_attention: bool = False
    cpu_offload: bool = False
    max_memory: tuple[MemoryLimit, ...] | None = None
    extractor_config: Extractor = field(default_factory=Extractor)
    encoder_config: Encoder = field(default_factory=Encoder)
    watermark_strength_delta: float = 2.0
    detection_z_threshold: float = 4.0
    generation_config: Generation = field(default_factory=Generation)


_SECTIONS = {"extractor_config": Extractor, "encoder_config": Encoder, "generation_config": Generation}
# No two sections share a key's name.
_RULES: dict[str, Rule] = {
    "model_name": WORD,
    "model_revision": WORD,
    "device": DEVICE,
    "torch_dtype": DTYPE,
    "load_in_4bit": TRUTH,
    "load_in_8bit": TRUTH,
    "use_flash_attention": TRUTH,
    "cpu_offload": TRUTH,
    "max_memory": LIMITS,
    "watermark_strength_delta": number(at_least=0),
    "detection_z_threshold": number(above=0),
    "start_layer_idx": whole(at_least=0),
    "end_layer_idx": whole(at_least=1),
    "use_top_k": TRUTH,
    "k": whole(at_least=0),
    "token_idx": whole(),
    "num_bits": whole(at_least=1, at_most=65_536),
    "pool_size": whole(at_least=1),
    "secret_key": SECRET,
    "semantic_pools": TRUTH,
    "max_new_tokens": whole(at_least=1),
    "do_sample": TRUTH,
    "temperature": number(above=0),
    "top_p": number(above=0, at_most=1),
    "pad_token_id": whole(at_least=0),
}


def read_old_config(path: Path) -> OldConfig:
    """The file's settings.

    Raises `UnknownNameError` where one unknown key is all that is wrong, else `InputError` with every fault.
    """
    content = read_json(path, max_bytes=2**20)
    if not isinstance(content, dict):
        raise InputError("not a configuration", where=str(path), expected="a JSON object of settings")
    faults: list[Exception | str] = []
    config = OldConfig(**_section_values(OldConfig, content, "", faults, str(path)))
    faults += _contradictions(config)
    if len(faults) == 1 and isinstance(faults[0], UnknownNameError):
        raise faults[0]
    if faults:
        said = "; ".join(map(_in_words, faults))
        raise InputError(f"the configuration cannot be used: {said}", where=str(path))
    return config


def _section_values(
    section: type, content: dict[str, Any], prefix: str, faults: list[Exception | str], where: str
) -> dict[str, Any]:
    """What can be read of `content`, for `section`'s fields; what cannot is added to `faults`."""
    defaults = {field.name: field.default for field in fields(section)}
    values: dict[str, Any] = {}
    for name, value in content.items():
        if name not in defaults:
            known = [prefix + item for item in defaults]
            faults.append(UnknownNameError("key", prefix + name, known, where=where))
        elif name in _SECTIONS and isinstance(value, dict):
            inner = _SECTIONS[name]
            values[name] = inner(**_section_values(inner, value, f"{name}.", faults, where))
        elif name in _SECTIONS:
            faults.append(f"{name} must be an object of settings, not {json.dumps(value)}")
        elif value is not None or defaults[name] is not None:
            try:
                values[name] = _RULES[name].read(value)
            except (TypeError, ValueError):  # InputError is a ValueError
                faults.append(_misfit(prefix, name, value))
    return values


def _misfit(prefix: str, name: str, value: Any) -> str:
    # A key that is secret stays so where it is malformed.
    received = "" if name == "secret_key" else f", not {json.dumps(value)}"
    return f"{prefix}{name} must be {_RULES[name].words}{received}"


def _in_words(fault: Exception | str) -> str:
    if isinstance(fault, UnknownNameError):
        near = f"; nearest: {', '.join(fault.suggestions)}" if fault.suggestions else ""
        return f"{fault.problem}{near}"
    return str(fault)


def _contradictions(config: OldConfig) -> list[str]:
    faults = []
    if config.load_in_4bit and config.load_in_8bit:
        faults.append("load_in_4bit and load_in_8bit are both true; a model is loaded in one of them")
    extractor = config.extractor_config
    start, end = extractor.start_layer_idx, extractor.end_layer_idx
    if start is not None and end is not None and end <= start:
        faults.append(f"extractor_config.end_layer_idx is {end}, not above start_layer_idx {start}")
    if extractor.use_top_k and extractor.k == 0:
        faults.append("extractor_config.k is 0 although use_top_k is true: no expert would be kept")
    return faults
