"""lm-eval's own tasks on a loaded model, whole or split: its prompts, filters and metrics, no second ones.

Each task is one call of lm-eval, so that its numbers do not depend on which others were asked for: requests
of all tasks of a call are batched together, and a batch's width moves the last digits.

Equals, to the digit, `lm_eval.simple_evaluate(model="hf", tasks=[task], ...)` on the same weights, type,
batch size and data (`benchmarks/evaluation.py` holds the two against one another).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.benchmarks import Benchmark, load_benchmark
from ..errors import InputError
from ..load.loaded import LoadedModel
from .harness_data import check_parts, over_hub_data, over_local_data
from .harness_hub import hub_revision
from .harness_tasks import check_sizes, check_tasks, harness_versions, require_installed, task_of

# simple_evaluate's own seeds.
_PYTHON_SEED, _OTHER_SEED = 0, 1234
_BOOTSTRAP_DRAWS = 100_000  # its default, for the standard errors of metrics that are no means
_LONGEST_TARGET = 2000  # characters; a longer one, such as a whole document, is known by its digest


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """One metric of one task, subject or group, as lm-eval gives it. `stderr` None: it gives none.

    `n` counts documents. `floor` is what guessing gets, None where nobody knows.
    """

    task: str
    metric: str
    filter: str
    value: float
    stderr: float | None
    n: int
    floor: float | None
    higher_is_better: bool


@dataclass(frozen=True, kw_only=True)
class HarnessResult:
    """`samples` has one row a document and filter: ids, digests, answer, target, and each metric's value.

    A row's `tasks` are all tasks and groups whose scores it counts for. `warnings` are lm-eval's own, such as
    of prompts that were cut.
    """

    scores: tuple[TaskScore, ...]
    samples: tuple[dict[str, Any], ...]
    versions: dict[str, str]
    warnings: tuple[str, ...] = ()


def evaluate_tasks(
    loaded: LoadedModel,
    tasks: Sequence[str],
    *,
    data_dir: Path | None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    chat: bool = False,
    batch_size: int | str = 8,
    max_length: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
    announce: Callable[[str], None] = lambda message: None,
) -> HarnessResult:
    """Runs each of `tasks` on the model at the alpha it stands at.

    `data_dir` None takes the data from the hub, told to `announce` beforehand. `limit` takes the first
    documents of each task (of each subject of MMLU). `max_length` in tokens; by default the model's own.
    Raises:
        NotAvailableError: lm-eval, what a task imports, or the data is not here.
        InputError: a benchmark's file is faulty, or `chat` is asked of a model without chat template.
    """
    check_tasks(tasks)
    check_sizes(limit, num_fewshot, max_length)
    require_installed(tasks)
    if chat:
        require_chat_template(loaded.tokenizer, loaded.folder)
    found: list[HarnessResult] = []
    for place, name in enumerate(tasks):
        # torch.inference_mode would be quicker on small models, but lm-eval computes without it.
        found.append(
            _evaluate_one(
                loaded,
                name,
                data_dir=data_dir,
                options={"limit": limit, "num_fewshot": num_fewshot, "chat": chat},
                model_options={"batch_size": batch_size, "max_length": max_length},
                progress=lambda share, place=place: progress((place + share) / len(tasks)),
                announce=announce,
            )
        )
    return HarnessResult(
        scores=tuple(score for one in found for score in one.scores),
        samples=tuple(sample for one in found for sample in one.samples),
        versions={key: value for one in found for key, value in one.versions.items()},
        warnings=tuple(dict.fromkeys(warning for one in found for warning in one.warnings)),
    )


def require_chat_template(tokenizer: Any, folder: Path) -> None:
    """Raises InputError where the tokenizer, of `folder`, has no chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            "this model has no chat template",
            where=str(folder),
            todo="leave out --chat, or evaluate the model's instruction-tuned variant",
        )


def _evaluate_one(
    loaded: LoadedModel,
    name: str,
    *,
    data_dir: Path | None,
    options: Mapping[str, Any],
    model_options: Mapping[str, Any],
    progress: Callable[[float], None],
    announce: Callable[[str], None],
) -> HarnessResult:
    benchmark = None if data_dir is None else load_benchmark(task_of(name).benchmark, data_dir)
    with (
        _quiet() as warnings,
        _own_randomness(),
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as at,
    ):
        from .harness_model import harness_lm

        manager = _task_manager()
        tasks, revision = _loaded_task(name, benchmark, manager, Path(at), options["num_fewshot"], announce)
        _set_shots(tasks["tasks"], options["num_fewshot"])
        model = harness_lm(loaded, progress=progress, announce=announce, **model_options)
        _check_room(name, tasks["tasks"], model)
        from lm_eval.evaluator import evaluate  # pyright: ignore[reportMissingImports]

        # What simple_evaluate adds to this call are facts of the machine, gathered by asking pip and git.
        found: Any = evaluate(
            lm=model,
            task_dict=tasks,
            limit=options["limit"],
            bootstrap_iters=_BOOTSTRAP_DRAWS,
            log_samples=True,
            apply_chat_template=options["chat"],
            fewshot_as_multiturn=True,
        )
        assert found is not None, "rank 0 has the results"
        versions = harness_versions() | {
            f"task {key}": str(value) for key, value in found["versions"].items()
        }
        return HarnessResult(
            scores=tuple(_scores(found, task_of(name).floor)),
            samples=tuple(_samples(found)),
            versions=versions | ({f"data {task_of(name).repo}": revision} if revision else {}),
            warnings=tuple(warnings),
        )


