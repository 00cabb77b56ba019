"""Holds `sixgig eval` against lm-eval by itself, number by number, and writes a receipt.

python benchmarks/evaluation.py --data-dir DATA             the embedded model, a few documents a task
python benchmarks/evaluation.py --data-dir DATA --device cuda --dtype bfloat16 --batch-size 16 \
    --limits wikitext=62,mmlu=20,gsm8k=200,ifeval=100 --num-fewshot mmlu=5      the same on a card

The other side is a process of its own (`evaluation_lm_eval.py`): lm-eval opens the folder by its own model
class and runs its own `simple_evaluate`. Both have the same type, batch size, context and device; then every
metric of every task and document must be the same number. ifeval counts sentences by NLTK's Punkt tables;
`--bare-punkt` has both sides count without tables where they are not here, which compares the two sides and
makes the values of those instructions no result.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from sixgig.catalogue import EMBEDDED
from sixgig.data.corpora import data_dir_from_environment
from sixgig.errors import InputError, NotAvailableError
from sixgig.evaluate.harness import HarnessResult, evaluate_tasks
from sixgig.evaluate.harness_tasks import harness_versions, require_installed, task_of
from sixgig.files import write_json
from sixgig.load.fetch import model_folder
from sixgig.load.loaded import LoadedModel, load
from sixgig.provenance import Provenance, provenance

ROOT = Path(__file__).resolve().parent.parent
AREA, SCHEMA = "evaluation", "sixgig.receipt/1"
CPU_LIMITS = "wikitext=1,gsm8k=1,mmlu=1,ifeval=1"
CHAT = ("ifeval",)  # instructions are asked through the chat template, all else without
PUNKT_TABLES = ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=EMBEDDED, help="a name or a folder")
    parser.add_argument("--data-dir", type=Path, help="benchmark files; else SIXGIG_DATA")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument(
        "--limits", default=CPU_LIMITS, help="documents a task (a subject of MMLU): NAME=N,..."
    )
    parser.add_argument("--num-fewshot", default="", help="other than the task's own: NAME=N,...")
    parser.add_argument("--bare-punkt", action="store_true")
    parser.add_argument("--commit", help="the commit that is measured, where git does not tell")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "receipts")
    arguments = parser.parse_args()
    data_dir = arguments.data_dir or data_dir_from_environment()
    if data_dir is None:
        raise InputError("no data folder", todo="give --data-dir or set SIXGIG_DATA")
    config = {
        name: getattr(arguments, name)
        for name in ("model", "device", "dtype", "batch_size", "max_length", "bare_punkt")
    } | {"limits": _numbers_of(arguments.limits), "num_fewshot": _numbers_of(arguments.num_fewshot)}
    with tempfile.TemporaryDirectory() as folder:
        if arguments.bare_punkt:
            _write_bare_punkt(Path(folder))
            os.environ["NLTK_DATA"] = folder
        origin = provenance([], [])  # before hours of work in which a checkout may change
        path = arguments.out / f"{AREA}-{time.strftime('%Y-%m-%d', time.gmtime())}.json"
        for rows in measure(config, data_dir):  # written after each task, so that a stop loses one at most
            write_json(path, receipt(config, rows, _words(), origin, arguments.commit))
    print(path)


def _words() -> str:
    """The command's own words, but for where things lie on this machine."""
    places = {"--data-dir": "DATA", "--out": "OUT"}
    words = ["", *sys.argv[1:]]
    return " ".join(
        places.get(before) or (Path(word).name if before == "--model" else word)
        for before, word in pairwise(words)
    )


def _numbers_of(text: str) -> dict[str, int]:
    parts = (part.split("=") for part in text.split(",") if part)
    try:
        found = {name: int(number) for name, number in parts}
    except ValueError:
        raise InputError("not one number a task", expected="as in gsm8k=4,mmlu=1", received=text) from None
    for name in found:
        task_of(name)
    return found


