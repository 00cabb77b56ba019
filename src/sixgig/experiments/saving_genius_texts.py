"""The public text of saving-genius, as token windows that never overlap."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.batches import TokenSequence, whole_text
from ..data.corpora import Corpus, load_public_text, token_windows
from ..errors import InputError
from ..load.loaded import LoadedModel
from ..provenance import DataSource
from .origin import sources_of
from .saving_genius_config import SavingGeniusConfig


@dataclass(frozen=True, kw_only=True)
class PublicTexts:
    """For planting and fits, for the public score, and for perplexity."""

    train: tuple[TokenSequence, ...]
    calibration: tuple[TokenSequence, ...]
    test: tuple[TokenSequence, ...]
    corpora: tuple[Corpus, ...]
    notes: tuple[str, ...]

    @property
    def num_scored(self) -> int:
        """Tokens of a test window whose likelihood counts: all but the first."""
        return len(self.test[0].ids) - 1

    def sources(self) -> list[DataSource]:
        return sources_of(self.corpora)


def read_public_texts(loaded: LoadedModel, config: SavingGeniusConfig, data_dir: Path | None) -> PublicTexts:
    """Text too short for the windows asked for gives those it has, with a note.

    Raises InputError where there are too few windows to be of use at all.
    """
    train = load_public_text("train", data_dir=data_dir)
    calibration = load_public_text("calibration", data_dir=data_dir)
    test = load_public_text("test", data_dir=data_dir)
    notes: list[str] = []

    def windows(corpus: Corpus, setting: str, count: int | None, least: int = 1) -> tuple[TokenSequence, ...]:
        ids, length = np.asarray(loaded.encode(corpus.text)), getattr(config, setting)
        available = len(ids) // length
        if available < least:
            raise InputError(
                "public text too short for its windows",
                expected=f"at least {least} of {length} tokens",
                received=f"{len(ids)} tokens",
                where=corpus.name,
                todo=f"set {setting} to {len(ids) // least} or less, or take a longer text by --data-dir",
            )
        if count is not None and available < count:
            notes.append(f"{corpus.name} holds {available} windows of {length} tokens, not {count}")
        found = token_windows(ids, length, None if count is None else min(count, available))
        return tuple(whole_text([int(token) for token in window]) for window in found)

    return PublicTexts(
        train=windows(train, "train_window", None),
        calibration=windows(calibration, "calibration_window", config.num_calibration_windows),
        test=windows(test, "test_window", config.num_test_windows, least=2),
        corpora=(test, calibration, train),
        notes=tuple(notes),
    )
