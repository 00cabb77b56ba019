"""The null test and performance on the real model, as small as they can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sixgig.cli.main import run

pytestmark = pytest.mark.real_model


def finished(
    experiment: str, settings: dict[str, Any], out: Path, capsys: pytest.CaptureFixture[str]
) -> dict[str, Any]:
    words = [part for key, value in settings.items() for part in ("-s", f"{key}={json.dumps(value)}")]
    status = run(
        ["run", experiment, "--preset", "tiny", "--device", "cpu", "--out", str(out), "--json", *words]
    )
    captured = capsys.readouterr()
    assert status in (0, 1), captured.err
    return json.loads(captured.out)["result"]


def value(result: dict[str, Any], name: str, arm: str, alpha: float | None = None) -> float:
    (found,) = [
        score["value"]
        for score in result["scores"]
        if (score["name"], score["arm"], score["alpha"]) == (name, arm, alpha)
    ]
    return found


def test_rounding_costs_something_and_the_switch_at_0_nothing_more(
    embedded_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIXGIG_DATA", raising=False)
    settings = {
        "model": embedded_model,
        "window_tokens": 128,
        "num_windows": 6,
        "compared_tokens": 32,
        "num_calibration_windows": 1,
        "fit_window": 64,
        "fit_steps": 2,
    }
    result = finished("null-test", settings, tmp_path, capsys)
    assert value(result, "ppl_ratio_int4", "split", 0.0) == 1
    assert value(result, "ppl_ratio_full", "int4") > 1.05
    assert 1 < value(result, "ppl_ratio_full", "split", 1.0) < value(result, "ppl_ratio_full", "int4")
    exact = [v["pass"] for v in result["verdicts"] if "with alpha at 0" in v["criterion"]]
    assert exact == [True] * 3
    assert any("MMLU was not measured" in warning for warning in result["warnings"])


def test_every_arm_is_timed(
    embedded_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIXGIG_DATA", raising=False)
    settings = {"model": embedded_model, "num_rounds": 2, "calibration_window": 32}
    result = finished("performance", settings, tmp_path, capsys)
    block = result["exp4_performance"]
    for arm in ("fp16", "int4", "libortho_alpha0"):
        assert 0 < block[f"latency_{arm}_ms_per_token"] < 60_000
    assert value(result, "bytes_per_token", "fp16") > 2 * 134_000_000
    assert value(result, "copy_bandwidth", "machine") > 0