def _write_bare_punkt(folder: Path) -> None:
    tables = folder / "tokenizers" / "punkt_tab" / "english"
    tables.mkdir(parents=True)
    for name in PUNKT_TABLES:
        (tables / name).write_text("")


def measure(config: Mapping[str, Any], data_dir: Path) -> Iterator[dict[str, dict[str, Any]]]:
    """Each task's numbers both ways, or why it could not run; all so far, after each task."""
    model = config["model"]
    folder = Path(model) if Path(model).is_dir() else model_folder(model)
    loaded = load(folder, device=config["device"], dtype=getattr(torch, config["dtype"]))
    rows: dict[str, dict[str, Any]] = {}
    for task, limit in config["limits"].items():
        try:
            require_installed([task])
        except NotAvailableError as error:
            rows[task] = {"failed": error.problem}
            print(f"{task}: {error}", file=sys.stderr)
            yield rows
            continue
        rows[task] = _measured(task, limit, loaded, config, data_dir)
        print(json.dumps({task: {key: rows[task][key] for key in ("difference", "seconds")}}), flush=True)
        yield rows


def _measured(
    task: str, limit: int, loaded: LoadedModel, config: Mapping[str, Any], data_dir: Path
) -> dict[str, Any]:
    started = time.monotonic()
    ours = evaluate_tasks(
        loaded,
        [task],
        data_dir=data_dir,
        limit=limit,
        num_fewshot=config["num_fewshot"].get(task),
        chat=task in CHAT,
        batch_size=config["batch_size"],
        max_length=config["max_length"],
    )
    our_seconds = time.monotonic() - started
    settings = {
        "task": task,
        "folder": str(loaded.folder),
        "data_dir": str(data_dir.resolve()),
        "limit": limit,
        "num_fewshot": config["num_fewshot"].get(task),
        "chat": task in CHAT,
        **{name: config[name] for name in ("dtype", "device", "batch_size", "max_length")},
    }
    theirs = _by_itself(settings)
    return compared(ours, theirs) | {
        "seconds": {"sixgig": our_seconds, "lm_eval_with_start": time.monotonic() - started - our_seconds},
        "warnings": list(ours.warnings),
    }


