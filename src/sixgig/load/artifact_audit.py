"""What an audit found, in a split's manifest: the one thing that is written into a split after it was made.

The manifest lists the parts by digest and is listed by none, so that a line more leaves base/ and ortho/ as
they are. What stands there goes with the published Base: counts and intervals, no row numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import IntegrityError
from ..files import sha256_file, write_json
from .artifact_format import BASE, BASE_LIST, MANIFEST, ORTHO, ORTHO_LIST, ORTHO_SCHEMA
from .artifact_read import read_manifest
from .container import read_schema


def record_audit(split: Path, summary: Mapping[str, Any], *, base_sha256: str) -> None:
    """Writes `summary` as the manifest's "audit", in place of an earlier one; whole or not at all.

    Raises IntegrityError where the Base is no longer the one that was audited.
    """
    if base_digest(split / BASE) != base_sha256:
        raise IntegrityError(
            "this split is another one than when the audit began",
            expected=f"the Base {base_sha256}",
            where=str(split),
            todo="audit it again",
        )
    manifest = read_manifest(split)
    files = manifest.pop("files")  # stays last, as it was written
    manifest |= {"audited": True, "audit": dict(summary)}
    write_json(split / MANIFEST, {**manifest, "files": files})


def base_digest(base: Path) -> str:
    """SHA-256 of a Base's list of files, which stands for all of it. Raises IntegrityError without one."""
    if not (base / BASE_LIST).is_file():
        raise IntegrityError("not a Base", expected=f"a folder with {BASE_LIST}", where=str(base))
    return sha256_file(base / BASE_LIST)


def ortho_digest(split: Path) -> str | None:
    """SHA-256 of the list of the Ortho part's files; None where it is not here."""
    listing = split / ORTHO / ORTHO_LIST
    return sha256_file(listing) if listing.is_file() else None


def private_facts(split: Path) -> dict[str, Any]:
    """What ortho/ keeps of the private file: the key of its digests, the rows' digests. Empty without it."""
    if ortho_digest(split) is None:
        return {}
    facts = read_schema(split / ORTHO, ORTHO_LIST, ORTHO_SCHEMA).get("private")
    return facts if isinstance(facts, dict) else {}


def weights_digests(manifest: Mapping[str, Any]) -> dict[str, str] | None:
    """Of the model from before, by file name, as the split's manifest tells; None where it was not given."""
    data = manifest.get("data")
    before = data.get("before") if isinstance(data, dict) else None
    return before if isinstance(before, dict) else None
