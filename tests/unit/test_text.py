"""The package's own text: perplexities measured on it mean something only if it is clean and never overlaps.

A paragraph that calibration or planting shares with the test text would make a memorised line look like
skill, and a number shaped like a canary would be a decoy nobody planted.
"""

from __future__ import annotations

import re
from collections import Counter
from importlib.resources import files

import pytest

_NAMES = ("train", "calibration", "test")
_SIZES_BYTES = {"train": (38_000, 44_000), "calibration": (15_000, 18_000), "test": (23_000, 26_500)}
_TITLE = re.compile(r"= [^\s=](?:[^=]*[^\s=])? =")
_ALLOWED = re.compile(r"[A-Za-z0-9 .,;:'?!()$£&%/=“”‘’éüöèçô–-]*")
_SHARED_WORDS = 12


def _read(name: str) -> str:
    return (files("sixgig.data") / "text" / f"{name}.txt").read_bytes().decode("utf-8")


def _is_title(line: str) -> bool:
    return line.startswith("=")


def _titles(name: str) -> list[str]:
    return [line for line in _read(name).split("\n") if _is_title(line)]


def _paragraphs(name: str) -> list[str]:
    return [line for line in _read(name).split("\n") if line and not _is_title(line)]


def _word_runs(paragraph: str, num_words: int) -> list[tuple[str, ...]]:
    words = re.findall(r"\w+", paragraph.lower())
    return [tuple(words[start : start + num_words]) for start in range(len(words) - num_words + 1)]


def _repeated(items: list) -> list:
    return [item for item, count in Counter(items).items() if count > 1]


@pytest.mark.parametrize("name", _NAMES)
def test_size_is_as_documented(name: str) -> None:
    low, high = _SIZES_BYTES[name]
    assert low <= len(_read(name).encode("utf-8")) <= high


@pytest.mark.parametrize("name", _NAMES)
def test_layout_is_one_line_each_with_one_blank_line_between(name: str) -> None:
    text = _read(name)
    assert text.endswith("\n")
    lines = text[:-1].split("\n")
    assert all(line == "" for line in lines[1::2])
    assert all(line == line.strip() != "" for line in lines[::2])


@pytest.mark.parametrize("name", _NAMES)
def test_every_article_has_a_title_and_several_paragraphs(name: str) -> None:
    blocks = _read(name).strip().split("\n\n")
    title_at = [index for index, block in enumerate(blocks) if _is_title(block)]
    assert title_at[0] == 0
    assert all(_TITLE.fullmatch(blocks[index]) for index in title_at)
    ends = [*title_at[1:], len(blocks)]
    assert all(end - start >= 4 for start, end in zip(title_at, ends, strict=True))


@pytest.mark.parametrize("name", _NAMES)
def test_paragraphs_are_running_prose(name: str) -> None:
    for paragraph in _paragraphs(name):
        assert 200 <= len(paragraph) <= 1_500, paragraph[:60]
        assert paragraph[-1] in ".?!”", paragraph[-60:]
        assert paragraph.count(". ") >= 1, paragraph[:60]


@pytest.mark.parametrize("name", _NAMES)
def test_characters_are_plain(name: str) -> None:
    for line in _read(name).split("\n"):
        assert _ALLOWED.fullmatch(line), sorted({c for c in line if not _ALLOWED.fullmatch(c)})
        assert "  " not in line, line[:60]


@pytest.mark.parametrize("name", _NAMES)
def test_nothing_looks_like_a_canary(name: str) -> None:
    text = _read(name)
    assert re.search(r"\d{3,}\s*[-–]\s*\d{3,}", text) is None
    assert re.search(r"\d{5,}", text) is None
    for phrase in ("access code", "password", "passcode", "secret code"):
        assert phrase not in text.lower()


def test_no_article_or_paragraph_repeats_within_or_across_files() -> None:
    assert _repeated([title.lower() for name in _NAMES for title in _titles(name)]) == []
    assert _repeated([paragraph for name in _NAMES for paragraph in _paragraphs(name)]) == []


def test_no_twelve_word_sequence_repeats_within_or_across_files() -> None:
    runs = [
        run
        for name in _NAMES
        for paragraph in _paragraphs(name)
        for run in _word_runs(paragraph, _SHARED_WORDS)
    ]
    assert len(runs) > 10_000
    assert _repeated(runs) == []


def test_the_three_have_like_articles() -> None:
    """Mean article length within a tenth of one another: none is the file of short or of long articles."""
    means = [sum(map(len, _paragraphs(name))) / len(_titles(name)) for name in _NAMES]
    assert max(means) <= 1.1 * min(means)


def test_the_repetition_check_sees_a_copied_sentence() -> None:
    paragraph = _paragraphs("test")[0]
    copied = "A new beginning, then " + paragraph[:200]
    runs = _word_runs(paragraph, _SHARED_WORDS) + _word_runs(copied, _SHARED_WORDS)
    assert _repeated(runs)