def _by_itself(settings: Mapping[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "settings.json", Path(folder) / "found.json"
        given.write_text(json.dumps(settings), "utf-8")
        script = Path(__file__).with_name("evaluation_lm_eval.py")
        # Own standard output goes to stderr: this script's stdout is one line a task.
        subprocess.run(
            [sys.executable, str(script), str(given), str(found)],
            check=True,
            stdout=sys.stderr,
            env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
        )
        return json.loads(found.read_text("utf-8"))


def compared(ours: HarnessResult, theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The largest difference of a metric, a standard error, a document's metric; and all metrics."""
    results = theirs["results"]
    metrics = {
        f"{score.task}.{score.metric}.{score.filter}": (
            score,
            results[_other_name(score.task)][f"{score.metric},{score.filter}"],
            results[_other_name(score.task)][f"{score.metric}_stderr,{score.filter}"],
        )
        for score in ours.scores
    }
    num_theirs = sum(1 for found in results.values() for key in found if "_stderr" not in key)
    if num_theirs != len(metrics):
        raise InputError("not the same metrics", expected=f"{num_theirs}", received=f"{len(metrics)}")
    return {
        "difference": max(_apart(score.value, value) for score, value, _ in metrics.values()),
        "stderr_difference": max(_apart(score.stderr, value) for score, _, value in metrics.values()),
        "num_stderrs": sum(score.stderr is not None for score, _, _ in metrics.values()),
        "document_difference": _document_difference(ours, theirs),
        "num_documents": len({(row["task"], row["doc_id"]) for row in ours.samples}),
        "metrics": {
            name: {"sixgig": score.value, "lm_eval": value, "n": score.n}
            for name, (score, value, _) in metrics.items()
        },
        "scores": [asdict(score) for score in ours.scores],
        "versions": ours.versions,
    }


def _apart(ours: float | None, theirs: object) -> float:
    """How far two values are from one another: 0 where neither side has one, infinite where one alone has,
    or where one is no number."""
    has_theirs = isinstance(theirs, float | int) and not math.isnan(theirs)  # lm-eval writes "N/A"
    if ours is None or not isinstance(theirs, float | int) or not has_theirs:
        return 0.0 if ours is None and not has_theirs else math.inf
    return abs(ours - theirs) if math.isfinite(ours - theirs) else math.inf


def _other_name(task: str) -> str:
    groups = ("stem", "other", "social_sciences", "humanities")
    return {f"mmlu_{group}": f"mmlu::own_{group}" for group in groups}.get(task, task)


def _document_difference(ours: HarnessResult, theirs: Mapping[str, Any]) -> float:
    """Over all documents' metrics; infinite where prompts or documents differ."""
    largest = 0.0
    left = {(row["task"], row["filter"], row["doc_id"]): row for row in ours.samples}
    rows = [(task, *row) for task, found in theirs["samples"].items() for row in found]
    if len(rows) != len(left):
        return math.inf
    for task, filter_name, doc_id, prompt, values in rows:
        row = left.get((task, filter_name, doc_id))
        if row is None or row["prompt_sha256"] != prompt:
            return math.inf
        pairs = zip(_numbers(list(row["metrics"].values())), _numbers(values), strict=True)
        largest = max([largest, *(_apart(a, b) for a, b in pairs)])
    return largest


def _numbers(value: Any) -> list[float]:
    return (
        [number for part in value for number in _numbers(part)] if isinstance(value, list) else [float(value)]
    )


def receipt(
    config: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, Any]],
    words: str,
    origin: Provenance,
    commit: str | None,
) -> dict[str, Any]:
    """The receipt of what `measure` gave."""
    on_card = config["device"] != "cpu"
    return {
        "schema": SCHEMA,
        "area": AREA,
        "command": f"python benchmarks/evaluation.py {words}".strip(),
        "date": origin.date_utc[:10],
        "commit": commit or origin.commit,
        "device": {"name": torch.cuda.get_device_name(config["device"]) if on_card else "cpu"},
        "versions": origin.library_versions | harness_versions() | {"python": origin.python_version},
        "config": dict(config)
        | {
            "model": Path(config["model"]).name,
            "chat": list(CHAT),
            "source_sha256": origin.source_sha256,
            "dirty": origin.dirty,
        },
        "figures": figures(rows),
        "raw": {"rows": {task: dict(row) for task, row in rows.items()}},
    }


def figures(rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The largest difference of all, then each task's: metrics, standard errors and documents together."""
    ran = {task: row for task, row in rows.items() if "failed" not in row}
    found = [_figure(f"lm_eval_max_abs_difference_{task}", [row]) for task, row in ran.items()]
    failed = [
        _row(f"lm_eval_max_abs_difference_{task}", None, 0, None, str(row["failed"]))
        for task, row in rows.items()
        if "failed" in row
    ]
    return [_figure("lm_eval_max_abs_difference", list(ran.values())), *found, *failed]


def _figure(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    kinds = ("difference", "stderr_difference", "document_difference")
    value = max((row[kind] for row in rows for kind in kinds), default=None)
    num_metrics = sum(len(row["metrics"]) for row in rows)
    num_stderrs = sum(row["num_stderrs"] for row in rows)
    note = f"{num_metrics} metrics, {num_stderrs} standard errors, and each document's values"
    if value is not None and math.isinf(value):
        return _row(name, None, 0, False, "the two sides differ in what they asked or in what has a value")
    return _row(name, value, sum(row["num_documents"] for row in rows), value == 0, note)


def _row(name: str, value: float | None, n: int, met: bool | None, note: str) -> dict[str, Any]:
    return {
        "name": name,
        "value": value,
        "unit": "",
        "low": None,
        "high": None,
        "n": n,
        "target": "at most 0",
        "met": met,
        "note": note,
    }


if __name__ == "__main__":
    main()
