"""The main job on the real model: rounding alone keeps the secrets, the default sieve takes them out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sixgig.catalogue import EMBEDDED
from sixgig.load.fetch import is_fetched

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(not is_fetched(EMBEDDED), reason=f"needs the model: sixgig fetch {EMBEDDED}"),
]


def sixgig(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sixgig", *words], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], int]:
    out = tmp_path_factory.mktemp("runs")
    done = sixgig("run", "kill-switch", "--preset", "tiny", "--device", "cpu", "--out", str(out), "--json")
    assert done.returncode in (0, 1), done.stderr
    document = json.loads(done.stdout)
    return Path(document["folder"]), document["result"], done.returncode


def value(result: dict[str, Any], name: str, arm: str, alpha: float | None) -> float:
    found = [
        score["value"]
        for score in result["scores"]
        if (score["name"], score["arm"], score["alpha"], score["condition"]) == (name, arm, alpha, "plain")
    ]
    assert len(found) == 1, (name, arm, alpha)
    return found[0]


def test_rounding_alone_keeps_the_secrets_and_the_sieve_takes_them_out(
    finished: tuple[Path, dict[str, Any], int],
) -> None:
    _, result, _ = finished
    whole = value(result, "exposure_gap", "full_precision", None)
    rounded = value(result, "exposure_gap", "hessian", 0.0)
    sieved = value(result, "exposure_gap", "wiener", 0.0)
    assert whole > 2
    assert rounded > 2, "INT4 alone must leave the secrets far above chance"
    assert sieved < rounded - 1, "the sieve must bring them down"
    assert sieved < 0.6 * rounded


def test_the_switch_brings_them_back_and_the_base_still_speaks(
    finished: tuple[Path, dict[str, Any], int],
) -> None:
    _, result, _ = finished
    assert value(result, "exposure_gap", "wiener", 1.0) > value(result, "exposure_gap", "wiener", 0.0) + 1
    assert value(result, "ppl_ratio_int4", "wiener", 0.0) < 1.1
    assert value(result, "ppl_ratio_full", "wiener", 1.0) < 1.25
    assert result["exp1_kill_switch"]["num_canaries"] == 27


def test_the_report_stands_alone_and_the_status_is_the_verdicts(
    finished: tuple[Path, dict[str, Any], int],
) -> None:
    folder, result, status = finished
    failed = any(v["pass"] is False for v in result["verdicts"] if v["counts"])
    assert status == (1 if failed else 0)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Content-Security-Policy" in page
    assert "<script" not in page
    assert 'src="http' not in page
    assert not (folder / "work").exists()


def test_a_finished_run_is_left_as_it_is_by_a_resume(finished: tuple[Path, dict[str, Any], int]) -> None:
    folder, _, status = finished
    before = (folder / "result.json").read_bytes()
    words = ("run", "kill-switch", "--preset", "tiny", "--device", "cpu", "--out", str(folder.parent))
    again = sixgig(*words, "--resume", "--json")
    assert again.returncode == status, again.stderr
    assert (folder / "result.json").read_bytes() == before
