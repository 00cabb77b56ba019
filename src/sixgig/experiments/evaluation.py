"""`sixgig eval`: lm-eval's tasks on one model at one alpha; a stage a task, kept as any run is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.benchmarks import Benchmark, load_benchmark
from ..errors import InputError
from ..evaluate.harness import evaluate_tasks, require_chat_template
from ..evaluate.harness_data import check_parts
from ..evaluate.harness_tasks import require_installed, task_of
from ..hardware import probe
from ..layers.split_linear import set_alpha
from ..load.artifact import is_base, is_split, open_base, open_split
from ..load.artifact_format import ORTHO
from ..load.fetch import model_folder
from ..load.loaded import LoadedModel, load, load_tokenizer
from ..memory.ladder import Fallbacks
from ..provenance import DataSource, provenance
from ..report.schema import Memory, Result
from ..report.store import RunDirectory
from .evaluation_config import EvaluationConfig
from .evaluation_files import subject_files
from .evaluation_scores import EvaluationScores, joined, samples
from .governed import begin, governed
from .kill_switch_files import WorkFiles
from .origin import device_name
from .progress import RunProgress
from .run import Finished
from .settings import as_plain
from .stages import StageRunner, teller, told_fallbacks

NAME = "eval"


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """One evaluation as asked for; `device` is settled, `data_dir` None means the hub."""

    config: EvaluationConfig
    device: str
    data_dir: Path | None
    out: Path = Path("runs")
    resume: bool = False
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is evaluated: the model at its alpha, under which name; alpha None where there is no switch."""

    loaded: LoadedModel
    arm: str
    alpha: float | None


def run_evaluation(
    request: EvaluationRequest, announce: Callable[[str], None] = lambda message: None
) -> Finished:
    """Evaluates, or goes on with an interrupted run of the same model, settings and data; writes the report.

    Raises before anything is loaded or written: what is not installed, files that are missing or faulty,
    examples or a chat template that are asked for and not there.
    """
    config = request.config
    require_installed(config.tasks)
    sources = local_sources(config.tasks, request.data_dir, config.num_fewshot)
    files = subject_files(config.model)
    if config.chat:
        require_chat_template(load_tokenizer(files.folder), files.folder)
    identity = as_plain(config) | {"model": files.name, "model_sha256": files.digests}
    with _directory(request, identity, sources) as directory:
        if directory.result_path.exists():
            result = Result.read(directory.result_path)
        else:
            result = governed(
                directory,
                request.device,
                lambda device, memory_text: _evaluate(request, directory, sources, memory_text, announce),
                resumed=request.resume,
                sources=sources,
                # No path, and the content in its place, so that a result says which model it is of.
                shown=identity,
            )
        return Finished(result=result, folder=directory.path, report=directory.path / "report.html")


def open_subject(model: str, *, alpha: float | None, dtype: str, device: str) -> Subject:
    """The model by name or folder, its switch turned. Raises InputError for an alpha that it cannot have."""
    folder = Path(model)
    if is_base(folder) or is_split(folder):
        return _open_split(folder, alpha, torch.float32 if dtype == "auto" else getattr(torch, dtype), device)
    if alpha:
        raise InputError(
            "this model is not split: it has no Ortho part, so alpha cannot be raised",
            received=f"alpha={alpha:g}",
            where=model,
            todo="leave out --alpha, or name a split",
        )
    kind = "auto" if dtype == "auto" else getattr(torch, dtype)
    return Subject(loaded=load(model_folder(model), device=device, dtype=kind), arm="eval-model", alpha=None)


def _open_split(folder: Path, alpha: float | None, dtype: torch.dtype, device: str) -> Subject:
    has_ortho = is_split(folder) and (folder / ORTHO).exists()
    chosen = alpha if alpha is not None else 1.0 if has_ortho else 0.0
    if is_base(folder):
        loaded = open_base(folder, device=device, dtype=dtype)
    else:
        loaded = open_split(folder, device=device, with_ortho=has_ortho, dtype=dtype)
    set_alpha(loaded.network, chosen)
    return Subject(loaded=loaded, arm="eval-split" if has_ortho else "eval-base", alpha=chosen)


