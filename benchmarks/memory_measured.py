"""Measurements that are there already: what benchmarks/memory.py left of a run, or an earlier receipt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sixgig.errors import InputError
from sixgig.files import read_json

SCHEMA = "sixgig.receipt/1"


def read_measured(paths: Sequence[Path], commit: str | None) -> dict[str, Any]:
    """All files as one: `device`, `runs` by label (each with its `commit`), `capped`, `peers` by label,
    `peer_versions`.

    The first file that has a configuration counts. `commit` is for files that name none. Raises InputError
    where files come from different devices or libraries, and where a commit is missing.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        content = read_json(path)
        one = from_receipt(content) if content.get("schema") == SCHEMA else _from_run(content, path, commit)
        if merged and merged["device"] != one["device"]:
            raise InputError(
                "measurements of different devices or libraries are not one receipt",
                expected=str(merged["device"]),
                received=str(one["device"]),
                where=str(path),
            )
        merged["device"] = one["device"]
        for part in ("runs", "capped", "peers", "peer_versions"):
            merged[part] = {**one[part], **merged.get(part, {})}
    return merged


def read_peers(path: Path) -> dict[str, Any]:
    """What other estimators say, of memory_peers.py or a receipt: `peers` by label and `peer_versions`."""
    content = read_json(path)
    if content.get("schema") == SCHEMA:
        found = from_receipt(content)
        return {key: found[key] for key in ("peers", "peer_versions")}
    return {"peers": content["configurations"], "peer_versions": content["versions"]}


def from_receipt(content: Mapping[str, Any]) -> dict[str, Any]:
    """The measurements within a receipt of area "memory"."""
    configurations = content["raw"]["configurations"]
    return {
        "device": {**content["device"], "versions": content["versions"]},
        "runs": {
            **{one["label"]: {**one["measured"], "commit": one["commit"]} for one in configurations},
            **content["raw"]["failed"],
        },
        "capped": content["raw"]["capped"],
        "peers": {one["label"]: one["peers"] for one in configurations},
        "peer_versions": content["raw"]["peer_versions"],
    }


def _from_run(content: Mapping[str, Any], path: Path, commit: str | None) -> dict[str, Any]:
    runs = {label: {"commit": commit, **run} for label, run in content["runs"].items()}
    if nameless := [label for label, run in runs.items() if not run["commit"]]:
        raise InputError(
            f"{len(nameless)} measurements do not name their commit",
            where=f"{path}, {nameless[0]}",
            todo="give it with --commit",
        )
    return {
        "device": {"driver": None, **content["device"]},
        "runs": runs,
        "capped": content["capped"],
        "peers": {},
        "peer_versions": {},
    }
