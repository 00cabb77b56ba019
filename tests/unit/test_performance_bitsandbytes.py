"""The arm of `sixgig run performance -s bitsandbytes_bits=...`: on a fake, and on the library where it is."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_model import tiny_folder

from sixgig.catalogue import get
from sixgig.cli.main import run
from sixgig.experiments import performance_arms, performance_config
from sixgig.experiments.known import EXPERIMENTS
from sixgig.load.bnb import QuantisedShare
from sixgig.load.loaded import LoadedModel, load
from sixgig.report.schema import Result
from sixgig.runtime.pack_cpu import why_no_kernel

SETTINGS = {
    "prompt_tokens": 8,
    "tokens_per_round": 3,
    "num_rounds": 3,
    "group_size": 8,
    "rank": 2,
    "calibration_window": 32,
    "num_calibration_windows": 1,
    "bandwidth_seconds": 0.01,
}
SHARE = QuantisedShare(num_quantised=3, num_parameters=4, skipped_experts=())
SCALE_BYTES = 1000


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("SIXGIG_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def finished(tmp_path: Path, bits: int) -> tuple[Path, Result]:
    words = [part for key, value in SETTINGS.items() for part in ("-s", f"{key}={json.dumps(value)}")]
    model = tiny_folder(tmp_path / "tiny")
    places = ["--model", str(model), "--device", "cpu", "--out", str(tmp_path / "runs")]
    more = ["-s", f"bitsandbytes_bits={bits}"]
    assert run(["run", "performance", "--preset", "tiny", *places, *words, *more]) in (0, 1)
    (folder,) = (tmp_path / "runs").iterdir()
    return folder, Result.read(folder / "result.json")


def fake(folder: Path, *, bits: int, device: Any) -> tuple[LoadedModel, QuantisedShare]:
    return replace(load(folder, dtype=torch.bfloat16), computes_on=f"fake, {bits} bits"), SHARE


def value(result: Result, name: str, arm: str) -> float:
    found = result.score(name, arm, None)
    assert found is not None
    assert found.value is not None
    return found.value


def test_bitsandbytes_takes_turns_with_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance_arms, "load_quantised", fake)
    monkeypatch.setattr(performance_arms, "scale_bytes", lambda network: SCALE_BYTES)
    monkeypatch.setattr(performance_config, "require_bitsandbytes", lambda: None)
    folder, result = finished(tmp_path, 4)
    arms = [score.arm for score in result.scores if score.name == "latency"]
    beside = ["fp16-modules"] if why_no_kernel() is None else []
    assert arms == ["fp16", "int4", "split", "split", "bitsandbytes-4", *beside]
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert sum(row["arm"] == "bitsandbytes-4" for row in rows) == SETTINGS["num_rounds"]
    assert value(result, "quantised_share", "bitsandbytes-4") == 0.75
    told = [line for line in result.warnings if line.startswith("bitsandbytes-4: 75.0% of the parameters")]
    assert len(told) == 1
    assert ("fp16-modules" in told[0]) is bool(beside)
    whole = beside[0] if beside else "fp16"
    for name in ("held_bytes", "bytes_per_token"):
        assert value(result, name, "bitsandbytes-4") == value(result, name, whole) + SCALE_BYTES
    page = (folder / "report.html").read_text()
    assert "bitsandbytes, 4 bits" in page
    assert "75.0% of the parameters are really quantised" in page


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_missing_package_is_said_before_anything_is_written(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    model = tiny_folder(tmp_path / "tiny")
    arguments = ["run", "performance", "--model", str(model), "--device", "cpu", *more]
    assert run([*arguments, "-s", "bitsandbytes_bits=4"]) == 2
    assert "sixgig[compare]" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_plan_knows_of_the_models_that_come_in() -> None:
    experiment, spec = EXPERIMENTS["performance"], get("smollm2-135m-instruct")
    config = experiment.preset("6g")
    on_card, on_cpu = (
        [experiment.peak_bytes(spec, replace(config, bitsandbytes_bits=bits), device) for bits in (0, 4, 8)]
        for device in ("cuda", "cpu")
    )
    assert on_card[2] - on_card[1] == pytest.approx(spec.num_linear_parameters / 2, rel=0.01)
    # On a card the split before it is what a run without it holds at most; on a CPU the loading decides.
    assert on_card[1] > 2 * spec.num_parameters + spec.num_linear_parameters / 2
    assert on_cpu[0] + 4 * spec.num_parameters < on_cpu[1] <= on_cpu[2]


@pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="needs bitsandbytes: pip install 'sixgig[compare]'"
)
@pytest.mark.filterwarnings("ignore")
def test_the_library_is_timed(tmp_path: Path) -> None:
    _, result = finished(tmp_path, 8)
    assert value(result, "latency", "bitsandbytes-8") > 0
    assert 0.5 < value(result, "quantised_share", "bitsandbytes-8") < 1
    whole = "fp16-modules" if why_no_kernel() is None else "fp16"
    assert value(result, "bytes_per_token", "bitsandbytes-8") < value(result, "bytes_per_token", whole)
