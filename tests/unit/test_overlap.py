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


CHINESE = """河水向海流去。安娜的门禁密码是四八二一七七，她说。
她です。アンナのドアの暗証番号は4821・77です。
深山"""


@pytest.mark.parametrize(
    ("prefix", "secret", "found"),
    [
        ("安娜的门禁密码是", "四八二一七七", True),  # in the midst of a line
        ("安娜的门禁密码是", "四八二一七八", False),  # the last numeral differs
        ("谁？", "安娜的门禁密码是四八", True),  # a secret of ten characters
        ("谁？", "安娜的门禁", False),  # five recur by accident
        ("アンナのドアの暗証番号は", "４８２１ 77", True),  # Japanese, in wide figures
        ("ｱﾝﾅのﾄﾞｱの暗証番号は", "4821-77", True),  # in narrow kana
        ("", "深山", True),  # a whole line
        ("", "深", False),
    ],
)
def test_rows_without_blanks_between_words_are_found(prefix: str, secret: str, found: bool) -> None:
    assert rows_in_public([record(3, prefix, secret)], CHINESE) == ([3] if found else [])


def test_a_text_without_blanks_is_searched_across_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record(1, "安娜的门禁密码是", "四八二一七七"), record(2, "", "番号は4821・77です")]
    for size in range(1, 40):
        monkeypatch.setattr(overlap, "_PIECE_CHARACTERS", size)
        assert rows_in_public(records, CHINESE) == [1, 2]
        assert max(map(len, overlap._pieces(CHINESE))) <= size + 7


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Ann: 4821", True),
        ("ANN 4821.", True),
        ("Ann: 48", False),
        ("4821", False),  # within a line alone
        ("---", False),  # no word, as an empty line has none
    ],
)
def test_a_short_row_is_found_where_it_is_a_whole_line(text: str, found: bool) -> None:
    public = "The river runs.\n\n  Ann - 4821\nIt rains."
    assert rows_in_public([record(3, "", text)], public) == ([3] if found else [])


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