@functools.cache
def _task_manager() -> Any:
    """lm-eval's index of its tasks; reading its thousands of files takes seconds."""
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    return TaskManager()


def _check_room(name: str, tasks: Mapping[str, Any], model: Any) -> None:
    """Raises InputError where an answer alone would fill what the model reads."""
    for task in tasks.values():
        if task.get_config("output_type") != "generate_until":
            continue
        longest = (task.get_config("generation_kwargs") or {}).get("max_gen_toks", model.max_gen_toks)
        if longest >= model.max_length:
            raise InputError(
                f"{name}: its answers may be as long as all that the model reads",
                expected=f"a context of more than {longest} tokens",
                received=f"{model.max_length}",
                todo="take a model with a longer context, or raise --max-length where it has one",
            )


def _loaded_task(
    name: str,
    benchmark: Benchmark | None,
    manager: Any,
    folder: Path,
    num_fewshot: int | None,
    announce: Callable[[str], None],
) -> tuple[Any, str | None]:
    """lm-eval's task over its data, and the data's revision where it is the hub's."""
    if benchmark is None:
        revision = hub_revision(task_of(name), announce)
        return over_hub_data(name, manager, revision, folder), revision
    check_parts(name, benchmark, num_fewshot)
    return over_local_data(name, manager, benchmark, folder), None


def _set_shots(tasks: Mapping[str, Any], num_fewshot: int | None) -> None:
    """simple_evaluate's rule: a task that fixes 0 keeps it, one that fixes nothing has none by default."""
    for task in tasks.values():
        own = task.get_config("num_fewshot")
        if num_fewshot is not None and own != 0:
            task.set_config(key="num_fewshot", value=num_fewshot)
        elif own is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=_OTHER_SEED)


def _scores(found: Mapping[str, Any], floor: float | None) -> Iterator[TaskScore]:
    """Every metric of every task and group; a group's documents are those of its tasks."""
    leaves = _leaves(found)
    for task, results in found["results"].items():
        better = found["higher_is_better"].get(task, {})
        n = sum(found["n-samples"][leaf]["effective"] for leaf in leaves[task])
        for key, value in results.items():
            metric, comma, filter_name = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            stderr = results.get(f"{metric}_stderr,{filter_name}")
            yield TaskScore(
                task=task,
                metric=metric,
                filter=filter_name,
                value=float(value),
                stderr=float(stderr) if isinstance(stderr, (int, float, np.number)) else None,
                n=n,
                floor=floor,
                higher_is_better=bool(better.get(metric, True)),
            )


def _leaves(found: Mapping[str, Any]) -> dict[str, list[str]]:
    """The tasks with documents of their own below each task and group."""
    children = found["group_subtasks"]

    def below(task: str) -> list[str]:
        return [leaf for child in children[task] for leaf in below(child)] if children.get(task) else [task]

    return {task: below(task) for task in found["results"]}


def _samples(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    leaves = _leaves(found)
    for task, rows in found["samples"].items():
        tasks = [name for name, below in leaves.items() if task in below]
        for row in rows:
            target = _plain(row["target"])
            yield {
                "task": task,
                "tasks": tasks,
                "filter": row["filter"],
                "doc_id": row["doc_id"],
                "doc_sha256": row["doc_hash"],
                "prompt_sha256": row["prompt_hash"],
                "response": _plain(row["resps"]),
                "filtered": _plain(row["filtered_resps"]),
                "target_sha256": row["target_hash"],
                "target": target if len(str(target)) <= _LONGEST_TARGET else None,
                "metrics": {metric: _plain(row[metric]) for metric in row["metrics"]},
            }


def _plain(value: Any) -> Any:
    """`value` of JSON's own types alone."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


@contextlib.contextmanager
def _own_randomness() -> Iterator[None]:
    """simple_evaluate's seeds, and afterwards the generators as they were, the cards' too."""
    # Cards that this process has not touched have no generator yet, and asking for one would take memory.
    cards = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=cards, device_type="cuda"):
        random.seed(_PYTHON_SEED)
        np.random.seed(_OTHER_SEED)
        torch.manual_seed(_OTHER_SEED)
        try:
            yield
        finally:
            random.setstate(state[0])
            np.random.set_state(state[1])


class _Kept(logging.Handler):
    """Keeps what a reader of the numbers must know, and passes over lm-eval's remarks on its own defaults."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if any(word in text.lower() for word in ("truncat", "exceed", "longer than", "not scored")):
            self.messages[text.split(". ")[0]] = None


@contextlib.contextmanager
def _quiet() -> Iterator[dict[str, None]]:
    """lm-eval's prints go to stderr, its and datasets' bars nowhere; what it warns of is gathered."""
    import datasets  # pyright: ignore[reportMissingImports]

    logger, kept = logging.getLogger("lm_eval"), _Kept()
    propagates, shown = logger.propagate, datasets.is_progress_bar_enabled()
    logger.addHandler(kept)
    logger.propagate = False
    datasets.disable_progress_bars()
    try:
        with contextlib.redirect_stdout(sys.stderr), _without_bars():
            yield kept.messages
    finally:
        logger.removeHandler(kept)
        logger.propagate = propagates
        if shown:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """The bar with which lm-eval counts a task's prompts: 57 of them for MMLU."""
    from lm_eval.api import task  # pyright: ignore[reportMissingImports]

    shown = task.tqdm
    task.tqdm = lambda items, **options: items
    try:
        yield
    finally:
        task.tqdm = shown
