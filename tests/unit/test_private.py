"""Private files: the three forms, every fault with its row number, and no content in any message."""

from __future__ import annotations

import json
import traceback
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sixgig.data.private import PrivateRecord, read_private
from sixgig.errors import InputError

CANARY = "Zebra-4821"  # content that must never be echoed


def write(folder: Path, *rows: str) -> Path:
    path = folder / "private.jsonl"
    path.write_text("\n".join(rows), encoding="utf-8", newline="")
    return path


def fault_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_private(path)
    everything = "".join(traceback.format_exception(caught.value))
    assert CANARY not in everything
    assert caught.value.exit_status == 2
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_the_three_forms(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"prefix": "The code is", "secret": " 12", "suffix": "."}',
        '{"prefix": "", "secret": "no suffix", "id": 7}',
        "",
        '{"prompt": "Who?", "completion": "Ann\u2028Lee"}\r',
        '{"text": "all of it"}',
        "",
    )
    first, second, third, fourth = read_private(path)
    assert first == PrivateRecord(row=1, prefix="The code is", secret=" 12", suffix=".")
    assert second == PrivateRecord(row=2, prefix="", secret="no suffix", suffix="")
    assert third == PrivateRecord(row=4, prefix="Who?", secret="Ann\u2028Lee", suffix="")
    assert fourth == PrivateRecord(row=5, prefix="", secret="all of it", suffix="")
    assert first.text == "The code is 12."


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    assert len(read_private(write(tmp_path, '\ufeff{"text": "saved on Windows"}'))) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f'{{"secret": "{CANARY}"', "not JSON"),
        (f"{CANARY}", "not JSON"),
        (f'["{CANARY}"]', "not an object but a list"),
        (f'"{CANARY}"', "not an object but a string"),
        ("null", "not an object but null"),
        ("12", "not an object but a number"),
        ("9" * 5000, "not JSON that can be read"),
        ("[" * 200_000, "not JSON that can be read"),
        (f'{{"{CANARY}": 1}}', "none of these fields"),
        (f'{{"secret": "{CANARY}"}}', '"prefix" is missing'),
        (f'{{"prompt": "{CANARY}"}}', '"completion" is missing'),
        (f'{{"prefix": 3, "secret": "{CANARY}"}}', '"prefix" must be a string, not a number'),
        (f'{{"prefix": "{CANARY}", "secret": null}}', '"secret" must be a string, not null'),
        (f'{{"prefix": "{CANARY}", "secret": "x", "suffix": []}}', '"suffix" must be a string, not a list'),
        (f'{{"prefix": "{CANARY}", "secret": " "}}', '"secret" is empty'),
        ('{"text": ""}', '"text" is empty'),
        (f'{{"text": "{CANARY}", "secret": "x"}}', "more than one form"),
        (f'{{"text": "{CANARY} \\ud800"}}', "surrogate"),
    ],
)
def test_a_fault_names_its_row_and_quotes_nothing(tmp_path: Path, row: str, message: str) -> None:
    fault = fault_of(write(tmp_path, '{"text": "good"}', "", row))
    assert message in fault
    assert "row 3:" in fault


def test_all_faulty_rows_up_to_ten_and_the_count_of_the_rest(tmp_path: Path) -> None:
    rows = [json.dumps({"text": "good"}) if i % 2 else "{" for i in range(30)]
    fault = fault_of(write(tmp_path, *rows))
    assert [f"row {i}:" in fault for i in range(1, 31)] == [i % 2 == 1 and i < 20 for i in range(1, 31)]
    assert "and 5 more faulty rows" in fault
    assert "more" not in fault_of(write(tmp_path, *rows[:20]))


def test_missing_empty_and_not_utf8(tmp_path: Path) -> None:
    assert "no such file" in fault_of(tmp_path / "nowhere.jsonl")
    assert "empty" in fault_of(write(tmp_path, ""))
    assert "empty" in fault_of(write(tmp_path, " ", "", ""))
    assert "regular file" in fault_of(tmp_path)
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"text": "good"}\n{"text": "' + CANARY.encode() + b' caf\xe9"}\n')
    assert "row 2" in fault_of(path)


def test_repr_shows_no_content() -> None:
    record = PrivateRecord(row=3, prefix=CANARY, secret=CANARY, suffix=CANARY)
    assert repr(record) == "PrivateRecord(row=3)"


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.tuples(st.text(), st.text().filter(lambda s: s.strip()), st.text()), min_size=1, max_size=6
    ),
    ascii_only=st.booleans(),
)
def test_what_was_written_is_read(
    tmp_path: Path, texts: list[tuple[str, str, str]], ascii_only: bool
) -> None:
    rows = [json.dumps({"prefix": a, "secret": b, "suffix": c}, ensure_ascii=ascii_only) for a, b, c in texts]
    records = read_private(write(tmp_path, *rows))
    assert [(r.prefix, r.secret, r.suffix) for r in records] == texts
    assert [r.row for r in records] == list(range(1, len(texts) + 1))


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_any_bytes_give_records_or_an_input_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.jsonl"
    path.write_bytes(content)
    try:
        records = read_private(path)
    except InputError as error:
        fault = str(error)
    else:
        assert records
        return
    assert str(path) in fault
