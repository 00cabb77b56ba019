"""A few invented rows of every benchmark in its own files, and Punkt tables without an entry."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from sixgig.data.mmlu import HEADER

WIKITEXT = (
    " \n = Old Mill = \n \n The mill stands , as it has , by the river 's bend . \n \n"
    " = = History = = \n \n It was built in 1821 @-@ 1824 . \n \n = Tin Kettle = \n \n"
    ' A kettle of tin ( an alloy ) sings " low " . \n \n = = = Use = = = \n \n Tea . \n \n'
)
IFEVAL = (
    {
        "key": 7,
        "prompt": "Name a tide. Do not use any commas.",
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{}],
    },
    {
        "key": 8,
        "prompt": "Write at most 40 words in two sentences about kettles.",
        "instruction_id_list": ["length_constraints:number_words", "length_constraints:number_sentences"],
        "kwargs": [
            {"relation": "less than", "num_words": 40},
            {"relation": "at least", "num_sentences": 2},
        ],
    },
)


def write_benchmarks(data_dir: Path) -> Path:
    """Writes every benchmark under `data_dir`, MMLU with one subject; returns `data_dir`."""
    (data_dir / "wikitext2").mkdir(parents=True)
    (data_dir / "wikitext2" / "wiki.test.raw").write_text(WIKITEXT, encoding="utf-8")
    for split, count in (("train", 6), ("test", 3)):
        sums = [
            {"question": f"What is {n} and {n}?", "answer": f"It is {2 * n}.\n#### {2 * n}"}
            for n in range(count)
        ]
        write_rows(data_dir / "gsm8k" / f"{split}.jsonl", sums)
    write_rows(data_dir / "ifeval" / "input_data.jsonl", list(IFEVAL))
    for split, count in (("train", 3), ("test", 4)):
        write_rows(data_dir / "arc" / "ARC-Easy" / f"{split}.jsonl", [arc_row(n) for n in range(count)])
    write_rows(data_dir / "hellaswag" / "validation.jsonl", [hellaswag_row(n) for n in range(3)])
    for kind, count in (("dev", 5), ("test", 4)):
        write_mmlu_subject(data_dir, "anatomy", kind, count)
    return data_dir


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def write_mmlu_subject(data_dir: Path, subject: str, kind: str, count: int) -> None:
    path = data_dir / "mmlu" / kind / f"{subject}_{kind}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as handle:
        rows = [[f" bone {n}, of {kind}?", "one", f"two {n}", "three", "4", str(n % 4)] for n in range(count)]
        csv.writer(handle).writerows([HEADER, *rows])


def arc_row(number: int) -> dict[str, Any]:
    return {
        "id": f"row-{number}",
        "question": f"Which is number {number}?",
        "choices": {"text": ["a stone", "a leaf", f"a {number}"], "label": ["A", "B", "C"]},
        "answerKey": "ABC"[number % 3],
    }


def hellaswag_row(number: int) -> dict[str, Any]:
    return {
        "ind": number,
        "activity_label": "Making tea",
        "ctx_a": f"A person fills kettle {number}.",
        "ctx_b": "then the person",
        "ctx": f"A person fills kettle {number}. then the person",
        "endings": ["waits.", "sings [title] a song.", "leaves.", "reads the paper."],
        "source_id": "x",
        "split": "val",
        "label": str(number % 4),
    }


def write_bare_punkt(folder: Path) -> Path:
    """NLTK's folder with sentence tables that hold nothing: a sentence ends at every period."""
    tables = folder / "tokenizers" / "punkt_tab" / "english"
    tables.mkdir(parents=True)
    for name in ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt"):
        (tables / name).write_text("")
    return folder
