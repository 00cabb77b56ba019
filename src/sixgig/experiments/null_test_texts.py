"""What the null test reads: test text in windows, MMLU, and public text for calibration and for the fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.batches import TokenSequence, whole_text
from ..data.corpora import (
    Corpus,
    joined_as_quantisation_papers_do,
    load_public_text,
    token_windows,
)
from ..data.mmlu import Mmlu, load_mmlu, sample_questions
from ..errors import InputError
from ..evaluate.multiple_choice import Prompts, prompts_of
from ..evaluate.strided import ScoredWindows, scored_windows
from ..load.loaded import LoadedModel
from ..provenance import DataSource
from .null_test_config import NullTestConfig
from .origin import sources_of

NO_MMLU = "MMLU was not measured: the data folder has no mmlu/ in it"
NO_DATA = "MMLU was not measured: it needs a data folder (--data-dir or SIXGIG_DATA) with mmlu/ in it"


@dataclass(frozen=True, kw_only=True)
class NullTestTexts:
    """`mmlu` None: not measured, and `notes` says why."""

    test: ScoredWindows
    calibration: tuple[TokenSequence, ...]
    train: tuple[TokenSequence, ...]
    mmlu: Mmlu | None
    prompts: tuple[Prompts, ...]
    corpora: tuple[Corpus, ...]
    notes: tuple[str, ...]

    def sources(self) -> list[DataSource]:
        found = sources_of(self.corpora)
        if self.mmlu is not None:
            found.append(
                DataSource(
                    name="mmlu",
                    revision_or_sha256=self.mmlu.source,
                    num_rows=self.mmlu.num_questions,
                    synthetic=False,
                )
            )
        return found


def read_texts(loaded: LoadedModel, config: NullTestConfig, data_dir: Path | None) -> NullTestTexts:
    """All of it as tokens. A text too short for the windows asked for gives those it has, with a note.

    Raises:
        InputError: a text is too short to be of use at all, or a question file is none.
    """
    test = load_public_text("test", data_dir=data_dir)
    calibration = load_public_text("calibration", data_dir=data_dir)
    train = load_public_text("train", data_dir=data_dir)
    notes: list[str] = []
    mmlu, prompts = _questions(loaded, config, data_dir, notes)
    return NullTestTexts(
        test=_test_windows(loaded, test, config, notes),
        calibration=_windows(
            loaded, calibration, config.calibration_window, config.num_calibration_windows, notes
        ),
        train=_windows(loaded, train, config.fit_window, None, notes),
        mmlu=mmlu,
        prompts=prompts,
        corpora=(test, calibration, train),
        notes=tuple(notes),
    )


def _test_windows(
    loaded: LoadedModel, corpus: Corpus, config: NullTestConfig, notes: list[str]
) -> ScoredWindows:
    ids = loaded.encode_document(joined_as_quantisation_papers_do(corpus.text))
    found = scored_windows(ids, window=config.window_tokens, stride=config.stride)
    available = len(found.sequences)
    if available < 2:
        raise InputError(
            "test text too short for an interval",
            expected=f"2 windows of {config.window_tokens} tokens",
            received=f"{len(ids):,} tokens",
            todo=f"set window_tokens to {len(ids) // 2} or less, or take a longer text by --data-dir",
        )
    wanted = config.num_windows or available
    if available < wanted:
        notes.append(
            f"{corpus.name} holds {available} windows of {config.window_tokens} tokens, not {wanted}"
        )
    count = min(wanted, available)
    return ScoredWindows(sequences=found.sequences[:count], num_scored=found.num_scored[:count])


def _windows(
    loaded: LoadedModel, corpus: Corpus, length: int, count: int | None, notes: list[str]
) -> tuple[TokenSequence, ...]:
    ids = np.asarray(loaded.encode(corpus.text))
    available = len(ids) // length
    if count is not None and 0 < available < count:
        notes.append(f"{corpus.name} holds {available} windows of {length} tokens, not {count}")
        count = available
    found = token_windows(ids, length, count)
    return tuple(whole_text([int(token) for token in window]) for window in found)


def _questions(
    loaded: LoadedModel, config: NullTestConfig, data_dir: Path | None, notes: list[str]
) -> tuple[Mmlu | None, tuple[Prompts, ...]]:
    if config.num_mmlu == 0:
        notes.append("MMLU was left out by num_mmlu=0")
        return None, ()
    whole = None if data_dir is None else load_mmlu(data_dir)
    if whole is None:
        notes.append(NO_DATA if data_dir is None else NO_MMLU)
        return None, ()
    mmlu = sample_questions(whole, config.num_mmlu, config.num_mmlu_subjects, seed=config.seed)
    prompts = tuple(prompts_of(loaded, mmlu))
    num_cut = sum(len(one.cut) for one in prompts)
    if num_cut:
        notes.append(f"{num_cut} MMLU prompts were longer than the model's context and lost their beginning")
    if mmlu.num_questions < whole.num_questions:
        notes.append(
            f"MMLU on {mmlu.num_questions:,} of {whole.num_questions:,} questions from {len(mmlu.subjects)} "
            f"of {len(whole.subjects)} subjects: not the whole benchmark"
        )
    return mmlu, prompts
