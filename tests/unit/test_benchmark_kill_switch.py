"""The benchmark script: seeds side by side on several GPUs, and one receipt of them all."""

from __future__ import annotations

import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benchmark_scripts import load_script
from fake_observations import World
from fake_result import fake_result

from sixgig.evaluate.observation import Observation
from sixgig.experiments.kill_switch_config import KillSwitchConfig
from sixgig.experiments.kill_switch_scores import Scorer
from sixgig.experiments.presets import preset
from sixgig.experiments.settings import as_plain
from sixgig.report.store import RunDirectory

ORIGIN = {
    "source_sha256": "s",
    "library_versions": {"torch": "2"},
    "device_name": "card",
    "commit": "c",
    "dirty": False,
}


script = load_script("kill_switch")


def finished_run(root: Path, seed: int, observations: list[Observation], **changes: Any) -> Path:
    """A run of one seed as it lies on disk, with a look a stage."""
    config = replace(KillSwitchConfig(preset="full", seeds=(seed,)), **changes)
    with RunDirectory.create(root, "kill-switch", as_plain(config)) as run:
        run.log("start", provenance=ORIGIN)
        for number, one in enumerate(observations):
            look = {"observations": [one.to_json_value()], "seconds": 2.0, "peak_device_bytes": 7 + seed}
            run.save_stage(f"seed{seed}-look{number}", look)
        facts = {"wiener": {"codes_changed": 0.1 * (seed + 1), "base_bytes": 10}}
        run.save_stage(f"seed{seed}-split", {"facts": facts, "seconds": 1.0, "peak_device_bytes": 1})
        told = ["1 seed(s): differences between plantings are not in the intervals", "a batch was halved"]
        fake_result(plan={"device_total_bytes": 99}, warnings=told).write(run.result_path)
        return run.path


def test_runs_of_single_seeds_score_as_one_run_of_them_all(tmp_path: Path) -> None:
    world = World(seeds=(0, 1), num_calibration=12, num_heldout=12, num_control=12)
    observations = world.perfect()
    runs = [
        finished_run(tmp_path / str(seed), seed, [one for one in observations if one.seed == seed])
        for seed in world.seeds
    ]
    result = script.from_stages(runs)
    together = {(s.name, s.arm, s.alpha, s.condition): s for s in Scorer(observations).all({})}
    merged = {(s.name, s.arm, s.alpha, s.condition): s for s in result.scores}
    assert {key: merged[key].value for key in together} == {key: s.value for key, s in together.items()}
    assert merged["base_codes_changed", "wiener", None, "plain"].value == pytest.approx(0.15)
    assert result.status == "complete"
    assert result.config["seeds"] == [0, 1]
    assert result.plan == {"device_total_bytes": 99}
    assert result.memory.measured_peak_bytes == 8
    assert result.warnings == ["a batch was halved"]
    receipt = script.receipt(result, "2026-01-01", "c")
    assert receipt["area"] == "kill-switch-full"
    assert {"wiener_alpha0_ppl_ratio_int4", "wiener_alpha1_extraction"} <= {
        figure["name"] for figure in receipt["figures"]
    }


def test_runs_that_differ_are_not_one_measurement(tmp_path: Path) -> None:
    world = World(num_calibration=12, num_heldout=12, num_control=12)
    first = finished_run(tmp_path / "0", 0, world.perfect())
    other = finished_run(tmp_path / "1", 1, world.perfect(), noise_weight=0.5)
    with pytest.raises(SystemExit, match="differ in settings"):
        script.from_stages([first, other])


def test_a_run_that_was_cut_off_makes_the_whole_interrupted(tmp_path: Path) -> None:
    world = World(seeds=(0, 1), num_calibration=12, num_heldout=12, num_control=12)
    runs = [
        finished_run(tmp_path / str(seed), seed, [one for one in world.perfect() if one.seed == seed])
        for seed in world.seeds
    ]
    (runs[1] / "result.json").unlink()
    assert script.from_stages(runs).status == "interrupted"


def test_each_seed_runs_once_and_no_two_share_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy: set[str] = set()
    started: list[tuple[str, str]] = []
    most = 0
    lock = threading.Lock()

    def ran(command: list[str], *, env: dict[str, str], check: bool) -> SimpleNamespace:
        nonlocal most
        gpu = env["CUDA_VISIBLE_DEVICES"]
        with lock:
            assert gpu not in busy
            busy.add(gpu)
            most = max(most, len(busy))
            started.append((command[command.index("-s") + 1], gpu))
        time.sleep(0.05)
        (Path(command[command.index("--out") + 1]) / "kill-switch-x").mkdir(parents=True)
        with lock:
            busy.remove(gpu)
        return SimpleNamespace(returncode=1)  # a criterion failed, which is a result

    monkeypatch.setattr(subprocess, "run", ran)
    runs = script.measure_side_by_side("full", tmp_path, 2)
    seeds = preset("full").seeds
    assert [path.parent.name for path in runs] == [f"seed{seed}" for seed in seeds]
    assert sorted(words for words, _ in started) == [f"seeds={seed}" for seed in seeds]
    assert {gpu for _, gpu in started} == {"0", "1"}
    assert most == 2


def test_a_run_that_breaks_ends_the_benchmark_and_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *words, **more: SimpleNamespace(returncode=3))
    with pytest.raises(SystemExit, match=r"seeds=\d+ ended with 3"):
        script.measure_side_by_side("full", tmp_path, 3)
