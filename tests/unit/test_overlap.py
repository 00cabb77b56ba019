"""Private rows that stand in the public text: named by number, however they are spelt; accidents are not."""

from __future__ import annotations

import pytest

from sixgig.data import overlap
from sixgig.data.overlap import refuse_overlap, rows_in_public
from sixgig.data.private import PrivateRecord, halved, same_text_rows
from sixgig.errors import InputError


def record(row: int, prefix: str, secret: str) -> PrivateRecord:
    return PrivateRecord(row=row, prefix=prefix, secret=secret, suffix="")


PUBLIC = """The river runs down to the sea. Ann's   door code is 4821-77, she says.
Call 0049-170-555-1234 now! At the end of the day the rain comes back to the hills once more, and it rains.
International trade grew."""


@pytest.mark.parametrize(
    ("prefix", "secret", "found"),
    [
        ("Ann's door code is", " 4821 77", True),  # the whole row, in other spelling
        ("ANN'S\nDOOR CODE IS", " 4821-77", True),
        ("Bob's door code is", " 4821-77", False),  # six digits recur by accident
        ("Bob's number:", " 0049-170-555-1234", True),  # twelve digits do not
        ("She wrote:", " at the end of the day", False),  # six words do
        ("She wrote:", " at the end of the day the rain comes back", True),
        ("What grew?", " International", False),  # one long word does
        ("", "it rains", False),
        ("", "runs down to the sea", True),
        ("", "down to the seaside road", False),  # whole words alone
    ],
)
def test_what_is_found(prefix: str, secret: str, found: bool) -> None:
    assert rows_in_public([record(3, prefix, secret)], PUBLIC) == ([3] if found else [])


def test_a_long_text_is_searched_across_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record(1, "Ann's door code is", " 4821-77"), record(2, "", "the rain comes back to the hills")]
    for size in range(1, 40):
        monkeypatch.setattr(overlap, "_PIECE_CHARACTERS", size)
        assert rows_in_public(records, PUBLIC) == [1, 2]


def test_the_refusal_names_rows_and_quotes_nothing() -> None:
    records = [
        record(3, "Ann's door code is", " 4821-77"),
        record(4, "x", " y"),
        record(17, "", "Call 0049-170-555-1234"),
    ]
    with pytest.raises(InputError, match="rows 3, 17") as caught:
        refuse_overlap(records, PUBLIC)
    assert not any(word in str(caught.value) for word in ("4821", "0049", "Ann"))
    refuse_overlap(records[1:2], PUBLIC)


def test_one_text_in_several_rows_is_found() -> None:
    records = [record(1, "a b", " c"), record(2, "A", " b, c"), record(5, "a", "bc"), record(9, "a b c", ".")]
    assert same_text_rows(records) == [(1, 2, 9)]


@pytest.mark.parametrize(
    ("text", "prefix", "secret"),
    [
        ("the rain comes back", "the rain", " comes back"),
        ("  one  two ", "one", "  two"),
        ("unbroken", "unbr", "oken"),
        ("x", "", "x"),
    ],
)
def test_a_text_is_cut_at_the_white_space_nearest_its_middle(text: str, prefix: str, secret: str) -> None:
    cut = halved(record(1, "", text))
    assert (cut.prefix, cut.secret) == (prefix, secret)


def test_what_has_a_question_stays_as_it_is() -> None:
    whole = record(1, "Ann's code?", "4821 and more")
    assert halved(whole) is whole
