"""MMLU's questions from a data folder (Hendrycks et al. 2021, arXiv 2009.03300; MIT), and a fair sample.

`mmlu/dev/SUBJECT_dev.csv` holds the examples that are shown first, `mmlu/test/SUBJECT_test.csv` the
questions; header `question,choice0,choice1,choice2,choice3,answer`, the answer as 0 to 3.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import read_text

FOLDER = "mmlu"
HEADER = ("question", "choice0", "choice1", "choice2", "choice3", "answer")
NUM_CHOICES = 4
_MAX_FILE_BYTES = 16 * 2**20


@dataclass(frozen=True, kw_only=True)
class Question:
    """`answer` is the right choice's place, from 0. `id` names the row: "anatomy-0007"."""

    id: str
    text: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One subject: examples in the file's order, questions, and how many questions the whole subject has."""

    name: str
    examples: tuple[Question, ...]
    questions: tuple[Question, ...]
    num_all: int


@dataclass(frozen=True, kw_only=True)
class Mmlu:
    """All subjects of a folder; `source` is the digest of all its files."""

    subjects: tuple[Subject, ...]
    source: str

    @property
    def num_questions(self) -> int:
        return sum(len(subject.questions) for subject in self.subjects)


def load_mmlu(data_dir: Path) -> Mmlu | None:
    """Every subject, by name; None where the folder has no `mmlu/` in it.

    Raises:
        InputError: a file is missing or a row is no question; the message names file and row.
    """
    folder = data_dir / FOLDER
    if not folder.is_dir():
        return None
    names = sorted(path.name.removesuffix("_test.csv") for path in (folder / "test").glob("*_test.csv"))
    if not names:
        raise InputError("no questions in the MMLU folder", expected="test/*_test.csv", where=str(folder))
    digest = hashlib.sha256()
    subjects = [_subject(folder, name, digest) for name in names]
    return Mmlu(subjects=tuple(subjects), source=f"sha256:{digest.hexdigest()}")


def sample_questions(mmlu: Mmlu, num_questions: int | None, num_subjects: int | None, *, seed: int) -> Mmlu:
    """`num_questions` spread evenly over `num_subjects` subjects, both drawn by `seed`; None: all there are.

    Questions are dealt out one a subject in turn, so that counts differ by one at most while all subjects
    have questions left; within a subject they keep the file's order.

    Raises:
        InputError: more is asked for than there is.
    """
    generator = np.random.default_rng(np.random.SeedSequence([seed, 0x3310]))
    subjects = _chosen_subjects(mmlu.subjects, num_subjects, generator)
    if num_questions is None:
        return replace(mmlu, subjects=subjects)
    available = sum(len(subject.questions) for subject in subjects)
    if not 1 <= num_questions <= available:
        raise InputError(
            "not that many questions", expected=f"1 to {available:,}", received=f"{num_questions:,}"
        )
    orders = [generator.permutation(len(subject.questions)) for subject in subjects]
    turns = sorted((turn, place) for place, order in enumerate(orders) for turn in range(len(order)))
    counts = np.bincount([place for _, place in turns[:num_questions]], minlength=len(subjects))
    return replace(
        mmlu,
        subjects=tuple(
            replace(subject, questions=tuple(subject.questions[i] for i in sorted(order[:count])))
            for subject, order, count in zip(subjects, orders, counts, strict=True)
            if count
        ),
    )


def _chosen_subjects(
    subjects: Sequence[Subject], count: int | None, generator: np.random.Generator
) -> tuple[Subject, ...]:
    if count is None:
        return tuple(subjects)
    if not 1 <= count <= len(subjects):
        raise InputError("not that many subjects", expected=f"1 to {len(subjects)}", received=str(count))
    return tuple(subjects[place] for place in sorted(generator.permutation(len(subjects))[:count]))


def _subject(folder: Path, name: str, digest: hashlib._Hash) -> Subject:
    examples = _questions(folder / "dev" / f"{name}_dev.csv", name, digest)
    questions = _questions(folder / "test" / f"{name}_test.csv", name, digest)
    return Subject(name=name, examples=examples, questions=questions, num_all=len(questions))


def _questions(path: Path, subject: str, digest: hashlib._Hash) -> tuple[Question, ...]:
    content = read_text(path, max_bytes=_MAX_FILE_BYTES)
    digest.update(f"{path.parent.name}/{path.name}\0{content}\0".encode())
    try:
        rows = list(csv.reader(io.StringIO(content, newline=""), strict=True))
    except csv.Error as error:
        raise InputError("not a file of MMLU", received=str(error), where=str(path)) from error
    if not rows or tuple(rows[0]) != HEADER:
        raise InputError("not a file of MMLU", expected=f"a first line {','.join(HEADER)}", where=str(path))
    return tuple(_question(row, number, subject, path) for number, row in enumerate(rows[1:]))


def _question(row: list[str], number: int, subject: str, path: Path) -> Question:
    answers = [str(choice) for choice in range(NUM_CHOICES)]
    if len(row) != len(HEADER) or row[-1] not in answers:
        raise InputError(
            "not a question of MMLU",
            expected=f"{len(HEADER)} fields, the last one of {', '.join(answers)}",
            received=f"{len(row)} fields, the last one {row[-1]!r}"[:120] if row else "no field",
            where=f"{path}, row {number + 1}",
        )
    return Question(id=f"{subject}-{number:04d}", text=row[0], choices=tuple(row[1:-1]), answer=int(row[-1]))
