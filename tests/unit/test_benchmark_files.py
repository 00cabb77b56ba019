"""Benchmark files: what is read of them, and what is said of a faulty one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from fake_benchmarks import IFEVAL, arc_row, hellaswag_row, write_benchmarks, write_rows

from sixgig.data.benchmarks import documents, load_benchmark
from sixgig.errors import InputError, NotAvailableError, UnknownNameError


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return write_benchmarks(tmp_path)


@pytest.mark.parametrize(
    ("name", "config", "counts"),
    [
        ("wikitext", "wikitext-2-raw-v1", {"test": 2}),
        ("gsm8k", "main", {"train": 6, "test": 3}),
        ("ifeval", "default", {"train": 2}),
        ("mmlu", "anatomy", {"dev": 5, "test": 4}),
        ("arc", "ARC-Easy", {"train": 3, "test": 4}),
        ("hellaswag", "default", {"validation": 3}),
    ],
)
def test_every_benchmark_is_read(data_dir: Path, name: str, config: str, counts: dict[str, int]) -> None:
    found = load_benchmark(name, data_dir)
    assert list(found.splits) == [config]
    assert {split: len(rows) for split, rows in found.splits[config].items()} == counts
    assert all(row.keys() == found.shape.keys() for rows in found.splits[config].values() for row in rows)
    assert all(source.revision_or_sha256.startswith("sha256:") for source in found.sources)  # type: ignore[union-attr]


def test_a_document_is_an_article_with_its_sections() -> None:
    text = "\n = One = \n words \n = = Part = = \n more \n = = = Deep = = = \n x \n = Two = \n end \n"
    first, second = documents(text)
    assert first == " = One = \n words \n = = Part = = \n more \n = = = Deep = = = \n x "
    assert second == " = Two = \n end \n"


@pytest.mark.skipif(not os.environ.get("SIXGIG_DATA"), reason="needs benchmark files: set SIXGIG_DATA")
def test_the_real_files_have_the_hubs_rows() -> None:
    data_dir = Path(os.environ["SIXGIG_DATA"])
    counts = {
        "wikitext": ("test", 62),
        "gsm8k": ("test", 1319),
        "ifeval": ("train", 541),
        "mmlu": ("test", 14042),
    }
    for name, (split, count) in counts.items():
        assert load_benchmark(name, data_dir).num_rows(split) == count


def test_an_instruction_has_every_argument_as_the_hubs_rows_do(data_dir: Path) -> None:
    row = load_benchmark("ifeval", data_dir).splits["default"]["train"][1]
    assert row["kwargs"][0]["num_words"] == 40
    assert row["kwargs"][0]["keywords"] is None
    assert len(row["kwargs"][0]) == 24


def without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}


FAULTS = [
    ("gsm8k", "gsm8k/test.jsonl", [{"question": "How?"}], "lacks answer"),
    ("gsm8k", "gsm8k/test.jsonl", [{"question": "How?", "answer": "5"}], "without a number"),
    ("gsm8k", "gsm8k/train.jsonl", [{"question": 5, "answer": "#### 5"}], "question is of another type"),
    ("ifeval", "ifeval/input_data.jsonl", [IFEVAL[0] | {"kwargs": []}], "do not match"),
    ("ifeval", "ifeval/input_data.jsonl", [IFEVAL[0] | {"kwargs": [{"word": 3}]}], "not known: word"),
    ("ifeval", "ifeval/input_data.jsonl", [IFEVAL[0] | {"key": "7"}], "key is of another type"),
    ("arc", "arc/ARC-Easy/test.jsonl", [arc_row(0) | {"answerKey": "D"}], "out of range"),
    ("arc", "arc/ARC-Easy/test.jsonl", [without(arc_row(0), "choices")], "lacks choices"),
    ("arc", "arc/ARC-Easy/test.jsonl", [arc_row(0) | {"choices": {"text": ["x"]}}], "lacks choices.label"),
    ("hellaswag", "hellaswag/validation.jsonl", [hellaswag_row(0) | {"label": "4"}], "out of range"),
    ("hellaswag", "hellaswag/validation.jsonl", [hellaswag_row(0) | {"endings": ["a"]}], "out of range"),
    ("hellaswag", "hellaswag/validation.jsonl", [[1, 2]], "a row is of another type"),
]


@pytest.mark.parametrize(("name", "file", "rows", "problem"), FAULTS)
def test_a_faulty_row_is_named(
    data_dir: Path, name: str, file: str, rows: list[dict[str, Any]], problem: str
) -> None:
    write_rows(data_dir / file, rows)
    with pytest.raises(InputError, match=problem) as caught:
        load_benchmark(name, data_dir)
    assert file.rpartition("/")[2] in str(caught.value)
    assert "row 1" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file", "content", "problem"),
    [
        ("gsm8k", "gsm8k/test.jsonl", b"\n", "no row"),
        ("gsm8k", "gsm8k/test.jsonl", b"{", "not JSON"),
        ("gsm8k", "gsm8k/test.jsonl", b"[" * 100_000, "not JSON"),
        ("gsm8k", "gsm8k/test.jsonl", b'{"question": "\xff"}', "not UTF-8"),
        ("wikitext", "wikitext2/wiki.test.raw", b" \n \n", "no document"),
        ("mmlu", "mmlu/test/anatomy_test.csv", b"question,a,b,c,d,answer\n", "not a file of MMLU"),
        (
            "mmlu",
            "mmlu/test/anatomy_test.csv",
            b"question,choice0,choice1,choice2,choice3,answer\n",
            "no question",
        ),
        (
            "mmlu",
            "mmlu/test/anatomy_test.csv",
            b"question,choice0,choice1,choice2,choice3,answer\nq,a,b,c,d,4\n",
            "not a question",
        ),
    ],
)
def test_a_faulty_file_is_named(data_dir: Path, name: str, file: str, content: bytes, problem: str) -> None:
    (data_dir / file).write_bytes(content)
    with pytest.raises(InputError, match=problem) as caught:
        load_benchmark(name, data_dir)
    assert file.rpartition("/")[2] in str(caught.value)


def test_a_row_after_sound_ones_is_named_by_its_own_number(data_dir: Path) -> None:
    sound = {"question": "How?", "answer": "#### 5"}
    write_rows(data_dir / "gsm8k" / "test.jsonl", [sound, sound, sound | {"answer": "#### many"}])
    with pytest.raises(InputError, match="without a number") as caught:
        load_benchmark("gsm8k", data_dir)
    assert "test.jsonl, row 3" in str(caught.value)
    assert "#### many" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "received"),
    [
        ("q,a,b,c,d,7", "6 fields, the last one '7'"),
        ("q,a,b,c,2", "5 fields, the last one '2'"),
        ("", "no field"),
    ],
)
def test_a_question_of_mmlu_that_is_none_is_shown_by_its_last_field(
    data_dir: Path, row: str, received: str
) -> None:
    path = data_dir / "mmlu" / "test" / "anatomy_test.csv"
    path.write_text(f"question,choice0,choice1,choice2,choice3,answer\nq,a,b,c,d,3\n{row}\n")
    with pytest.raises(InputError, match="not a question of MMLU") as caught:
        load_benchmark("mmlu", data_dir)
    assert caught.value.received == received
    assert "anatomy_test.csv, row 2" in str(caught.value)


def test_a_file_that_is_not_here_and_a_benchmark_that_is_none(tmp_path: Path) -> None:
    for name in ("wikitext", "gsm8k", "ifeval", "mmlu", "arc", "hellaswag"):
        with pytest.raises(NotAvailableError, match="not here"):
            load_benchmark(name, tmp_path)
    with pytest.raises(UnknownNameError, match="wikitext"):
        load_benchmark("wikitex", tmp_path)
