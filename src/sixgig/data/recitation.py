"""Passages that many people know by heart, and fresh ones in the same styles that no model has read.

Two files, `text/recitation_known.txt` and `text/recitation_fresh.txt`, of blocks `# id | kind | source` with
the passage below. The known ones are old enough to belong to everyone, standard licence headers, or nobody's
(the alphabet); the fresh ones were written for this project, and are of no use once they have been published
and read: a model trained on them later knows them too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ..errors import IntegrityError, UnknownNameError
from ..files import read_text

Group = Literal["known", "fresh"]
_FOLDER = Path(__file__).parent / "text"


@dataclass(frozen=True, kw_only=True)
class Passage:
    """`group` says whether the world knows it; `source` where it is from."""

    id: str
    group: Group
    kind: str
    source: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Passages:
    """One file's passages; `sha256` is the file's."""

    name: str
    sha256: str
    items: tuple[Passage, ...]


def load_passages(group: Group) -> Passages:
    """The package's passages of `group`.

    Raises:
        UnknownNameError: no such group.
        IntegrityError: the file is not in its form, or names a passage twice.
    """
    if group not in get_args(Group):
        raise UnknownNameError("group of passages", group, get_args(Group))
    path = _FOLDER / f"recitation_{group}.txt"
    content = read_text(path)
    items = tuple(_blocks(content, group, path))
    ids = [item.id for item in items]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice or not items:
        raise _fault(path, f"named twice: {', '.join(twice)}" if twice else "no passage")
    return Passages(name=path.name, sha256=hashlib.sha256(content.encode()).hexdigest(), items=items)


def _blocks(content: str, group: Group, path: Path) -> Iterator[Passage]:
    for block in f"\n{content}".split("\n# ")[1:]:
        head, _, text = block.partition("\n")
        parts = [part.strip() for part in head.split("|")]
        if len(parts) != 3 or not all(parts) or not text.strip():
            raise _fault(path, repr(head[:80]))
        yield Passage(id=parts[0], group=group, kind=parts[1], source=parts[2], text=text.strip())


def _fault(path: Path, received: str) -> IntegrityError:
    return IntegrityError(
        "a file of passages is not in its form",
        expected="blocks of `# id | kind | source` and the passage's lines, each id once",
        received=received,
        where=str(path),
        todo="reinstall sixgig",
    )
