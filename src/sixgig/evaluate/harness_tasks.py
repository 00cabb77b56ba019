"""The tasks of lm-eval that are offered: which data each reads, what guessing gets, what it needs installed.

Prompts, filters and metrics are lm-eval's own; nothing of them is here. Revisions of hub data sets are pinned
where they are known; without one the newest is asked for, and its commit is told and kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

from ..errors import InputError, NotAvailableError, UnknownNameError
from . import mmlu_tasks

INSTALL = "pip install 'sixgig[eval]'"
PUNKT = "tokenizers/punkt_tab"


@dataclass(frozen=True, kw_only=True)
class HarnessTask:
    """`benchmark` names the files (`data.benchmarks`), `repo` and `revision` the hub's data set.

    `floor` is what guessing gets on its accuracies, None where nobody knows. `modules` are what the task
    imports beside lm-eval itself. `num_shots` examples are in its prompt unless others are asked for, drawn
    from the split `shots_from`; None where they stand in the task itself.
    """

    benchmark: str
    repo: str
    revision: str | None
    floor: float | None
    modules: tuple[str, ...] = ()
    num_shots: int = 0
    shots_from: str | None = None


_GSM8K = HarnessTask(
    benchmark="gsm8k",
    repo="openai/gsm8k",
    revision="740312add88f781978c0658806c59bc2815b9866",
    floor=0.0,
    num_shots=5,
    shots_from="train",
)
_MMLU = HarnessTask(
    benchmark="mmlu",
    repo="cais/mmlu",
    revision="c30699e8356da336a370243923dbaf21066bb9fe",
    floor=0.25,
    shots_from="dev",
)
_ARC = HarnessTask(
    benchmark="arc",
    repo="allenai/ai2_arc",
    revision="210d026faf9955653af8916fad021475a3f00453",
    floor=0.25,
    shots_from="train",
)
TASKS: dict[str, HarnessTask] = {
    "wikitext": HarnessTask(
        benchmark="wikitext",
        repo="EleutherAI/wikitext_document_level",
        revision=None,
        floor=None,
        shots_from="train",
    ),
    "ifeval": HarnessTask(
        benchmark="ifeval",
        repo="google/IFEval",
        revision="966cd89545d6b6acfd7638bc708b98261ca58e84",
        floor=None,
        modules=("langdetect", "immutabledict", "nltk"),
    ),
    "gsm8k": _GSM8K,
    "gsm8k_cot": HarnessTask(
        benchmark="gsm8k",
        repo=_GSM8K.repo,
        revision=_GSM8K.revision,
        floor=0.0,
        num_shots=8,
    ),
    "mmlu": _MMLU,
    "arc_easy": _ARC,
    "arc_challenge": _ARC,
    "hellaswag": HarnessTask(
        benchmark="hellaswag",
        repo="Rowan/hellaswag",
        revision="218ec52e09a7e7462a5400043bb9a69a41d06b76",
        floor=0.25,
        shots_from="train",
    ),
}


def task_of(name: str) -> HarnessTask:
    """The entry of a task, or of one of MMLU's subjects and groups (`mmlu_anatomy`, `mmlu_stem`).

    Raises UnknownNameError with the nearest names.
    """
    if name in TASKS:
        return TASKS[name]
    if name not in mmlu_tasks.NAMES:
        known = mmlu_tasks.NAMES if name.startswith("mmlu") else (*TASKS, "mmlu_SUBJECT")
        raise UnknownNameError("task", name, known, where="--tasks")
    return _MMLU


def check_tasks(names: Sequence[str]) -> None:
    """Raises InputError for no task or one named twice, and as `task_of`."""
    if not names or len(set(names)) != len(names):
        raise InputError(
            "tasks are named once each, and at least one",
            expected=f"of {', '.join(TASKS)}, separated by commas",
            received=", ".join(names) or "none",
        )
    for name in names:
        task_of(name)


def check_sizes(limit: int | None, num_fewshot: int | None, max_length: int | None) -> None:
    """Raises InputError naming the first that is too small; None is always well."""
    least = {"limit": (limit, 1), "num_fewshot": (num_fewshot, 0), "max_length": (max_length, 2)}
    for name, (value, low) in least.items():
        if value is not None and value < low:
            raise InputError(f"{name} is too small", expected=f"{low} or more", received=str(value))


def require_installed(names: Sequence[str]) -> None:
    """Raises NotAvailableError, with the command that mends it, for what a task imports and is not here."""
    wanted = ["lm_eval", "datasets", *(module for name in names for module in task_of(name).modules)]
    missing = [module for module in dict.fromkeys(wanted) if find_spec(module) is None]
    if missing:
        raise NotAvailableError(
            f"{', '.join(names)}: {', '.join(missing)} not installed",
            expected="lm-eval with what its tasks import",
            todo=INSTALL,
        )
    if "ifeval" in names:
        _require_punkt()


def _require_punkt() -> None:
    """lm-eval's ifeval counts sentences and words by NLTK's Punkt, and downloads it unasked where it can."""
    import nltk  # pyright: ignore[reportMissingImports]

    try:
        nltk.data.find(PUNKT)
    except LookupError as error:
        raise NotAvailableError(
            "ifeval needs NLTK's sentence boundaries (punkt_tab), which lm-eval does not bring",
            expected=f"{PUNKT}/ in a folder that NLTK searches",
            received="none in its folders nor in NLTK_DATA",
            todo="python -m nltk.downloader punkt_tab; offline, copy tokenizers/punkt_tab from "
            "another machine and name the folder above tokenizers/ in NLTK_DATA",
        ) from error


def harness_versions() -> dict[str, str]:
    """Versions of what decides lm-eval's numbers beside the model."""
    return {name: metadata.version(name) for name in ("lm_eval", "datasets", "transformers", "torch")}
