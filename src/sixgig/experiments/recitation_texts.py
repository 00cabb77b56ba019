"""What the recitation experiment reads: passages as token ids, and public text in windows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..data.corpora import load_public_text
from ..data.recitation import Group, Passage, load_passages
from ..errors import InputError
from ..load.loaded import LoadedModel
from ..provenance import DataSource
from .kill_switch_texts import Texts, tokenised
from .origin import own_text_notes, sources_of
from .recitation_config import RecitationConfig

LEAST_PASSAGES = 2  # of each group: intervals are drawn over them


@dataclass(frozen=True, kw_only=True)
class RecitationTexts:
    """`token_pairs` are each passage's prefix and continuation, all of the lengths that the settings say."""

    passages: tuple[Passage, ...]
    token_pairs: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    public: Texts
    passage_sources: tuple[DataSource, ...]
    notes: tuple[str, ...]

    def sources(self) -> list[DataSource]:
        public = sources_of(self.public.corpora)
        return [*public, *self.passage_sources]


def read_texts(loaded: LoadedModel, config: RecitationConfig, data_dir: Path | None) -> RecitationTexts:
    """All of it as tokens. Raises InputError where too few passages are long enough."""
    notes: list[str] = []
    passages: list[Passage] = []
    pairs: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    sources: list[DataSource] = []
    limits: dict[Group, int | None] = {"known": config.num_known, "fresh": config.num_fresh}
    for group, limit in limits.items():
        found = load_passages(group)
        sources.append(
            DataSource(
                name=found.name,
                revision_or_sha256=f"sha256:{found.sha256}",
                num_rows=len(found.items),
                synthetic=False,
            )
        )
        usable = _long_enough(loaded, found.items, config, notes)
        for passage, ids in _spread(usable, limit):
            passages.append(passage)
            pairs.append((ids[: config.prefix_tokens], ids[config.prefix_tokens :]))
    corpora = (
        load_public_text("train", data_dir=data_dir),
        load_public_text("calibration", data_dir=data_dir),
        load_public_text("test", data_dir=data_dir),
    )
    public = tokenised(loaded, corpora, config)
    notes += own_text_notes(corpora)
    return RecitationTexts(
        passages=tuple(passages),
        token_pairs=tuple(pairs),
        public=public,
        passage_sources=tuple(sources),
        notes=(*public.notes, *notes),
    )


Usable = list[tuple[Passage, tuple[int, ...]]]


def _long_enough(
    loaded: LoadedModel, items: tuple[Passage, ...], config: RecitationConfig, notes: list[str]
) -> Usable:
    length = config.prefix_tokens + config.continuation_tokens
    found = [(item, tuple(loaded.encode(item.text)[:length])) for item in items]
    usable = [(item, ids) for item, ids in found if len(ids) == length]
    if len(usable) < LEAST_PASSAGES:
        raise InputError(
            "too few passages are long enough",
            expected=f"at least {LEAST_PASSAGES} of {length} tokens",
            received=f"{len(usable)} of {len(items)}",
            where=f"{items[0].group} passages",
            todo="lower prefix_tokens or continuation_tokens",
        )
    if len(usable) < len(items):
        short = len(items) - len(usable)
        notes.append(f"{short} {items[0].group} passages are shorter than {length} tokens and were left out")
    return usable


def _spread(usable: Usable, limit: int | None) -> Usable:
    """`limit` of them, evenly from first to last, so that no kind is left out."""
    if limit is None or limit >= len(usable):
        return usable
    return [usable[place * len(usable) // limit] for place in range(limit)]
