"""A benchmark's rows as a folder that `datasets` opens like one of the hub's, and lm-eval's task over it.

Only where the data lies is overridden (`dataset_path`, and the place of its cache), and a split of training
or validation rows that has no file is taken out: the task keeps its own parts, prompts, filters and metrics.
Parquet with a written schema is what the hub holds too; types guessed from JSON would depend on the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ..data.benchmark_fields import Optional
from ..data.benchmarks import Benchmark
from ..errors import InputError, NotAvailableError
from .harness_tasks import HarnessTask, task_of
from .mmlu_tasks import subjects_of


def write_dataset(benchmark: Benchmark, folder: Path) -> Path:
    """Writes the rows as Parquet with a card that names every part and split; returns `folder`."""
    import pyarrow as pa  # pyright: ignore[reportMissingImports]
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    schema = pa.schema([(name, _arrow(shape)) for name, shape in benchmark.shape.items()])
    configs = []
    for config, splits in benchmark.splits.items():
        (folder / config).mkdir(parents=True)
        files = []
        for split, rows in splits.items():
            path = folder / config / f"{split}.parquet"
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
            files.append({"split": split, "path": path.relative_to(folder).as_posix()})
        configs.append({"config_name": config, "data_files": files})
    card = yaml.safe_dump({"configs": configs}, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{card}---\n", encoding="utf-8")
    return folder


def _arrow(shape: Any) -> Any:
    import pyarrow as pa  # pyright: ignore[reportMissingImports]

    if isinstance(shape, Optional):
        return _arrow(shape.shape)
    if isinstance(shape, dict):
        return pa.struct([(name, _arrow(part)) for name, part in shape.items()])
    if isinstance(shape, list):
        return pa.list_(_arrow(shape[0]))
    return {str: pa.string(), int: pa.int64()}[shape]


def over_local_data(name: str, manager: Any, benchmark: Benchmark, folder: Path) -> Any:
    """lm-eval's task `name`, loaded, over the benchmark's rows, which are written to `folder`."""
    dataset = write_dataset(benchmark, folder / "data")
    changes = {"dataset_path": str(dataset), "dataset_kwargs": {"cache_dir": str(folder / "cache")}}
    return _overridden(name, manager, folder, changes | absent_splits(benchmark))


def absent_splits(benchmark: Benchmark) -> dict[str, None]:
    """The task's fields for splits that no file gives. Examples come from them, `check_parts` sees that none
    are wanted; documents never do."""
    keys = {"train": "training_split", "validation": "validation_split"}
    return {key: None for split, key in keys.items() if not benchmark.num_rows(split)}


def over_hub_data(name: str, manager: Any, revision: str, folder: Path) -> Any:
    """The same over the hub's data at `revision`; `datasets` keeps it where it keeps all of the hub's."""
    return _overridden(name, manager, folder, {"dataset_kwargs": {"revision": revision}})


def _overridden(name: str, manager: Any, folder: Path, changes: Mapping[str, Any]) -> Any:
    """The task by its own name, its file in lm-eval's index replaced meanwhile by one that includes it.

    A dictionary or a path in the name's place would do for tasks; for groups lm-eval takes neither rightly.
    """
    entry = manager.task_index[name]
    own = Path(entry.yaml_path)
    if name in manager.all_groups:
        # A group's file includes none and has no functions in it; what is no field of a group goes down to
        # its tasks.
        content = yaml.safe_load(own.read_text("utf-8"))
    else:
        content = {"include": str(own), "task": name}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}), "utf-8")
    manager.task_index[name] = replace(entry, yaml_path=path)
    try:
        return manager.load([name])
    finally:
        manager.task_index[name] = entry


def check_parts(name: str, benchmark: Benchmark, num_fewshot: int | None) -> None:
    """Raises where the files lack a part that the task reads, or the examples that its prompt needs."""
    task = task_of(name)
    parts = {"arc_easy": ("ARC-Easy",), "arc_challenge": ("ARC-Challenge",)}.get(
        name, tuple(benchmark.splits)
    )
    if task.benchmark == "mmlu":
        parts = subjects_of(name)
    missing = [part for part in parts if part not in benchmark.splits]
    if missing:
        raise NotAvailableError(
            f"{name}: the files of {', '.join(missing[:3])}{' and others' if len(missing) > 3 else ''} are "
            "not here",
            expected=f"{len(parts)} parts of {benchmark.name}",
            received=f"{len(parts) - len(missing)} of them",
            todo="add the files; `sixgig eval --help` and docs/evaluation.md name them",
        )
    _check_shots(name, task, benchmark, parts, num_fewshot)


def _check_shots(
    name: str, task: HarnessTask, benchmark: Benchmark, parts: tuple[str, ...], num_fewshot: int | None
) -> None:
    wanted = task.num_shots if num_fewshot is None else num_fewshot
    if task.shots_from is None or not wanted:
        return
    available = min(len(benchmark.splits[part].get(task.shots_from, ())) for part in parts)
    if available < wanted:
        raise InputError(
            f"{name}: not enough examples for its prompts",
            expected=f"{wanted} rows in the split {task.shots_from}",
            received=str(available),
            todo="ask for fewer by --num-fewshot, or add the file of that split",
        )
