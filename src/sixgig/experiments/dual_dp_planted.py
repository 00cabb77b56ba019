"""Restored weights from another run: a kill switch that kept its work/ saves dual-dp the planting.

They are the same weights that dual-dp would come to, so all settings that decide weights must be the same;
files are known by the digests that the other run's stages tell.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, IntegrityError
from ..files import atomic_path, sha256_file
from ..report.identity import kept_config, read_config
from ..report.plain_json import require_plain
from ..report.store import RunDirectory
from .dual_dp_config import WEIGHT_SETTINGS, DualDpConfig
from .kill_switch_files import WorkFiles
from .settings import as_plain

_KEEP = "run `sixgig run kill-switch -s keep_weights=true` with the same preset, and name its folder"


def require_planted(config: DualDpConfig, public_text: str | None = None) -> None:
    """Raises InputError where `config.planted` is not a run whose weights can stand in; reads no weights.

    `public_text`: which text this run reads ("benchmark" or "package"), where that is known already.
    """
    if config.planted is None:
        return
    folder = Path(config.planted)
    if not (folder / "config.yaml").is_file():
        raise InputError("planted is no run directory", received=str(folder), todo=_KEEP)
    theirs = read_config(folder / "config.yaml")
    faults = _differences(config, theirs)
    if public_text is not None and theirs.get("public_text") != public_text:
        faults.append(f"public_text is {theirs.get('public_text')} there, {public_text} here")
    if faults:
        raise InputError(
            "the planted weights belong to other settings",
            received="; ".join(faults),
            where=str(folder),
            todo="give this run the settings of that one, each by -s key=value",
        )
    for seed in config.seeds:
        for sieve in config.sieves:
            if not _weights(folder, seed, sieve).is_file():
                raise InputError(
                    f"the planted run has no weights of seed {seed} restored for {sieve}",
                    expected=str(_weights(folder, seed, sieve)),
                    received="no such file; a finished run deletes its weights unless keep_weights is set",
                    todo=_KEEP,
                )


def planted_settings(folder: Path) -> dict[str, Any]:
    """The settings that a dual-dp run needs to take the weights of the kill-switch run in `folder`."""
    theirs = read_config(folder / "config.yaml")
    return {key: theirs[key] for key in (*WEIGHT_SETTINGS, "seeds") if key in theirs} | {
        "planted": str(folder)
    }


def adopt(folder: Path, seed: int, sieve: str, files: WorkFiles) -> dict[str, Any]:
    """Takes over one sieve's restored layers into this run's `files`; returns the stage's facts of them."""
    name, stage = f"{sieve}-restored", f"seed{seed}-restore-{sieve}"
    with RunDirectory.open(folder) as theirs:
        kept: Mapping[str, Any] = theirs.load_stage(stage) or {}
        source = _weights(folder, seed, sieve)
        expected = kept.get("files", {}).get(name)
        received = sha256_file(source) if source.is_file() else None
        if expected is None or received != expected:
            raise IntegrityError(
                "the planted weights are not what their run wrote",
                expected=f"sha256 {expected}" if expected else f"a stage {stage} with their digest",
                received=f"sha256 {received}" if received else "no file",
                where=str(source),
                todo=_KEEP,
            )
        _link_or_copy(source, files.to_write(name))
    return {"facts": kept.get("facts", {})}


def _differences(config: DualDpConfig, theirs: Mapping[str, Any]) -> list[str]:
    if theirs.get("experiment") != "kill-switch":
        return [f"it is a run of {theirs.get('experiment')}, not of kill-switch"]
    ours = kept_config(as_plain(config))
    found = [
        f"{key} is {theirs.get(key)!r} there, {ours[key]!r} here"
        for key in WEIGHT_SETTINGS
        if require_plain(theirs.get(key), what=key) != ours[key]
    ]
    found += [
        f"sieve_settings hold {word} there, and dual-dp splits {sieve} with none"
        for word in theirs.get("sieve_settings") or ()
        if (sieve := str(word).partition(".")[0].strip()) in config.sieves
    ]
    lacking = [str(seed) for seed in config.seeds if seed not in theirs.get("seeds", ())]
    if lacking:
        found.append(f"seeds there lack {', '.join(lacking)}")
    unrestored = [sieve for sieve in config.sieves if sieve not in theirs.get("restored", ())]
    if unrestored:
        found.append(f"restored there lacks {', '.join(unrestored)}")
    return found


def _weights(folder: Path, seed: int, sieve: str) -> Path:
    return folder / "work" / f"seed{seed}" / f"{sieve}-restored.safetensors"


def _link_or_copy(source: Path, target: Path) -> None:
    """A second name for the same bytes, which nobody changes in place; a copy where the disk is another."""
    with atomic_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
