"""Public text for training beside the canaries, for calibration and for scoring, kept strictly apart.

With a data folder: WikiText-2 (Merity et al. 2016, CC BY-SA 3.0), pinned by digest. `test` is the whole
`wiki.test.raw`, as the quantisation papers score it; `train` and `calibration` are disjoint articles of
`wiki.valid.tokens`. Without one: short articles written for this project, marked `synthetic`.

The raw and the tokens files of WikiText-2 are split into words alike (" film , television", " @-@ ") and
differ in one thing: the tokens files hold `<unk>` where a rare word stood. The word cannot be had back, so
it is left out; a model trained on the literal `<unk>` would learn to expect it and score worse on raw text.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from ..errors import InputError, IntegrityError, UnknownNameError
from ..files import read_text

Purpose = Literal["train", "calibration", "test"]

TRAIN_SHARE = 0.7  # of the articles of wiki.valid.tokens; the rest is for calibration

_PACKAGE_TEXT = Path(__file__).parent / "text"
_TEST_FILE, _VALID_FILE = "wikitext2/wiki.test.raw", "wikitext2/wiki.valid.tokens"
_WIKITEXT_SHA256 = {
    _TEST_FILE: "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08",
    _VALID_FILE: "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
}
_ARTICLE_TITLE = re.compile(r" ?= [^=\n]+ = ?")  # "= = Section = =" has a second "=" and is none


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """One text and where it came from. `num_rows` counts lines; `source` is the file's `sha256:...`."""

    name: str
    text: str
    source: str
    num_rows: int
    synthetic: bool


def data_dir_from_environment() -> Path | None:
    """The folder named by SIXGIG_DATA, or None when it is unset; the only place that reads it.

    Raises:
        InputError: it names something that is not a folder.
    """
    value = os.environ.get("SIXGIG_DATA", "").strip()
    if not value:
        return None
    if not Path(value).is_dir():
        raise InputError(
            "the data folder does not exist",
            received=value,
            where="environment variable SIXGIG_DATA",
            todo="set it to the folder that holds wikitext2/, or unset it to use the package's own text",
        )
    return Path(value)


def load_public_text(purpose: Purpose, *, data_dir: Path | None) -> Corpus:
    """The public text for one purpose; no article serves two purposes.

    Raises:
        UnknownNameError: no such purpose.
        InputError: a file is missing, truncated or altered; the message names it.
    """
    if purpose not in get_args(Purpose):
        raise UnknownNameError("purpose of public text", purpose, get_args(Purpose))
    return _package_text(purpose) if data_dir is None else _wikitext(purpose, data_dir)


def token_windows(token_ids: np.ndarray, window: int, num_windows: int | None) -> np.ndarray:
    """Ids `[n, window]` of the first `num_windows` non-overlapping windows, or of all that are whole.

    Raises:
        InputError: the text is too short for what was asked.
    """
    if window < 1:
        raise InputError("a window has no length", expected="1 token or more", received=f"{window} tokens")
    available = len(token_ids) // window
    wanted = available if num_windows is None else num_windows
    if not 1 <= wanted <= available:
        raise InputError(
            "not enough text for the windows asked for",
            expected=f"{max(wanted, 1):,} windows of {window:,} tokens",
            received=f"{len(token_ids):,} tokens, which is {available:,} windows",
            todo="ask for fewer or shorter windows, or give more text",
        )
    return np.asarray(token_ids)[: wanted * window].reshape(wanted, window)


def joined_as_quantisation_papers_do(text: str) -> str:
    """The rows of WikiText-2 joined by blank lines, as GPTQ scores them and the papers after it.

    Equals `"\\n\\n".join(dataset["text"])` of the hub's data set, whose rows are the file's lines: each with
    its line's end, but empty where the line has nothing but spaces. Source: Frantar et al. 2022 (arXiv
    2210.17323), section 4, and the code published with it.
    """
    lines = text.split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines  # what follows the last line's end is no row
    return "\n\n".join(f"{line}\n" if line.strip() else "" for line in lines)


def drop_unknown_words(text: str) -> str:
    """WikiText tokens text in the raw file's form, each `<unk>` left out with one space beside it.

    Brackets that held nothing else go too, and titles of nothing but `<unk>` lose their line.
    """
    text = text.replace("<unk> ", "").replace("( ) ", "")
    return re.sub(r"(?m)^ (= )+ *(= )+\n", "", text)


def _wikitext(purpose: Purpose, data_dir: Path) -> Corpus:
    file_name = _TEST_FILE if purpose == "test" else _VALID_FILE
    content, source = _read_pinned(data_dir / file_name, _WIKITEXT_SHA256[file_name])
    if purpose == "test":
        return _corpus(file_name, content, source, synthetic=False)
    articles = _articles(content)
    num_train = round(TRAIN_SHARE * len(articles))
    if purpose == "train":
        name, part = f"{file_name} articles 1-{num_train}", articles[:num_train]
    else:
        name, part = f"{file_name} articles {num_train + 1}-{len(articles)}", articles[num_train:]
    return _corpus(name, drop_unknown_words("".join(part)), source, synthetic=False)


def _read_pinned(path: Path, sha256: str) -> tuple[str, str]:
    content = read_text(path)
    found = hashlib.sha256(content.encode()).hexdigest()
    if found != sha256:
        raise IntegrityError(
            "the file is truncated or is another version than the pinned one",
            expected=f"sha256 {sha256}",
            received=f"sha256 {found}, {path.stat().st_size:,} bytes",
            where=str(path),
            todo="copy the original file again",
        )
    return content, f"sha256:{found}"


def _package_text(purpose: Purpose) -> Corpus:
    path = _PACKAGE_TEXT / f"{purpose}.txt"
    content = read_text(path)
    if not _articles(content):
        raise IntegrityError(
            "no article in the package's text",
            expected="a line `= Title =` and paragraphs",
            where=str(path),
            todo="reinstall sixgig",
        )
    source = f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"
    return _corpus(f"sixgig {purpose} text", content, source, synthetic=True)


def _corpus(name: str, text: str, source: str, *, synthetic: bool) -> Corpus:
    return Corpus(name=name, text=text, source=source, num_rows=text.count("\n"), synthetic=synthetic)


def _articles(text: str) -> list[str]:
    """Texts that each begin with a title line and run to the next; what precedes the first is dropped."""
    articles: list[list[str]] = []
    for line in text.splitlines(keepends=True):
        if _ARTICLE_TITLE.fullmatch(line.rstrip("\n")):
            articles.append([])
        if articles:
            articles[-1].append(line)
    return ["".join(lines) for lines in articles]
