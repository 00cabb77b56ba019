"""Saving the genius: does a skill survive aggressive rounding when a small part of the weights is kept whole?

A skill is planted in a model (or, with GSM8K, is there already). The model is rounded to few bits, and an
Ortho part of a few of its rounding errors is put back: those that a score says matter to the skill, or as
many drawn at random. Every arm answers the same questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..hardware import Hardware
from ..load.loaded import LoadedModel, load
from ..memory.ladder import Fallbacks
from ..provenance import provenance
from ..report.schema import Memory, Result
from ..report.store import RunDirectory
from .origin import device_name, own_text_notes, require_same_data
from .progress import RunProgress
from .saving_genius_config import SavingGeniusConfig
from .saving_genius_curves import curves
from .saving_genius_names import Arm, arm_names
from .saving_genius_scores import GeniusScores, Look
from .saving_genius_seed import GeniusSeed
from .saving_genius_tasks import Addition, Gsm8k, Task
from .saving_genius_texts import PublicTexts, read_public_texts
from .saving_genius_verdicts import MIN_GSM8K, is_learned, verdicts
from .settings import as_plain
from .split_rows import FULL
from .stages import StageRunner, teller, told_fallbacks


def run_saving_genius(
    config: SavingGeniusConfig,
    run: RunDirectory,
    *,
    folder: Path,
    device: torch.device,
    data_dir: Path | None,
    hardware: Hardware,
    plan: Mapping[str, Any],
    quiet: bool = False,
    memory_text: Callable[[], str] = lambda: "",
) -> tuple[Result, list[dict[str, Any]]]:
    """Runs (or goes on with) the experiment in `run`; returns the result and the per-example samples.

    Raises InputError where a model solves next to nothing of GSM8K in full precision.
    """
    shown = RunProgress({}, quiet=quiet)
    fallbacks = Fallbacks(teller(run, lambda: shown), run.log, device=device, folder=run.path)
    loaded = fallbacks.stage("loading the model", lambda: load(folder, device=device))
    public = read_public_texts(loaded, config, data_dir)
    tasks = {seed: _task(config, loaded, seed, data_dir) for seed in config.seeds}
    require_same_data(run, [*next(iter(tasks.values())).sources(), *public.sources()])
    seeds = [GeniusSeed(seed, config, run, loaded, public, task, fallbacks) for seed, task in tasks.items()]
    weights = {
        name: weight
        for one in seeds
        for name, (weight, _) in {**one.first_stages(), **one.other_stages()}.items()
    }
    shown = RunProgress(weights, quiet=quiet, memory=memory_text)
    runners = [StageRunner(run, device, shown, fallbacks, one.files) for one in seeds]
    with shown:
        for one, runner in zip(seeds, runners, strict=True):
            one.progress = shown
            runner.go(one.first_stages())
            _require_skill(config, Look.from_stage(runner.kept[one.stage(f"look-{FULL}")]))
            runner.go(one.other_stages())
    scores = GeniusScores(
        looks={
            (one.seed, arm): Look.from_stage(runner.kept[one.stage(f"look-{arm}")])
            for one, runner in zip(seeds, runners, strict=True)
            for arm in arm_names(config)
        },
        units={seed: task.units for seed, task in tasks.items()},
        measures=seeds[0].task.measures,
        num_scored=public.num_scored,
        seed=config.seeds[0],
    )
    name = device_name(device, hardware)
    sources = [*seeds[0].task.sources(), *public.sources()]
    result = Result(
        experiment="saving-genius",
        status="complete",
        config=as_plain(config),
        provenance=asdict(provenance(list(config.seeds), sources, device_name=name)),
        plan=dict(plan),
        memory=Memory(
            planned_peak_bytes=plan.get("peak_bytes"),
            measured_peak_bytes=max(runner.peak_bytes for runner in runners),
        ),
        timings={
            **{stage: value for runner in runners for stage, value in runner.seconds.items()},
            "whole_run": run.seconds(),
        },
        scores=scores.all(),
        verdicts=verdicts(config, scores),
        warnings=list(dict.fromkeys([*run.notices, *_warnings(config, run, public, scores)])),
        curves=curves(config, scores),
        exp3_saving_genius=_seed_block(config, scores),
    )
    return result, list(_samples(scores, tasks))


def _task(config: SavingGeniusConfig, loaded: LoadedModel, seed: int, data_dir: Path | None) -> Task:
    if config.task == "addition":
        return Addition(config, loaded, seed)
    return Gsm8k(config, loaded, seed, data_dir)


def _require_skill(config: SavingGeniusConfig, full: Look) -> None:
    """A planted skill that was not learned is a result, and says so; one never there is a wrong model."""
    measure, right = next(iter(full.right.items()))
    if config.task == "gsm8k" and right.mean() < MIN_GSM8K:
        raise InputError(
            "this model does not have the skill, so that none can be lost or saved",
            expected=f"at least {MIN_GSM8K:.0%} of GSM8K's problems right in full precision ({measure})",
            received=f"{int(right.sum())} of {len(right)}",
            todo="take a larger model, or -s task=addition",
        )


def _seed_block(config: SavingGeniusConfig, scores: GeniusScores) -> dict[str, Any] | None:
    """The earlier implementations' own block, of the judged score at its largest share, not fitted."""
    arm = Arm(bits=config.bits, score=config.judged_score, share=config.top_share).name
    if arm not in scores.arms or config.bits != 3:
        return None
    full, pure, kept = (scores.accuracy(name).value for name in (FULL, "int3", arm))
    preserved = scores.keeps(arm)
    return {
        "accuracy_fp16": full,
        "accuracy_int3_pure": pure,
        "accuracy_libortho_int3_base": kept,
        "genius_preservation": None if preserved is None else preserved.value,
        "num_questions": scores.n,
        "arm": arm,
        "task": config.task,
    }


def _warnings(
    config: SavingGeniusConfig, run: RunDirectory, public: PublicTexts, scores: GeniusScores
) -> Iterator[str]:
    yield from told_fallbacks(run)
    yield from public.notes
    if not is_learned(config, scores):
        yield "the skill was not learned: nothing that this run shows says what rounding does to a skill"
    if (config.least_number, config.most_number) != (10, 99) and config.task == "addition":
        yield f"sums of numbers from {config.least_number} to {config.most_number}, not of all of two digits"
    yield from own_text_notes(public.corpora)
    if len(config.seeds) < 3:
        yield f"{len(config.seeds)} seed(s): differences between plantings are not in the intervals"


def _samples(scores: GeniusScores, tasks: Mapping[int, Task]) -> Iterator[dict[str, Any]]:
    """One row for each question and each window of every arm."""
    for (seed, arm), look in scores.looks.items():
        place = {"seed": seed, "arm": arm}
        for number, question in enumerate(tasks[seed].ids):
            right = {measure: bool(values[number]) for measure, values in look.right.items()}
            yield {"kind": "question", **place, "id": question, "is_right": right}
        for number, nll in enumerate(look.nlls):
            yield {
                "kind": "window",
                **place,
                "id": f"test-{number:04d}",
                "nll_sum": float(nll),
                "num_tokens": scores.num_scored,
            }