def local_sources(tasks: Sequence[str], data_dir: Path | None, num_fewshot: int | None) -> list[DataSource]:
    """The files that the tasks read, each row checked; none where the data comes from the hub.

    Raises as `load_benchmark`, and where a part or examples that a task needs are in no file.
    """
    if data_dir is None:
        return []
    found: dict[str, Benchmark] = {}
    for task in tasks:
        name = task_of(task).benchmark
        if name not in found:
            found[name] = load_benchmark(name, data_dir)
        check_parts(task, found[name], num_fewshot)
    return [source for benchmark in found.values() for source in benchmark.sources]


def _directory(
    request: EvaluationRequest, identity: dict[str, Any], sources: Sequence[DataSource]
) -> RunDirectory:
    # Model and files decide the numbers too, so a resume with others is refused like other settings.
    config = identity | {
        "experiment": NAME,
        "device": request.device,
        "data": {source.name: source.revision_or_sha256 for source in sources} or "hub",
    }
    return begin(request.out, NAME, config, resume=request.resume)


def _evaluate(
    request: EvaluationRequest,
    run: RunDirectory,
    sources: Sequence[DataSource],
    memory_text: Callable[[], str],
    announce: Callable[[str], None],
) -> tuple[Result, list[dict[str, Any]]]:
    config, device = request.config, torch.device(request.device)
    progress = RunProgress(dict.fromkeys(config.tasks, 1.0), quiet=request.quiet, memory=memory_text)
    fallbacks = Fallbacks(teller(run, lambda: progress), run.log, device=device, folder=run.path)
    subject = fallbacks.stage(
        "loading the model",
        lambda: open_subject(config.model, alpha=config.alpha, dtype=config.dtype, device=request.device),
    )

    def stage(task: str) -> dict[str, Any]:
        found = evaluate_tasks(
            subject.loaded,
            [task],
            data_dir=request.data_dir,
            limit=config.limit,
            num_fewshot=config.num_fewshot,
            chat=config.chat,
            batch_size=config.batch_size,
            max_length=config.max_length,
            progress=progress.at,
            announce=announce,
        )
        return asdict(found)

    with progress:
        runner = StageRunner(run, device, progress, fallbacks, WorkFiles(run.work_path))
        kept = runner.go({task: (1.0, lambda task=task: stage(task)) for task in config.tasks})
    scores = EvaluationScores(kept, arm=subject.arm, alpha=subject.alpha)
    versions = {key: value for task in kept.values() for key, value in task["versions"].items()}
    name = device_name(device, probe())
    origin = asdict(provenance([], [*sources, *_hub_sources(kept, versions)], device_name=name))
    return Result(
        experiment=NAME,
        status="complete",
        config=as_plain(config),
        provenance=origin | {"evaluation_versions": versions},
        plan={},
        memory=Memory(planned_peak_bytes=None, measured_peak_bytes=runner.peak_bytes),
        timings={**runner.seconds, "whole_run": run.seconds()},
        scores=scores.all(),
        verdicts=scores.verdicts(),
        warnings=list(
            dict.fromkeys([*run.notices, *told_fallbacks(run), *joined(kept, "warnings"), *scores.warnings()])
        ),
    ), list(samples(kept, arm=subject.arm, alpha=subject.alpha))


def _hub_sources(kept: dict[str, dict[str, Any]], versions: dict[str, str]) -> list[DataSource]:
    found: dict[str, DataSource] = {}
    for task, value in kept.items():
        repo = task_of(task).repo
        if f"data {repo}" in versions:
            num_rows = max((score["n"] for score in value["scores"]), default=0)
            found[repo] = DataSource(
                name=repo, revision_or_sha256=versions[f"data {repo}"], num_rows=num_rows, synthetic=False
            )
    return list(found.values())
