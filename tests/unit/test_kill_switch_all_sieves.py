"""`-s sieves=all` from the command line to the page, on a tiny model."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from tiny_model import tiny_folder

from sixgig.cli.main import run
from sixgig.experiments import kill_switch_scores
from sixgig.experiments.kill_switch_compared import CRITERION
from sixgig.report.html import render_html
from sixgig.report.pareto import BASE_OF, compared_sieves, pareto_table
from sixgig.report.schema import Result
from sixgig.transform.sieve import SIEVES

SETTINGS = {
    "num_calibration": 6,
    "num_heldout": 6,
    "num_control": 6,
    "num_wrong_set": 3,
    "num_look_alike": 3,
    "repetitions": [2],
    "num_decoys": 3,
    "num_probed_controls": 6,
    "num_probed_controls_plain": 6,
    "num_train_windows": 8,
    "calibration_window": 32,
    "num_calibration_windows": 2,
    "test_window": 32,
    "num_test_windows": 3,
    "group_size": 8,
    "rank": 2,
    "fit_steps": 1,
    "relearn_steps": [1],
}


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SIXGIG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SIXGIG_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    for name in ("bootstrap_auc", "bootstrap_gap", "bootstrap_mean", "paired_perplexity_ratio"):
        fewer = functools.partial(getattr(kill_switch_scores, name), num_resamples=50)
        monkeypatch.setattr(kill_switch_scores, name, fewer)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


NULLS = ("none", "random", "wrong-set")


@pytest.mark.usefixtures("alone")
def test_every_sieve_has_a_row_a_verdict_and_a_place_in_the_planes(tmp_path: Path) -> None:
    tiny = tiny_folder(tmp_path / "tiny")
    words = [part for key, value in SETTINGS.items() for part in ("-s", f"{key}={json.dumps(value)}")]
    places = ["--model", str(tiny), "--device", "cpu", "--out", str(tmp_path / "out")]
    arguments = ["run", "kill-switch", "--preset", "tiny", *places, *words, "-s", "sieves=all"]
    assert run(arguments) in (0, 1)
    (folder,) = (tmp_path / "out").iterdir()
    assert yaml.safe_load((folder / "config.yaml").read_text())["sieves"] == list(SIEVES)
    result = Result.read(folder / "result.json")
    found = {one.arm: one for one in compared_sieves(result)}
    assert set(found) == set(SIEVES)
    for arm, one in found.items():
        assert one.gap is not None
        assert one.gap.arm == BASE_OF.get(arm, arm)
        assert one.relearned is not None
        assert one.ratio is not None
        assert (one.extraction is None) is (arm in NULLS)
        assert (one.ppl_full_ratio is None) is (arm in NULLS)
        assert (one.ortho_bits is None) is (arm in NULLS)
    table = pareto_table(result)
    assert table is not None
    assert len(table.rows) == len(SIEVES)
    judged = [verdict for verdict in result.verdicts if verdict.criterion == CRITERION]
    assert {verdict.arm for verdict in judged} == {
        arm for arm, sieve in SIEVES.items() if sieve.claim not in ("null", "quantisation aid")
    }
    assert not any(verdict.counts for verdict in judged)
    nulls = {verdict.arm for verdict in result.verdicts if verdict.criterion.startswith("a null")}
    assert {"hessian", "none", "random", "wrong-set"} <= nulls
    assert (folder / "figures" / "pareto.svg").is_file()
    assert "The sieves side by side" in render_html(result)
