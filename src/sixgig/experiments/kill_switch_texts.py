"""The public text of the kill-switch experiment, as token windows that never overlap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..data.batches import TokenSequence, whole_text
from ..data.corpora import Corpus, token_windows
from ..errors import InputError
from ..load.loaded import LoadedModel
from .kill_switch_config import KillSwitchConfig

if TYPE_CHECKING:
    from .recitation_config import RecitationConfig

# How few windows there may be; intervals of perplexity are drawn over the test text's.
_LEAST = {"train_window": 1, "calibration_window": 1, "test_window": 2}


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Public token windows, never overlapping: for training, for calibration, for scores."""

    corpora: tuple[Corpus, ...]
    train: tuple[TokenSequence, ...]
    calibration: tuple[TokenSequence, ...]
    test: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...] = ()


def tokenised(
    loaded: LoadedModel, corpora: tuple[Corpus, Corpus, Corpus], config: KillSwitchConfig | RecitationConfig
) -> Texts:
    """The three corpora (train, calibration, test) cut into windows of the configured sizes.

    A text too short for the windows asked for gives those it has, with a note for the report.

    Raises:
        InputError: a text has too few windows to be of use at all.
    """
    notes: list[str] = []

    def windows(corpus: Corpus, setting: str, count: int | None) -> list[tuple[int, ...]]:
        ids = np.asarray(loaded.encode(corpus.text))
        length, least = getattr(config, setting), _LEAST[setting]
        available = len(ids) // length
        if available < least:
            raise InputError(
                "public text too short for its windows",
                expected=f"at least {least} of {length} tokens",
                received=f"{len(ids)} tokens, which is {available}",
                where=corpus.name,
                todo=f"set {setting} to {len(ids) // least} or less, or take a longer text by --data-dir",
            )
        if count is not None and available < count:
            notes.append(f"{corpus.name} holds {available} windows of {length} tokens, not {count}")
        found = token_windows(ids, length, None if count is None else min(count, available))
        return [tuple(int(i) for i in window) for window in found]

    train, calibration, test = corpora
    return Texts(
        corpora=corpora,
        train=tuple(map(whole_text, windows(train, "train_window", config.num_train_windows))),
        calibration=tuple(
            map(whole_text, windows(calibration, "calibration_window", config.num_calibration_windows))
        ),
        test=tuple(windows(test, "test_window", config.num_test_windows)),
        notes=tuple(notes),
    )
