from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_result import fake_result

from sixgig.cli.main import run


def _make(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    fake_result(**changes).write(folder / "result.json")
    return folder


def test_tables_and_the_path_of_a_freshly_written_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _make(tmp_path / "one")
    before = (folder / "result.json").read_bytes()
    assert run(["report", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "Cannot tell yet" in printed
    assert "Wiener sieve" in printed
    assert f"page: {folder / 'report.html'}" in printed
    assert "<html" in (folder / "report.html").read_text(encoding="utf-8")
    assert (folder / "result.json").read_bytes() == before


def test_result_json_itself_may_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _make(tmp_path / "one")
    assert run(["report", str(folder / "result.json"), "--html"]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"


def test_json_prints_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = _make(tmp_path / "one"), _make(tmp_path / "two", config={"bits": 3})
    assert run(["report", str(one), str(two), "--compare", str(two), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "sixgig.report/1"
    assert [item["run"] for item in document["reports"]] == [str(one), str(two)]
    assert document["reports"][0]["result"]["schema"] == "sixgig.result/1"
    assert document["comparisons"][0]["config_differences"]["bits"] == {"left": 4, "right": 3}
    assert document["comparisons"][1]["config_differences"] == {}


def test_compare_prints_both_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = _make(tmp_path / "one"), _make(tmp_path / "two", config={"bits": 3})
    assert run(["report", str(one), "--compare", str(two)]) == 0
    printed = capsys.readouterr().out
    assert "What was set differently" in printed
    assert "Scores side by side" in printed


@pytest.mark.parametrize("flag", [[], ["--json"]])
def test_different_experiments_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: list[str]
) -> None:
    one, two = _make(tmp_path / "one"), _make(tmp_path / "two", experiment="null-test")
    assert run(["report", str(one), "--compare", str(two), *flag]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "two different experiments" in captured.err
    assert not (one / "report.html").exists()


def test_a_run_without_a_result_is_said_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "begun").mkdir()
    assert run(["report", str(tmp_path / "begun")]) == 2
    assert "--resume" in capsys.readouterr().err
    assert run(["report", str(tmp_path / "absent")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_a_damaged_result_is_named_and_nothing_is_rendered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = _make(tmp_path / "good"), _make(tmp_path / "bad")
    path = bad / "result.json"
    path.write_bytes(path.read_bytes()[:-100])
    assert run(["report", str(good), str(bad)]) == 2
    assert "result.json" in capsys.readouterr().err
    assert not (good / "report.html").exists()


def test_two_ways_of_printing_at_once_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", str(_make(tmp_path / "one")), "--html", "--json"]) == 2
    assert "--json" in capsys.readouterr().err
