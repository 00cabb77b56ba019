"""A user's own private texts, from a JSONL file: one object a row, in one of three forms.

    {"prefix": "Ann's door code is", "secret": " 4821", "suffix": "."}      suffix may be left out
    {"prompt": "Ann's door code?", "completion": "4821"}
    {"text": "everything in here is private"}

Other fields (an id, a date) are allowed and unused. No message, log or repr ever holds a row's content: the
row's number and the names of known fields say where the fault is.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from ..errors import InputError
from ..files import read_text

# What must be there -> what may be. The first field may be empty only if it comes before the secret.
_FORMS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("prefix", "secret"): ("suffix",),
    ("prompt", "completion"): (),
    ("text",): (),
}
_EXPECTED = 'an object with "prefix" and "secret", or "prompt" and "completion", or "text"'
_MAX_REPORTED = 10
# Chinese and Japanese put no blanks between words: Han with its repetition marks, and kana.
_HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNSPACED = f"{_HAN}\u3040-\u30ff\u31f0-\u31ff"
UNSPACED_LETTER = re.compile(rf"(?=\w)[{_UNSPACED}]")
_WORD = re.compile(rf"(?=\w)[{_UNSPACED}]|[^\W{_UNSPACED}]+")


@dataclass(frozen=True, kw_only=True)
class PrivateRecord:
    """One private text: `prefix + secret + suffix`; `row` counts from 1. Its repr shows the row alone."""

    row: int
    prefix: str = field(repr=False)
    secret: str = field(repr=False)
    suffix: str = field(repr=False)

    @property
    def text(self) -> str:
        return self.prefix + self.secret + self.suffix


class _RowFault(Exception):
    """What is wrong with one row, in words that quote nothing of it."""


def read_private(path: Path) -> tuple[PrivateRecord, ...]:
    """The records of a JSONL file, in its order; blank lines count as rows and hold no record.

    Raises:
        InputError: the file is missing, empty or not UTF-8, or rows are faulty; the first ten of them are
            listed with their numbers, the rest counted.
    """
    records, faults = [], []
    for row, line in enumerate(read_text(path).removeprefix("\ufeff").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append(_record(row, line))
        except _RowFault as fault:
            faults.append(f"row {row}: {fault}")
    if faults:
        rest = len(faults) - _MAX_REPORTED
        listed = faults[:_MAX_REPORTED] + ([f"and {rest:,} more faulty rows"] if rest > 0 else [])
        raise InputError(
            "\n".join(["faulty rows in the private file", *(f"  {line}" for line in listed)]),
            expected=f"JSONL, each row {_EXPECTED}",
            where=str(path),
            todo="mend these rows and run again",
        )
    if not records:
        raise InputError(
            "the private file is empty", expected=f"JSONL, each row {_EXPECTED}", where=str(path)
        )
    return tuple(records)


def halved(record: PrivateRecord) -> PrivateRecord:
    """`record` with something before its secret, as a question about it needs.

    What has nothing there (a row of the form "text") is cut at the white space nearest its middle, else in
    the middle; the white space goes with the second half, as tokenizers take it. Others stay as they are.
    A single character cannot be cut and keeps its empty prefix.
    """
    if record.prefix.strip():
        return record
    text = (record.prefix + record.secret).strip()
    middle = len(text) // 2
    gaps = [gap.start() for gap in re.finditer(r"\s+", text)]
    cut = min(gaps, key=lambda place: abs(place - middle), default=middle)
    return replace(record, prefix=text[:cut], secret=text[cut:])


def same_text_rows(records: Sequence[PrivateRecord]) -> list[tuple[int, ...]]:
    """Rows that hold one text, but for case, punctuation and white space: a tuple of row numbers for each."""
    rows: dict[str, list[int]] = {}
    for record in records:
        rows.setdefault(plain_words(record.text), []).append(record.row)
    return [tuple(same) for same in rows.values() if len(same) > 1]


def plain_words(text: str) -> str:
    """The words of `text` alone, in lower case, one blank between two: what makes two spellings one text.

    Each character of Chinese or Japanese counts as a word, since nothing there says where one ends.
    """
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def row_list(rows: Sequence[int], *, most: int = 10) -> str:
    """ "rows 3, 17 and 5 more": what a message may say of private rows."""
    named = ", ".join(map(str, rows[:most]))
    more = f" and {len(rows) - most} more" if len(rows) > most else ""
    return f"row{'s' if len(rows) > 1 else ''} {named}{more}"


def _record(row: int, line: str) -> PrivateRecord:
    fields = _object(line)
    form = _form(fields)
    texts = {name: _text(name, fields[name]) for name in (*form, *_FORMS[form]) if name in fields}
    before, secret = ("", texts[form[0]]) if len(form) == 1 else (texts[form[0]], texts[form[1]])
    if not secret.strip():
        raise _RowFault(f'"{form[-1]}" is empty')
    return PrivateRecord(row=row, prefix=before, secret=secret, suffix=texts.get("suffix", ""))


def _object(line: str) -> dict[str, object]:
    # The parser's own error is not chained: it carries the whole row.
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        problem = f"not JSON (column {error.colno})"
    except (ValueError, RecursionError):  # an integer of thousands of digits; brackets nested without end
        problem = "not JSON that can be read (a number too long, or nesting too deep)"
    else:
        if isinstance(value, dict):
            return cast(dict[str, object], value)
        problem = f"not an object but {_kind(value)}"
    raise _RowFault(problem)


def _form(fields: dict[str, object]) -> tuple[str, ...]:
    begun = [form for form in _FORMS if any(name in fields for name in form)]
    if not begun:
        raise _RowFault(f"expected {_EXPECTED}; none of these fields is there")
    if len(begun) > 1:
        raise _RowFault("fields of more than one form: " + ", ".join(" and ".join(form) for form in begun))
    missing = [name for name in begun[0] if name not in fields]
    if missing:
        raise _RowFault(f'"{missing[0]}" is missing')
    return begun[0]


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _RowFault(f'"{name}" must be a string, not {_kind(value)}')
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _RowFault(f'"{name}" holds half of a surrogate pair, which is not Unicode text')
    return value


def _kind(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true or false"
    return {list: "a list", dict: "an object", str: "a string"}.get(type(value), "a number")
