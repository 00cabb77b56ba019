"""Whole runs on small models of other families: the null test, performance, and a resumed kill switch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_kill_switch_seed import PLAIN, copy_of, gone, look, seed_run
from test_other_experiments import NULL_TEST, PERFORMANCE
from tiny_families import family_folder
from untimed import untimed_facts

from sixgig.cli.main import run
from sixgig.load.loaded import linear_layers, load
from sixgig.report.schema import Result

SHORT = replace(PLAIN, relearned=("wiener",), scale_fit_steps=1)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIXGIG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SIXGIG_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def result_of(experiment: str, model: Path, settings: dict[str, object]) -> Result:
    words = [part for key, value in settings.items() for part in ("-s", f"{key}={json.dumps(value)}")]
    places = ["--model", str(model), "--device", "cpu", "--out", experiment]
    assert run(["run", experiment, "--preset", "tiny", *places, *words]) in (0, 1)
    (folder,) = Path(experiment).iterdir()
    return Result.read(folder / "result.json")


@pytest.mark.parametrize("name", ["phi", "gemma3"])
def test_the_null_test_is_exact_at_alpha_0_and_counts_biases(name: str, tmp_path: Path) -> None:
    model = family_folder(tmp_path / "model", name)
    result = result_of("null-test", model, {**NULL_TEST, "num_mmlu": 0})
    exact = [verdict for verdict in result.verdicts if "with alpha at 0" in verdict.criterion]
    assert [verdict.passed for verdict in exact] == [True] * 3
    layers = linear_layers(load(model).network).values()
    # 4-bit codes, and in groups of 8 a 16-bit scale and a zero point of 4 bits each.
    biases = [layer.bias for layer in layers if layer.bias is not None]
    num_bias_bytes = sum(4 * bias.numel() for bias in biases)
    assert bool(num_bias_bytes) == (name == "phi")
    (size,) = {score.value for score in result.scores if score.name == "base_bytes"}
    num_groups = sum(layer.out_features * -(-layer.in_features // 8) for layer in layers)
    num_codes = sum(layer.weight.numel() for layer in layers)
    assert size == (4 * num_codes + (16 + 4) * num_groups) // 8 + num_bias_bytes


@pytest.mark.parametrize("name", ["phi"])
def test_performance_times_what_has_no_lean_decoder_and_says_so(name: str, tmp_path: Path) -> None:
    result = result_of("performance", family_folder(tmp_path / "model", name), PERFORMANCE)
    assert any("no lean decoder" in warning for warning in result.warnings)
    assert all((score.value or 0) > 0 for score in result.scores if score.name == "latency")


@pytest.mark.parametrize("name", ["qwen2-windows", "phi", "gemma3"])
def test_a_seed_of_the_kill_switch_resumes_to_the_same_numbers(name: str, tmp_path: Path) -> None:
    model = family_folder(tmp_path / "model", name)
    one, directory = gone(tmp_path / "runs", model, SHORT, loaded=load(model))
    directory.close()
    planted, base = look(one, "full_precision", None), look(one, "wiener", 0.0)
    assert planted.canaries != look(one, "original", None).canaries
    assert planted.canaries != base.canaries
    copy = copy_of(directory, tmp_path / "again")
    stages = list(one.stages())
    for stage in stages[stages.index("plant") :]:
        (copy.stages_path / f"seed0-{stage}.json").unlink()
    torch.manual_seed(7)
    again = seed_run(copy, model, SHORT, loaded=load(model))
    again.go()
    copy.close()
    assert again.observations == one.observations
    assert untimed_facts(again.facts) == untimed_facts(one.facts)
