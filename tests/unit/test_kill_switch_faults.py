"""The whole experiment on a tiny model, with a lack of memory at moments all over it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_memory import FailingAt, every_form
from tiny_model import tiny_folder
from untimed import untimed_scores

from sixgig.cli.main import run
from sixgig.experiments import kill_switch
from sixgig.experiments.progress import RunProgress
from sixgig.report.schema import Result

SETTINGS = {
    "seeds": [0],
    "sieves": ["hessian", "wiener"],
    "relearned": ["wiener"],
    "relearn_steps": [1],
    "alphas": [0, 1],
    "num_calibration": 6,
    "num_heldout": 6,
    "num_control": 6,
    "num_wrong_set": 0,
    "repetitions": [2],
    "num_decoys": 3,
    "num_probed_controls": 6,
    "num_probed_controls_plain": 6,
    "train_window": 32,
    "num_train_windows": 6,
    "calibration_window": 32,
    "num_calibration_windows": 2,
    "test_window": 32,
    "num_test_windows": 2,
    "group_size": 8,
    "rank": 2,
    "fit_steps": 1,
}
# The stages in whose midst an operation fails, and what then is done: each kind of work once.
ANSWERS = {
    "loading": "begun again",
    "seed0-original": "batches of 1024 tokens",
    "seed0-plant": "in 2 pieces",
    "seed0-split": "batches of 1024 positions",
    "seed0-restore-wiener": "in 2 pieces",
    "seed0-look-wiener": "batches of 1024 tokens",
    "seed0-relearn-wiener": "",  # a step or a look within it
    "examples": "2 prompts at once",
}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SIXGIG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SIXGIG_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


def arguments_for(tiny: Path, out: Path, *more: str) -> list[str]:
    words = [f"{key}={json.dumps(value)}" for key, value in SETTINGS.items()]
    options = [part for word in words for part in ("-s", word)]
    places = ["--model", str(tiny), "--device", "cpu", "--out", str(out)]
    return ["run", "kill-switch", "--preset", "tiny", *places, *options, *more]


def only_run(out: Path) -> Path:
    (folder,) = out.iterdir()
    return folder


def events_of(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


@dataclass(frozen=True)
class Whole:
    """The result of a run that nothing disturbed, and each stage's first operation."""

    result: Result
    first: dict[str, int]

    def middle(self, stage: str) -> int:
        names = list(self.first)
        begin, end = (self.first[names[names.index(stage) + more]] for more in (0, 1))
        return (begin + end) // 2


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    out, counting = tmp_path_factory.mktemp("whole"), FailingAt()
    first = {"loading": 0}
    begin, answers = RunProgress.begin, kill_switch._answers

    def noted_begin(progress: RunProgress, stage: str) -> None:
        first[stage] = counting.num_operations
        begin(progress, stage)

    def noted_answers(*arguments: Any) -> Any:
        first["examples"] = counting.num_operations
        return answers(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SIXGIG_DATA", raising=False)
        patch.setattr(RunProgress, "begin", noted_begin)
        patch.setattr(kill_switch, "_answers", noted_answers)
        with counting:
            assert run(arguments_for(tiny, out)) in (0, 1)
    first["end"] = counting.num_operations
    return Whole(Result.read(only_run(out) / "result.json"), first)


def assert_same_scores(got: Result, expected: Result) -> None:
    """As bf16 passes of other shapes leave them: the same sums in another order, each rounded to 8 bits.

    Counted things (extraction, sizes) and verdicts are equal; likelihoods and what follows from them differ
    by a share of the rounding.
    """
    assert [verdict.passed for verdict in got.verdicts] == [verdict.passed for verdict in expected.verdicts]
    for one, other in zip(untimed_scores(got.scores), untimed_scores(expected.scores), strict=True):
        place = (one.name, one.arm, one.alpha, one.condition)
        assert place == (other.name, other.arm, other.alpha, other.condition)
        assert one.n == other.n, place
        assert one.value == pytest.approx(other.value, rel=2e-2, abs=2e-3), place


@pytest.mark.parametrize("stage", ANSWERS)
def test_a_fault_in_any_stage_is_answered_and_told_and_changes_no_score(
    stage: str, tiny: Path, whole: Whole, tmp_path: Path
) -> None:
    error = every_form()[list(ANSWERS).index(stage) % len(every_form())]
    with FailingAt(whole.middle(stage), error):
        assert run(arguments_for(tiny, tmp_path / "runs")) in (0, 1)
    folder = only_run(tmp_path / "runs")
    result = Result.read(folder / "result.json")
    assert result.status == "complete"
    assert_same_scores(result, whole.result)
    (event,) = events_of(folder, "out_of_memory")
    assert ANSWERS[stage] in event["move"]
    assert event["resident_bytes"] > 0
    assert any("out of memory while" in warning for warning in result.warnings)
    assert "out of memory while" in (folder / "report.html").read_text(encoding="utf-8")


def test_memory_that_never_comes_back_is_status_3_and_a_resume_goes_on_from_the_stages_before(
    tiny: Path,
    whole: Whole,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "runs"
    with FailingAt(whole.middle("seed0-split"), lasting=True):
        assert run(arguments_for(tiny, out)) == 3
    shown = capsys.readouterr().err
    assert "too small" in shown
    assert "Traceback" not in shown
    kept = {path.name: path.read_bytes() for path in (only_run(out) / "stages").iterdir()}
    assert "seed0-plant.json" in kept
    assert run(arguments_for(tiny, out, "--resume")) in (0, 1)
    folder = only_run(out)
    assert all((folder / "stages" / name).read_bytes() == content for name, content in kept.items())
    assert_same_scores(Result.read(folder / "result.json"), whole.result)
