"""Which model an evaluation is of, by its files: by content and not by place, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..files import sha256_file
from ..load.artifact import is_base, is_split
from ..load.artifact_audit import base_digest, ortho_digest
from ..load.artifact_format import BASE
from ..load.container import weight_files
from ..load.fetch import model_folder
from ..load.manifest import listed_digests


@dataclass(frozen=True, kw_only=True)
class SubjectFiles:
    """`folder` holds the configuration and the tokenizer; `name` says the model without saying where it lies.

    `digests` are SHA-256 by file, of all that decides the numbers; a Base or Ortho part's list stands for it.
    """

    folder: Path
    name: str
    digests: dict[str, str]


def subject_files(model: str) -> SubjectFiles:
    """The files of a model by name or folder, a split, or a Base. Raises as `model_folder`."""
    path = Path(model)
    if is_base(path):
        whole = path.resolve()
        name = f"{whole.parent.name}/{BASE}" if whole.name == BASE else whole.name
        return SubjectFiles(folder=path, name=name, digests={"base": base_digest(path)})
    if is_split(path):
        digests = {"base": base_digest(path / BASE)}
        if (ortho := ortho_digest(path)) is not None:
            digests["ortho"] = ortho
        return SubjectFiles(folder=path / BASE, name=path.resolve().name, digests=digests)
    folder = model_folder(model)
    if folder != path:  # a fetched model, whose files were held against their list just now
        return SubjectFiles(folder=folder, name=model, digests=listed_digests(folder))
    # The tokenizer and its chat template decide the numbers as well as the weights do.
    small = (found.name for kind in ("*.json", "*.jinja") for found in folder.glob(kind))
    names = sorted({*weight_files(folder), *small})
    digests = {name: sha256_file(folder / name) for name in names}
    return SubjectFiles(folder=folder, name=folder.resolve().name, digests=digests)
