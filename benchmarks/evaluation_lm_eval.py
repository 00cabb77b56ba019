"""lm-eval by itself on one task: its own model class, its own loading, its own simple_evaluate, no sixgig.

python benchmarks/evaluation_lm_eval.py SETTINGS.json OUT.json      as benchmarks/evaluation.py calls it

Benchmark files become JSON lines by code of this file, and are read by `datasets` with the types that it
guesses: what evaluation.py compares with shares neither readers nor schemas with it.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        # Read when datasets is imported, which lm-eval does.
        os.environ["HF_DATASETS_CACHE"] = str(Path(folder) / "cache")
        found = evaluated(settings, Path(folder))
    Path(sys.argv[2]).write_text(json.dumps(found, default=str), "utf-8")


def evaluated(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """lm-eval's results, and each document's metrics, by task."""
    # As Any, so that types are checked alike with the extra installed and without.
    lm_eval: Any = import_module("lm_eval")
    TaskManager: Any = import_module("lm_eval.tasks").TaskManager

    # Files in a folder of one's own go before lm-eval's, as by --include_path on its command line.
    over_files(settings["task"], Path(settings["data_dir"]), folder, TaskManager())
    manager = TaskManager(include_path=str(folder))
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={
            "pretrained": settings["folder"],
            "dtype": settings["dtype"],
            "max_length": settings["max_length"],
        },
        tasks=[settings["task"]],
        task_manager=manager,
        device=settings["device"],
        batch_size=settings["batch_size"],
        limit=settings["limit"],
        num_fewshot=settings["num_fewshot"],
        apply_chat_template=settings["chat"],
    )
    assert found is not None, "one process has rank 0"
    return {
        "results": {
            task: {key: value for key, value in metrics.items() if "," in key}
            for task, metrics in found["results"].items()
        },
        "samples": {
            task: [
                [row["filter"], row["doc_id"], row["prompt_hash"], [row[name] for name in row["metrics"]]]
                for row in rows
            ]
            for task, rows in found["samples"].items()
        },
    }


def over_files(task: str, data_dir: Path, folder: Path, manager: Any) -> None:
    """Writes lm-eval's task to `folder` with nothing overridden but where its data lies."""
    if task == "mmlu":
        _mmlu(data_dir, folder, manager)
        return
    if task == "wikitext":
        path = folder / "wikitext.jsonl"
        text = (data_dir / "wikitext2" / "wiki.test.raw").read_text("utf-8")
        path.write_text("\n".join(json.dumps({"page": page}) for page in _pages(text)), "utf-8")
        files = {split: str(path) for split in ("train", "validation", "test")}
    elif task.startswith("gsm8k"):
        files = {split: str(data_dir / "gsm8k" / f"{split}.jsonl") for split in ("train", "test")}
    else:
        files = {"train": str(data_dir / "ifeval" / "input_data.jsonl")}
    _overriding(task, files, folder, manager)


def _overriding(task: str, files: dict[str, str], folder: Path, manager: Any) -> None:
    content = {
        "include": str(manager.task_index[task].yaml_path),
        "task": task,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
    }
    (folder / f"{task}.yaml").write_text(yaml.safe_dump(content), "utf-8")


def _pages(text: str) -> list[str]:
    lines = text.split("\n")
    words = [line.replace("= = =", "===").replace("= =", "==").strip() for line in lines]
    starts = [place for place, line in enumerate(words) if line.startswith("= ") and line.endswith(" =")]
    return ["\n".join(lines[a:b]) for a, b in zip(starts, [*starts[1:], len(lines)], strict=True)]


def _mmlu(data_dir: Path, folder: Path, manager: Any) -> None:
    """The group as lm-eval nests it: four groups, each with its own subjects in lm-eval's order."""
    groups = []
    for group in ("stem", "other", "social_sciences", "humanities"):
        subjects = sorted(manager.task_index[f"mmlu_{group}_tasks"].tags)
        own = yaml.safe_load(Path(manager.task_index[f"mmlu_{group}"].yaml_path).read_text("utf-8"))
        tasks = [{"task": name, **_mmlu_files(name, data_dir, folder)} for name in subjects]
        groups.append({**own, "group": f"own_{group}", "task": tasks})
    whole = yaml.safe_load(Path(manager.task_index["mmlu"].yaml_path).read_text("utf-8"))
    (folder / "mmlu.yaml").write_text(yaml.safe_dump({**whole, "task": groups}), "utf-8")


def _mmlu_files(task: str, data_dir: Path, folder: Path) -> dict[str, Any]:
    subject, files = task.removeprefix("mmlu_"), {}
    for split in ("dev", "test"):
        with (data_dir / "mmlu" / split / f"{subject}_{split}.csv").open(
            encoding="utf-8", newline=""
        ) as file:
            rows = [
                {
                    "question": row["question"],
                    "choices": [row[f"choice{number}"] for number in range(4)],
                    "answer": int(row["answer"]),
                }
                for row in csv.DictReader(file)
            ]
        path = folder / f"{subject}_{split}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
        files[split] = str(path)
    return {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files}}


if __name__ == "__main__":
    main()
