"""The 8B split's script on a tiny model: it stops, goes on, and writes a receipt of what was measured."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
script = importlib.import_module("split_8b")
model = importlib.import_module("split_8b_model")


def test_a_tiny_model_is_split_in_two_processes_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.build(tmp_path, model.SHAPES["tiny"], "cpu")
    shard = tmp_path / "tuned" / "model-00001-of-00006.safetensors"
    written = shard.stat().st_mtime_ns
    model.build(tmp_path, model.SHAPES["tiny"], "cpu")
    assert shard.stat().st_mtime_ns == written
    script._split(tmp_path, "rtn", True, 1)
    assert (tmp_path / "split.partial" / "layer-0000.json").exists()
    script._show_estimate(json.loads((tmp_path / "measured.json").read_text()))
    assert "ESTIMATE" in capsys.readouterr().out
    script._split(tmp_path, "rtn", True, None)
    assert (tmp_path / "split" / "manifest.json").exists()
    assert not (tmp_path / "split.partial").exists()
    runs = json.loads((tmp_path / "measured.json").read_text())
    assert [run["finished"] for run in runs] == [False, True]
    assert [len(run["layers"]) for run in runs] == [1, 3]
    plan = script._plan(runs[-1])
    assert plan.workload.splitting.layers_from == "disk"
    figures = {one["name"]: one for one in script.receipt(runs, plan, None)["figures"]}
    assert figures["split_8b_minutes"]["value"] == pytest.approx(sum(run["seconds"] for run in runs) / 60)
    assert figures["split_8b_minutes"]["note"].startswith("2 processes")
    assert 0.1 < figures["split_8b_host_peak_gib"]["value"] < 6
    assert "split_8b_device_peak_gib" not in figures  # no card, no figure
    script._write_receipt(tmp_path / "measured.json", "abc", tmp_path / "again")
    (again,) = (tmp_path / "again").glob("split-8b-*.json")
    written_again = json.loads(again.read_text())
    assert (written_again["commit"], written_again["date"]) == ("abc", runs[-1]["date"])


def test_the_shape_is_that_of_the_catalogue(tmp_path: Path) -> None:
    from sixgig.catalogue import from_config, get

    (tmp_path / "config.json").write_text(json.dumps(model.SHAPES["8b"].config))
    found, expected = from_config(tmp_path), get("llama-3-8b")
    assert found.tensors() == expected.tensors()
