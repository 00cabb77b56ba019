"""A configuration's identity: what may be written of it, its digest, and where two of them differ.

Secrets never reach a file. A value under a secret's name is replaced by an id, which tells two secrets apart
and reveals neither; an id stays an id when it is replaced again, so that a kept configuration equals itself.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError, IntegrityError
from ..files import read_text, write_text
from .plain_json import canonical, require_plain, sha256_of

_ID = re.compile(r"sha256:[0-9a-f]{8}")


def _is_secret(name: str, value: Any) -> bool:
    # A number under "token" is a count or a position (max_tokens, token_idx), never a credential; a number
    # under "key" may well be a watermark's key.
    name = name.lower()
    if value is None or isinstance(value, bool):
        return False
    if "key" in name or "password" in name:
        return True
    return "token" in name.replace("tokenizer", "") and isinstance(value, str)


def _secret_id(value: Any) -> str:
    text = value if isinstance(value, str) else canonical(value)
    return text if _ID.fullmatch(text) else f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def without_secrets(value: Any, name: str = "") -> Any:
    """A copy of `value` with each leaf under a name holding "key", "token" or "password" made an id.

    >>> without_secrets({"hub_token": "hf_abc", "max_tokens": 64})
    {'hub_token': 'sha256:...', 'max_tokens': 64}
    """
    if isinstance(value, dict):
        return {key: without_secrets(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_secrets(item, name) for item in value]
    return _secret_id(value) if _is_secret(name, value) else value


def kept_config(config: dict[str, Any]) -> dict[str, Any]:
    """`config` as it is written: plain values, no secrets. `NumericalError` for what JSON cannot hold."""
    return without_secrets(require_plain(config, what="the configuration"))


def config_hash(config: dict[str, Any]) -> str:
    """Hex SHA-256 of the configuration as kept; a run directory's name ends in its first 8 digits."""
    return sha256_of(kept_config(config))


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested tables as one level with dotted names; lists stay whole."""
    if not isinstance(config, dict) or not config:
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat


def config_differences(left: dict[str, Any], right: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted name -> (left value, right value) for the names that differ; "(absent)" where one is not set."""
    flat_left, flat_right = flatten(left), flatten(right)
    names = [name for name in dict.fromkeys((*flat_left, *flat_right)) if name]
    pairs = {name: (flat_left.get(name, "(absent)"), flat_right.get(name, "(absent)")) for name in names}
    # canonical text, not ==, since 1 == True and 1 == 1.0 in Python while the files differ
    return {name: pair for name, pair in pairs.items() if canonical(pair[0]) != canonical(pair[1])}


class _PlainDumper(yaml.SafeDumper):
    """YAML without anchors and aliases, which `read_config` refuses."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # Unquoted, PyYAML writes these line breaks as they are and reads them back as blanks.
        style = '"' if any(character in data for character in "\x85\u2028\u2029\ufeff") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_PlainDumper.add_representer(str, _PlainDumper.represent_str)


def write_config(file: Path, config: dict[str, Any]) -> None:
    """Writes a kept configuration in its own order, as YAML that `read_config` reads back to an equal one."""
    write_text(file, yaml.dump(config, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True))


def read_config(file: Path) -> dict[str, Any]:
    """A run's config.yaml; `InputError` where there is none, `IntegrityError` where it is no plain table."""
    if not file.is_file():
        raise InputError("not a run directory", expected=f"a folder with {file.name}", where=str(file.parent))
    text = read_text(file, max_bytes=2**20)
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise IntegrityError("a configuration has no aliases", where=str(file), received="a YAML alias")
        config = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise IntegrityError("not valid YAML", where=str(file), received=str(error)) from error
    if not isinstance(config, dict):
        raise IntegrityError("not a configuration", where=str(file), received=type(config).__name__)
    return require_plain(config, what=str(file))


def refuse_changes(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """`InputError` naming every setting of the run at `path` that is not what it was."""
    changes = config_differences(before, now)
    if changes:
        raise InputError(
            f"the configuration has changed since this run began: {', '.join(changes)}",
            expected="; ".join(f"{name}={pair[0]!r}" for name, pair in changes.items()),
            received="; ".join(f"{name}={pair[1]!r}" for name, pair in changes.items()),
            where=str(path),
            todo="resume with the settings of its config.yaml, or start a new run without --resume",
        )
