"""`sixgig demo`: fetches what is missing, runs the kill switch, and ends as the run does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_result import fake_result

from sixgig.catalogue import EMBEDDED
from sixgig.cli.main import run
from sixgig.errors import NotAvailableError
from sixgig.experiments.run import Finished, Request
from sixgig.load.progress import Report
from sixgig.report.schema import Verdict


class Stage:
    """Fetching and running put aside: what was asked of them, in order, and what they answer."""

    def __init__(self) -> None:
        self.is_fetched = False
        self.passed: bool | None = True
        self.fails: BaseException | None = None
        self.asked: list[str] = []
        self.requests: list[Request] = []

    def fetch(self, name: str, *, progress: Callable[[Report], None]) -> Path:
        self.asked.append(f"fetch {name}")
        if self.fails is not None:
            raise self.fails
        progress(Report(step="convert", done_bytes=1, total_bytes=2))
        return Path("cache") / name

    def run(self, request: Request) -> Finished:
        self.asked.append(f"run {request.experiment}")
        self.requests.append(request)
        verdict = Verdict(criterion="c", arm="wiener", threshold="t", value=0.5, passed=self.passed)
        folder = request.out / "kill-switch-1"
        return Finished(result=fake_result(verdicts=[verdict]), folder=folder, report=folder / "report.html")


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stage:
    made = Stage()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIXGIG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sixgig.cli.demo.is_fetched", lambda name: made.is_fetched)
    monkeypatch.setattr("sixgig.cli.demo.fetch", made.fetch)
    monkeypatch.setattr("sixgig.cli.demo.run_experiment", made.run)
    return made


def test_a_newcomers_model_is_fetched_with_its_size_said_and_then_measured(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["demo"]) == 0
    assert stage.asked == [f"fetch {EMBEDDED}", "run kill-switch"]
    captured = capsys.readouterr()
    assert f"{EMBEDDED}: downloads" in captured.err
    assert "report: runs/kill-switch-1/report.html" in captured.out.replace("\\", "/")
    (request,) = stage.requests
    assert (request.preset, dict(request.settings), request.resume, request.quiet) == (None, {}, False, False)


def test_a_model_that_is_here_is_not_fetched_again(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.is_fetched = True
    assert run(["demo", "--preset", "tiny", "--out", "elsewhere"]) == 0
    assert stage.asked == ["run kill-switch"]
    assert (stage.requests[0].preset, stage.requests[0].out) == ("tiny", Path("elsewhere"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("passed", "status"), [(True, 0), (None, 0), (False, 1)])
def test_the_status_is_the_answer(stage: Stage, passed: bool | None, status: int) -> None:
    stage.passed = passed
    assert run(["demo"]) == status


def test_json_is_one_document_on_stdout_and_the_run_is_quiet(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["demo", "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["result"]["experiment"] == "kill-switch"
    assert stage.requests[0].quiet


@pytest.mark.parametrize(
    ("fails", "status"), [(KeyboardInterrupt(), 130), (NotAvailableError("no network"), 2)]
)
def test_a_fetch_that_does_not_end_starts_no_run(stage: Stage, fails: BaseException, status: int) -> None:
    stage.fails = fails
    assert run(["demo"]) == status
    assert stage.asked == [f"fetch {EMBEDDED}"]


def test_a_preset_that_is_none_is_refused_before_anything_is_downloaded(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["demo", "--preset", "tinny"]) == 2
    assert "did you mean tiny" in capsys.readouterr().err
    assert stage.asked == []
