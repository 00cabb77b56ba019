"""The performance experiment: what the switch costs, a token at a time, at batch 1.

Full precision, the rounded model, and the split with its switch at 0 and at 1 take turns, round by round; how
fast memory is here is measured in the same run, since decoding is bound by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..bandwidth import device_speeds, host_bytes_per_second
from ..data.batches import batches, whole_text
from ..data.corpora import load_public_text, token_windows
from ..errors import InputError
from ..evaluate.energy import energy_counter, joules_per_token
from ..evaluate.speed import RoundTimes, take_turns, time_round
from ..hardware import Hardware
from ..load.loaded import LoadedModel, load
from ..memory.ladder import Fallbacks
from ..provenance import provenance
from ..report.schema import Memory, Result
from ..report.store import RunDirectory
from ..transform.checkpoint import read_layers, save_layers
from ..transform.sieve import make_sieve
from ..transform.split import PUBLIC, split_layers_of
from ..transform.split_layer import Arm
from .kill_switch_files import WorkFiles
from .origin import device_name, require_same_data, sources_of
from .performance_arms import SpeedArm, build_arms
from .performance_config import PerformanceConfig
from .performance_scores import PerformanceScores, Times, times_of
from .progress import RunProgress
from .setting_checks import ortho_config, quantize_config
from .settings import as_plain
from .split_rows import SPLIT, Key
from .stages import StageRunner, Stages, teller, told_fallbacks

LAYERS = "split"  # a file of the run's work/
ENERGY_LEFT_OUT = "energy was left out by num_energy_rounds=0"


def run_performance(
    config: PerformanceConfig,
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
    """Runs (or goes on with) the experiment in `run`; returns the result and one sample a round and arm."""
    work = Performance(config, run, folder, device, data_dir, hardware)
    require_same_data(run, sources_of([work.corpus]))
    shown = RunProgress(
        {name: weight for name, (weight, _) in work.stages().items()}, quiet=quiet, memory=memory_text
    )
    work.progress = shown
    fallbacks = Fallbacks(teller(run, lambda: shown), run.log, device=device, folder=run.path)
    with shown:
        runner = StageRunner(run, device, shown, fallbacks, work.files)
        kept = runner.go(work.stages())
    times = work.times(kept)
    scorer = PerformanceScores(
        times=times,
        plain_arm=f"int{config.bits}",
        prompt_tokens=config.prompt_tokens,
        bandwidth=kept["decode"]["bytes_per_second"],
        no_energy=kept["decode"]["no_energy"],
        seed=config.seed,
    )
    name = device_name(device, hardware)
    result = Result(
        experiment="performance",
        status="complete",
        config=as_plain(config),
        provenance=asdict(provenance([config.seed], sources_of([work.corpus]), device_name=name)),
        plan=dict(plan),
        memory=Memory(planned_peak_bytes=plan.get("peak_bytes"), measured_peak_bytes=runner.peak_bytes),
        timings={**runner.seconds, "whole_run": run.seconds()},
        scores=scorer.all(),
        verdicts=scorer.verdicts(),
        warnings=list(
            dict.fromkeys([*run.notices, *told_fallbacks(run), *kept["decode"]["notes"], *_unmeasured(kept)])
        ),
        curves=scorer.curves(),
        exp4_performance=scorer.seed_block(config.bits),
    )
    return result, list(_samples(times))


class Performance:
    """The stages. All times are taken in one stage, so that a resume never joins two machines' times."""

    def __init__(
        self,
        config: PerformanceConfig,
        run: RunDirectory,
        folder: Path,
        device: torch.device,
        data_dir: Path | None,
        hardware: Hardware,
    ) -> None:
        self._config, self._run, self._folder, self._device = config, run, folder, device
        self._num_cores = hardware.num_cores
        self.corpus = load_public_text("calibration", data_dir=data_dir)
        self.progress = RunProgress({}, quiet=True)
        self.files = WorkFiles(run.work_path)

    def stages(self) -> Stages:
        config = self._config
        rounds = config.num_rounds + config.num_warmup_rounds
        return {
            "split": (60.0, self._split),
            "decode": (4.0 * rounds * config.tokens_per_round / 10, self._decode),
        }

    def times(self, kept: Mapping[str, Any]) -> dict[Key, Times]:
        return {
            (one["arm"], one["alpha"]): times_of(
                one["rounds"],
                bytes_per_token=one["bytes_per_token"],
                held_bytes=one["held_bytes"],
                joules=tuple(one["joules"]),
                quantised_share=one["quantised_share"],
            )
            for one in kept["decode"]["arms"]
        }

    # --------------------------------------------------------------------------------------------------

    def _split(self) -> dict[str, Any]:
        """Base = Q(W) and an Ortho part of what is missing; values decide no time, so nothing is fitted."""
        config = self._config
        loaded = load(self._folder, device=self._device)
        ids = self._ids(loaded)
        windows = token_windows(ids, config.calibration_window, config.num_calibration_windows)
        texts = [whole_text([int(token) for token in window]) for window in windows]
        arm = Arm(sieve=make_sieve("none"), quantize=quantize_config(config), ortho=ortho_config(config))
        layers = split_layers_of(
            loaded,
            {SPLIT: arm},
            {PUBLIC: list(batches(texts, 1))},
            {},
            seed=config.seed,
            after_layer=lambda done, total: self.progress.at(done / total),
        )[SPLIT]
        save_layers(self.files.to_write(LAYERS), layers)
        return {"prompt": [int(token) for token in ids[: config.prompt_tokens]]}

    def _ids(self, loaded: LoadedModel) -> np.ndarray:
        config = self._config
        ids = np.asarray(loaded.encode(self.corpus.text))
        wanted = max(config.prompt_tokens, config.calibration_window * config.num_calibration_windows)
        if len(ids) < wanted:
            raise InputError(
                "public text too short for prompt and calibration",
                expected=f"{wanted:,} tokens",
                received=f"{len(ids):,} tokens",
                where=self.corpus.name,
                todo="set prompt_tokens or num_calibration_windows lower, or give more text by --data-dir",
            )
        return ids

    def _bandwidth(self) -> float:
        """Bytes a second that a copy reads and writes."""
        seconds = self._config.bandwidth_seconds
        if self._device.type == "cuda":
            return device_speeds(seconds=seconds)[self._device.index or 0].bytes_per_second
        return host_bytes_per_second(self._num_cores, seconds=seconds)

    def _decode(self) -> dict[str, Any]:
        config = self._config
        layers = read_layers(self.files.to_read(LAYERS))
        bandwidth = self._bandwidth()
        built = build_arms(
            self._folder,
            layers,
            plain=f"int{config.bits}",
            device=self._device,
            context_tokens=config.context_tokens,
            bitsandbytes_bits=config.bitsandbytes_bits,
        )
        arms = built.arms
        del layers
        split = self._run.load_stage("split")
        assert split is not None, "stages are done in order"
        prompt = split["prompt"]
        found = take_turns(
            {one.name: partial(self._round, one, prompt) for one in arms},
            num_rounds=config.num_rounds,
            num_warmup_rounds=config.num_warmup_rounds,
            progress=self.progress.at,
        )
        joules, no_energy = self._energy(arms, prompt)
        middle = config.prompt_tokens + config.tokens_per_round / 2
        return {
            "notes": built.notes,
            "forms": built.forms,
            "bytes_per_second": bandwidth,
            "no_energy": no_energy,
            "arms": [
                {
                    "arm": one.arm,
                    "alpha": one.alpha,
                    "rounds": [asdict(times) for times in found[one.name]],
                    "bytes_per_token": one.sizes.weight_bytes + one.sizes.cache_bytes * middle,
                    "held_bytes": one.sizes.held_bytes,
                    "joules": joules.get(one.name, []),
                    "quantised_share": one.quantised_share,
                }
                for one in arms
            ],
        }

    def _round(self, arm: SpeedArm, prompt: Sequence[int]) -> RoundTimes:
        arm.turn()
        return time_round(arm.decoder, prompt, self._config.tokens_per_round, self._device)

    def _energy(self, arms: Sequence[SpeedArm], prompt: Sequence[int]) -> tuple[dict[str, list[float]], str]:
        """Joules a token of each arm, taking turns; or none, and why."""
        config = self._config
        counter = energy_counter(self._device)
        if isinstance(counter, str) or not config.num_energy_rounds:
            return {}, counter if isinstance(counter, str) else ENERGY_LEFT_OUT
        found: dict[str, list[float]] = {one.name: [] for one in arms}

        def tokens_of(arm: SpeedArm) -> int:
            self._round(arm, prompt)
            return config.tokens_per_round

        for _ in range(config.num_energy_rounds):
            for one in arms:
                work = partial(tokens_of, one)
                found[one.name].append(joules_per_token(counter, work, seconds=config.energy_seconds))
        return found, ""


def _unmeasured(kept: Mapping[str, Any]) -> list[str]:
    reason = kept["decode"]["no_energy"]
    return [f"energy was not measured: {reason}"] if reason else []


def _samples(times: Mapping[Key, Times]) -> list[dict[str, Any]]:
    return [
        {
            "kind": "round",
            "arm": arm,
            "alpha": alpha,
            "id": f"round-{number:04d}",
            "prefill_seconds": float(one.prefill[number]),
            "token_seconds": one.tokens[number].tolist(),
        }
        for (arm, alpha), one in times.items()
        for number in range(len(one.prefill))
    ]
