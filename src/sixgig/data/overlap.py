"""Private rows that the public text holds too: a split would be told to keep them and to remove them.

Compared are words alone, in lower case, so that another comma or line break does not hide a row; of Chinese
and Japanese each character is a word. A row counts as found where its whole text is in the public text, or
its secret alone where that can be no accident:

- eight words or more. Runs of four or five words of English recur between unrelated texts all the time;
  eight and more are what studies of contamination take as copied (Brown et al. 2020, "Language Models are
  Few-Shot Learners", appendix C: 13 words, and 8 at least);
- or twelve characters or more with four digits or more among them: a telephone number, an account. Twelve
  letters alone are often one ordinary word.

A whole row of fewer than four words or twelve characters (blanks between words count) is found only where
it is a whole line of the public text. A message names rows by their numbers and never quotes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..errors import InputError
from .private import UNSPACED_LETTER, PrivateRecord, plain_words, row_list

MIN_SECRET_WORDS = 8
MIN_CHARACTERS, MIN_DIGITS = 12, 4
MIN_WHOLE_WORDS = 4
_PIECE_CHARACTERS = 2**20
_OPENING_WORDS = 3  # of a row, that are looked up before the whole of it is


def rows_in_public(records: Sequence[PrivateRecord], public: str) -> list[int]:
    """Numbers of the rows that `public` holds, in their order."""
    wanted = {record.row: texts for record in records if (texts := _wanted(record))}
    found = _rows_that_are_lines(records, public)
    longest = max((len(text.split()) for texts in wanted.values() for text in texts), default=1)
    tail: list[str] = []
    for piece in _pieces(public):
        words = [*tail, *plain_words(piece).split()]
        found |= _rows_in(words, {row: texts for row, texts in wanted.items() if row not in found})
        tail = words[max(0, len(words) - longest + 1) :]
    return [record.row for record in records if record.row in found]


def _rows_that_are_lines(records: Sequence[PrivateRecord], public: str) -> set[int]:
    """Rows too short to be looked for within a line whose words are a whole line; a row has words at all."""
    rows: dict[str, set[int]] = {}
    for record in records:
        whole = plain_words(record.text)
        if whole and not _is_long(whole):
            rows.setdefault(whole, set()).add(record.row)
    if not rows:
        return set()
    lines = {plain_words(line) for line in public.splitlines()}
    return {row for whole in rows.keys() & lines for row in rows[whole]}


def _rows_in(words: list[str], wanted: Mapping[int, list[str]]) -> set[int]:
    """Rows of which a text stands in `words`; one walk finds the few that are worth searching for."""
    openings = {_opening(text) for texts in wanted.values() for text in texts}
    first = {opening.split()[0] for opening in openings}
    met = {
        opening
        for start, word in enumerate(words)
        if word in first
        for size in range(1, _OPENING_WORDS + 1)
        if (opening := " ".join(words[start : start + size])) in openings
    }
    whole = f" {' '.join(words)} "
    return {
        row
        for row, texts in wanted.items()
        if any(_opening(text) in met and f" {text} " in whole for text in texts)
    }


def _pieces(text: str) -> Iterator[str]:
    """`text` in parts that end with a word: as words, all of it at once would take many times its size."""
    start = 0
    while start < len(text):
        stop = min(start + _PIECE_CHARACTERS, len(text))
        while stop < len(text) and not (text[stop].isspace() or UNSPACED_LETTER.match(text, stop)):
            stop += 1
        yield text[start:stop]
        start = stop


def refuse_overlap(records: Sequence[PrivateRecord], public: str) -> None:
    """Raises InputError naming the rows that the public text holds."""
    rows = rows_in_public(records, public)
    if rows:
        raise InputError(
            "private rows are in the public text too",
            expected="texts that have no row in common: what is public cannot be taken out of the Base",
            received=f"{len(rows)} of {len(records)} rows found there",
            where=row_list(rows),
            todo="take them out of one of the two files",
        )


def _wanted(record: PrivateRecord) -> list[str]:
    """What of a record would be no accident in a public text, as plain words."""
    whole, secret = plain_words(record.text), plain_words(record.secret)
    found = [secret] if _is_no_accident(secret) else []
    if _is_long(whole):
        found.append(whole)
    return found


def _is_long(whole: str) -> bool:
    return len(whole.split()) >= MIN_WHOLE_WORDS and len(whole) >= MIN_CHARACTERS


def _is_no_accident(words: str) -> bool:
    digits = sum(character.isdigit() for character in words)
    return len(words.split()) >= MIN_SECRET_WORDS or (len(words) >= MIN_CHARACTERS and digits >= MIN_DIGITS)


def _opening(text: str) -> str:
    return " ".join(text.split()[:_OPENING_WORDS])
