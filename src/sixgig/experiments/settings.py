"""Settings of an experiment as a frozen value: from a preset, a file and `key=value` words, all checked."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from ..errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")


def parse_words(words: Sequence[str]) -> dict[str, Any]:
    """`["seeds=0,1", "bits=3"]` -> {"seeds": [0, 1], "bits": 3}. Values are YAML; a comma makes a list."""
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise InputError("not a setting", expected="key=value, as in -s bits=4", received=repr(word))
        if "," in text and not text.strip().startswith(("[", "{", '"', "'")):
            text = f"[{text}]"
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"the value of {key} cannot be read", received=repr(text)) from error
    return values


def changed(config: C, values: Mapping[str, Any], *, where: str) -> C:
    """`config` with `values` in place. Unknown keys and values of a wrong type are reported all at once."""
    hints = get_type_hints(type(config))
    names = {field.name for field in dataclasses.fields(config)}
    faults: list[str] = []
    accepted: dict[str, Any] = {}
    for key, value in ((str(key), value) for key, value in values.items()):  # YAML keys may be numbers
        if key not in names:
            if len(values) == 1:
                raise UnknownNameError("setting", key, names, where=where)
            near = UnknownNameError("setting", key, names).suggestions
            faults.append(f"unknown setting {key}" + (f"; nearest: {', '.join(near)}" if near else ""))
            continue
        try:
            accepted[key] = _converted(value, hints[key])
        except (TypeError, ValueError, OverflowError):
            faults.append(f"{key} must be {_words(hints[key])}, not {value!r}")
    if faults:
        raise InputError("settings that cannot be used: " + "; ".join(faults), where=where)
    return dataclasses.replace(config, **accepted)


def as_plain(config: DataclassInstance) -> dict[str, Any]:
    """The settings as what YAML and JSON can hold."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(config).items()
    }


def _converted(value: Any, hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        if value is None:
            return None
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(_converted(part, item) for part in values)
    if isinstance(value, bool) != (hint is bool):
        raise TypeError
    if hint in (int, float):
        # YAML reads 1e-4 as text; a number is what was meant. NaN and infinity are no settings.
        value = value if isinstance(value, int) else float(value)
        if not math.isfinite(value):
            raise ValueError
    if hint is int and value != int(value):
        raise ValueError
    if hint is str and not isinstance(value, str):
        raise TypeError
    return hint(value)


def _words(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}
    if get_origin(hint) is tuple:
        return f"a list of which each is {_words(get_args(hint)[0])}"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join("null" if part is type(None) else _words(part) for part in get_args(hint))
    return names.get(hint, str(hint))
