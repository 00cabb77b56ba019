"""Benchmarks from files, row by row as the hub's data sets have them, each row checked.

    wikitext2/wiki.test.raw               one document an article (below)
    gsm8k/{train,test}.jsonl              question, answer ending in "#### NUMBER"
    ifeval/input_data.jsonl               key, prompt, instruction_id_list, kwargs
    mmlu/{dev,test}/SUBJECT_*.csv         as `data.mmlu` reads them
    arc/{ARC-Easy,ARC-Challenge}/{train,validation,test}.jsonl    allenai/ai2_arc's fields; test is needed
    hellaswag/{train,validation}.jsonl    Rowan/hellaswag's fields; validation is needed

A document of WikiText is what EleutherAI/wikitext_document_level has as one row: an article, from its title
line to the line before the next, joined by line ends as they stand in the file. A title is a line that begins
with "= " and ends with " =" once runs of section marks ("= =", "= = =") are taken as one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, NotAvailableError, UnknownNameError
from ..files import read_text
from ..provenance import DataSource
from . import benchmark_fields as fields
from .mmlu import Question, load_mmlu

_MAX_FILE_BYTES = 256 * 2**20
Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """`splits[config][split]` are rows that fit `shape`; a split without file is not there.

    `config` is the hub's name for a part of the data set, such as a subject, or "default".
    """

    name: str
    shape: Mapping[str, Any]
    splits: Mapping[str, Mapping[str, Rows]]
    sources: tuple[DataSource, ...]

    def num_rows(self, split: str) -> int:
        """Rows of that split over all parts."""
        return sum(len(parts.get(split, ())) for parts in self.splits.values())


def load_benchmark(name: str, data_dir: Path) -> Benchmark:
    """The benchmark `name` (of `BENCHMARKS`) from the folder of benchmark files.

    Raises:
        NotAvailableError: its files are not in the folder; the message names the one that is missing.
        InputError: a file is empty, not UTF-8, or has a row that is not one of this benchmark's.
    """
    if name not in BENCHMARKS:
        raise UnknownNameError("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name](data_dir)


def documents(text: str) -> list[str]:
    """The articles of a WikiText file as documents; what precedes the first title is one only with words."""
    parts: list[list[str]] = [[]]
    for line in text.split("\n"):
        if _is_title(line):
            parts.append([])
        parts[-1].append(line)
    pages = ["\n".join(part) for part in parts]
    return [page for page in pages if page.strip()]


def _is_title(line: str) -> bool:
    words = re.sub(r"=( =)+", lambda marks: "=" * marks.group().count("="), line).strip()
    return words.startswith("= ") and words.endswith(" =")


def _wikitext(data_dir: Path) -> Benchmark:
    path = data_dir / "wikitext2" / "wiki.test.raw"
    text = _read(path)
    rows: Rows = [{"page": page} for page in documents(text)]
    if not rows:
        raise InputError(
            "no document in the file", expected="a line `= Title =` and its article", where=str(path)
        )
    return Benchmark(
        name="wikitext",
        shape=fields.WIKITEXT,
        splits={"wikitext-2-raw-v1": {"test": rows}},
        sources=(_source(data_dir, path, text, len(rows)),),
    )


def _gsm8k(data_dir: Path) -> Benchmark:
    def check(row: Mapping[str, Any], where: str) -> None:
        if not re.search(r"#### -?[0-9][0-9.,]*\s*$", row["answer"]):
            raise InputError(
                "an answer without a number",
                expected="an answer that ends in #### and a number",
                received=repr(row["answer"][-60:]),
                where=where,
            )

    return _from_jsonl(
        "gsm8k",
        data_dir,
        {"main": {"train": "gsm8k/train.jsonl", "test": "gsm8k/test.jsonl"}},
        fields.GSM8K,
        check,
        needed=("train", "test"),
    )


def _ifeval(data_dir: Path) -> Benchmark:
    def check(row: Mapping[str, Any], where: str) -> None:
        names, arguments = row["instruction_id_list"], row["kwargs"]
        if not names or len(names) != len(arguments):
            raise InputError(
                "instructions and their arguments do not match",
                expected="as many kwargs as instruction_id_list has, at least one",
                received=f"{len(names)} instructions, {len(arguments)} kwargs",
                where=where,
            )

    files = {"default": {"train": "ifeval/input_data.jsonl"}}
    return _from_jsonl("ifeval", data_dir, files, fields.IFEVAL, check, needed=("train",))


def _arc(data_dir: Path) -> Benchmark:
    def check(row: Mapping[str, Any], where: str) -> None:
        labels, texts = row["choices"]["label"], row["choices"]["text"]
        if len(labels) != len(texts) or len(set(labels)) != len(labels) or row["answerKey"] not in labels:
            raise InputError(
                "an answer out of range",
                expected="as many labels as texts, all different, and answerKey one of them",
                received=f"answerKey {row['answerKey']!r}, labels {labels}, {len(texts)} texts",
                where=where,
            )

    files = {
        config: {split: f"arc/{config}/{split}.jsonl" for split in ("train", "validation", "test")}
        for config in ("ARC-Easy", "ARC-Challenge")
        if (data_dir / "arc" / config).is_dir()
    }
    if not files:
        raise _missing(data_dir / "arc" / "ARC-Easy" / "test.jsonl")
    return _from_jsonl("arc", data_dir, files, fields.ARC, check, needed=("test",))


def _hellaswag(data_dir: Path) -> Benchmark:
    def check(row: Mapping[str, Any], where: str) -> None:
        if len(row["endings"]) != 4 or row["label"] not in ("0", "1", "2", "3"):
            raise InputError(
                "an answer out of range",
                expected="four endings, and a label of 0, 1, 2 or 3",
                received=f"label {row['label']!r}, {len(row['endings'])} endings",
                where=where,
            )

    files = {"default": {split: f"hellaswag/{split}.jsonl" for split in ("train", "validation")}}
    return _from_jsonl("hellaswag", data_dir, files, fields.HELLASWAG, check, needed=("validation",))


def _mmlu(data_dir: Path) -> Benchmark:
    loaded = load_mmlu(data_dir)
    if loaded is None:
        raise _missing(data_dir / "mmlu" / "test")
    for subject in loaded.subjects:
        for kind, rows in (("dev", subject.examples), ("test", subject.questions)):
            if not rows:
                path = data_dir / "mmlu" / kind / f"{subject.name}_{kind}.csv"
                raise InputError("no question in the file", expected="one row or more", where=str(path))
    splits = {
        subject.name: {
            "dev": [_mmlu_row(question, subject.name) for question in subject.examples],
            "test": [_mmlu_row(question, subject.name) for question in subject.questions],
        }
        for subject in loaded.subjects
    }
    source = DataSource(
        name="mmlu", revision_or_sha256=loaded.source, num_rows=loaded.num_questions, synthetic=False
    )
    return Benchmark(name="mmlu", shape=fields.MMLU, splits=splits, sources=(source,))


def _mmlu_row(question: Question, subject: str) -> dict[str, Any]:
    return {
        "question": question.text,
        "subject": subject,
        "choices": list(question.choices),
        "answer": question.answer,
    }


BENCHMARKS: dict[str, Callable[[Path], Benchmark]] = {
    "wikitext": _wikitext,
    "gsm8k": _gsm8k,
    "ifeval": _ifeval,
    "mmlu": _mmlu,
    "arc": _arc,
    "hellaswag": _hellaswag,
}


def _from_jsonl(
    name: str,
    data_dir: Path,
    files: Mapping[str, Mapping[str, str]],
    shape: Mapping[str, Any],
    check: Callable[[Mapping[str, Any], str], None],
    *,
    needed: Sequence[str],
) -> Benchmark:
    splits: dict[str, dict[str, Rows]] = {}
    sources: list[DataSource] = []
    for config, parts in files.items():
        splits[config] = {}
        for split, file in parts.items():
            path = data_dir / file
            if path.exists() or split in needed:
                text = _read(path)
                rows = list(_checked_rows(text, path, shape, check))
                sources.append(_source(data_dir, path, text, len(rows)))
                splits[config][split] = rows
    return Benchmark(name=name, shape=shape, splits=splits, sources=tuple(sources))


def _checked_rows(
    text: str, path: Path, shape: Mapping[str, Any], check: Callable[[Mapping[str, Any], str], None]
) -> Iterator[dict[str, Any]]:
    num_rows = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        num_rows += 1
        where = f"{path}, row {number}"
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(
                "a row that is not JSON", expected="one JSON object a line", received=str(error), where=where
            ) from error
        row = fields.fitted(value, dict(shape), where=where)
        check(row, where)
        yield row
    if not num_rows:
        raise InputError("no row in the file", expected="one JSON object a line", where=str(path))


def _read(path: Path) -> str:
    if not path.exists():
        raise _missing(path)
    return read_text(path, max_bytes=_MAX_FILE_BYTES)


def _missing(path: Path) -> NotAvailableError:
    return NotAvailableError(
        "the benchmark's file is not here",
        where=str(path),
        todo="put it there, or leave out --data-dir and SIXGIG_DATA to take the data from the hub",
    )


def _source(data_dir: Path, path: Path, text: str, num_rows: int) -> DataSource:
    return DataSource(
        name=path.relative_to(data_dir).as_posix(),
        revision_or_sha256=f"sha256:{hashlib.sha256(text.encode()).hexdigest()}",
        num_rows=num_rows,
        synthetic=False,
    )
