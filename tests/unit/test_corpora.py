"""Public text: disjoint parts, provenance, clear refusals; WikiText-2 itself where SIXGIG_DATA names it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sixgig.data import corpora
from sixgig.data.corpora import (
    data_dir_from_environment,
    drop_unknown_words,
    load_public_text,
    token_windows,
)
from sixgig.errors import InputError, IntegrityError, UnknownNameError


@pytest.fixture
def tiny_wikitext(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    articles = [f" \n = Article {i} = \n \n Words of article {i} , <unk> and all . \n \n" for i in range(10)]
    files = {
        "wiki.valid.tokens": "".join(articles),
        "wiki.test.raw": " \n = Test = \n \n Words to score . \n",
    }
    (tmp_path / "wikitext2").mkdir()
    for name, content in files.items():
        (tmp_path / "wikitext2" / name).write_text(content, encoding="utf-8", newline="")
        digest = hashlib.sha256(content.encode()).hexdigest()
        monkeypatch.setitem(corpora._WIKITEXT_SHA256, f"wikitext2/{name}", digest)
    return tmp_path


def test_train_and_calibration_are_disjoint_articles(tiny_wikitext: Path) -> None:
    train = load_public_text("train", data_dir=tiny_wikitext)
    calibration = load_public_text("calibration", data_dir=tiny_wikitext)
    assert [f"Article {i} " in train.text for i in range(10)] == [True] * 7 + [False] * 3
    assert [f"Article {i} " in calibration.text for i in range(10)] == [False] * 7 + [True] * 3
    assert "<unk>" not in train.text + calibration.text
    assert train.name == "wikitext2/wiki.valid.tokens articles 1-7"
    assert not train.synthetic


def test_the_test_text_is_the_raw_file_itself(tiny_wikitext: Path) -> None:
    corpus = load_public_text("test", data_dir=tiny_wikitext)
    content = (tiny_wikitext / "wikitext2/wiki.test.raw").read_text(encoding="utf-8")
    assert corpus.text == content
    assert corpus.num_rows == 4
    assert corpus.source == f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


def test_a_truncated_or_missing_file_is_named(tiny_wikitext: Path) -> None:
    path = tiny_wikitext / "wikitext2/wiki.valid.tokens"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(IntegrityError, match=r"wiki\.valid\.tokens"):
        load_public_text("calibration", data_dir=tiny_wikitext)
    path.unlink()
    with pytest.raises(InputError, match=r"wiki\.valid\.tokens"):
        load_public_text("train", data_dir=tiny_wikitext)


def test_unknown_purpose_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="calibration"):
        load_public_text(cast(Any, "calibrate"), data_dir=None)


def test_the_package_has_its_own_text_and_says_so() -> None:
    texts = {}
    for purpose in ("train", "calibration", "test"):
        corpus = load_public_text(purpose, data_dir=None)
        assert corpus.synthetic
        assert corpus.num_rows > 10
        texts[purpose] = {line for line in corpus.text.splitlines() if line.strip()}
    assert not texts["train"] & texts["calibration"]
    assert not (texts["train"] | texts["calibration"]) & texts["test"]


def test_empty_package_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.txt").write_text("no title here\n")
    monkeypatch.setattr(corpora, "_PACKAGE_TEXT", tmp_path)
    with pytest.raises(IntegrityError, match=r"train\.txt"):
        load_public_text("train", data_dir=None)


def test_unknown_words_leave_no_trace() -> None:
    assert drop_unknown_words(" A <unk> lobster ( <unk> ) is <unk> . \n") == " A lobster is . \n"
    assert drop_unknown_words(" = <unk> <unk> = \n \n A b . \n") == " \n A b . \n"
    assert drop_unknown_words(" = = <unk> = = \n x \n") == " x \n"
    assert drop_unknown_words(" = Frank <unk> = \n") == " = Frank = \n"
    assert drop_unknown_words(" k = 1 and a = b = c \n") == " k = 1 and a = b = c \n"


def test_the_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIXGIG_DATA", raising=False)
    assert data_dir_from_environment() is None
    monkeypatch.setenv("SIXGIG_DATA", str(tmp_path))
    assert data_dir_from_environment() == tmp_path
    monkeypatch.setenv("SIXGIG_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="SIXGIG_DATA"):
        data_dir_from_environment()


@settings(deadline=None, max_examples=50)
@given(length=st.integers(0, 200), window=st.integers(1, 40), asked=st.none() | st.integers(1, 8))
def test_windows_are_the_text_in_order(length: int, window: int, asked: int | None) -> None:
    ids = np.arange(length)
    if (asked or 1) * window > length:
        with pytest.raises(InputError, match="windows"):
            token_windows(ids, window, asked)
        return
    windows = token_windows(ids, window, asked)
    assert windows.shape == (asked or length // window, window)
    assert np.array_equal(windows.ravel(), np.arange(windows.size))


def test_windows_must_have_a_length() -> None:
    with pytest.raises(InputError, match="window"):
        token_windows(np.arange(9), 0, None)


@pytest.fixture
def wikitext() -> Path:
    folder = data_dir_from_environment()
    if folder is None:
        pytest.skip("SIXGIG_DATA is unset: WikiText-2 is not here")
    return folder


def test_wikitext_parts(wikitext: Path) -> None:
    rows = {
        purpose: load_public_text(purpose, data_dir=wikitext) for purpose in ("train", "calibration", "test")
    }
    assert rows["train"].name.endswith("articles 1-42")
    assert rows["calibration"].name.endswith("articles 43-60")
    assert rows["test"].num_rows == 4358
    assert not any(corpus.synthetic for corpus in rows.values())
    assert len(rows["calibration"].text) > 300_000


def test_tokens_without_unknown_words_are_the_raw_text_without_them(wikitext: Path) -> None:
    tokens_text = (wikitext / "wikitext2/wiki.test.tokens").read_text(encoding="utf-8")
    tokens = tokens_text.splitlines()
    raw = (wikitext / "wikitext2/wiki.test.raw").read_text(encoding="utf-8").splitlines()
    assert len(tokens) == len(raw)
    whole = [(a, b) for a, b in zip(tokens, raw, strict=True) if "<unk>" not in a]
    assert len(whole) == 2134
    assert all(drop_unknown_words(a + "\n") == b + "\n" for a, b in whole)
    num_words, num_raw = len(drop_unknown_words(tokens_text).split()), len("\n".join(raw).split())
    assert 0.93 < num_words / num_raw < 0.95  # about 6% of the running words are unknown ones
