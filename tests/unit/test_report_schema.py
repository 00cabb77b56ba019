from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_result import fake_result, score
from pydantic import ValidationError

from sixgig.errors import InputError, IntegrityError
from sixgig.report.schema import Curve, Result, Score, Verdict


def test_written_and_read_again_it_equals_itself(tmp_path: Path) -> None:
    result = fake_result()
    result.write(tmp_path / "result.json")
    assert Result.read(tmp_path / "result.json") == result


def test_the_file_has_the_names_the_format_promises() -> None:
    value = fake_result().to_json_value()
    assert value["schema"] == "sixgig.result/1"
    assert [verdict["pass"] for verdict in value["verdicts"]] == [True, None, True, False]
    assert "passed" not in value["verdicts"][0]
    assert set(value["memory"]) == {
        "planned_peak_bytes",
        "measured_peak_bytes",
        "reserved_peak_bytes",
        "device_used_peak_bytes",
        "resident_peak_bytes",
        "budget_bytes",
    }
    assert value["exp1_kill_switch"]["num_canaries"] == 128


def _damage(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(fake_result().to_json_value() | changes), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": "other/1"}, "other/1"),
        ({"surprise": 1}, "surprise"),
        ({"status": "fine"}, "status"),
        ({"timings": {"a": float("nan")}}, "NaN"),
        ({"exp1_kill_switch": {"num_canaries": 1}}, "lacks extraction_rate_alpha1"),
        ({"scores": [{"name": "x"}]}, r"scores\.0\.arm"),
    ],
)
def test_a_bad_file_is_refused_and_the_place_named(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(IntegrityError, match=words):
        Result.read(_damage(tmp_path, **changes))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    fake_result(scores=[], curves=[], examples=[], verdicts=[]).write(path)
    content = path.read_bytes()
    for length in range(0, len(content) - 1, 37):
        path.write_bytes(content[:length])
        with pytest.raises(IntegrityError):
            Result.read(path)


def test_a_list_is_not_a_result_and_no_file_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("[]", encoding="utf-8")
    with pytest.raises(IntegrityError, match="list"):
        Result.read(tmp_path / "result.json")
    with pytest.raises(InputError, match="no such file"):
        Result.read(tmp_path / "absent.json")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_no_score(value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        score("auc_loss", "wiener", 0.0, value)


def test_a_missing_value_needs_its_reason() -> None:
    with pytest.raises(ValidationError, match="no note"):
        score("auc_loss", "wiener", 0.0, None)


def test_records_are_frozen_and_intervals_ordered() -> None:
    good = score("auc_loss", "wiener", 0.0, 0.5, 0.1)
    with pytest.raises(ValidationError, match="frozen"):
        good.value = 1.0  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValidationError, match="above"):
        Score.model_validate(good.model_dump() | {"low": 0.9, "high": 0.1})


def test_a_curve_with_parts_of_different_lengths_is_refused() -> None:
    with pytest.raises(ValidationError, match="different lengths"):
        Curve(name="roc", arm="wiener", x_label="", y_label="", x=[0.0, 1.0], y=[0.0])


def test_the_same_score_twice_is_refused() -> None:
    twice = [score("auc_loss", "wiener", 0.0, value) for value in (0.5, 0.6)]
    with pytest.raises(ValidationError, match="more than one score"):
        fake_result(scores=twice)


def _verdict(passed: bool | None, counts: bool = True) -> Verdict:
    return Verdict(criterion="c", arm="a", threshold="t", value=None, passed=passed, counts=counts)


@pytest.mark.parametrize(
    ("verdicts", "status", "answer"),
    [
        ([_verdict(True), _verdict(True)], "complete", True),
        ([_verdict(True), _verdict(None)], "complete", None),
        ([_verdict(None), _verdict(False)], "complete", False),
        ([_verdict(True), _verdict(False, counts=False)], "complete", True),
        ([_verdict(True)], "interrupted", None),
        ([], "complete", None),
    ],
)
def test_the_answer_of_a_run(verdicts: list[Verdict], status: str, answer: bool | None) -> None:
    assert fake_result(verdicts=verdicts, status=status).passed is answer


def test_a_score_is_found_by_its_place() -> None:
    result = fake_result()
    found = result.score("exposure_heldout", "wiener", 0.0, "relearn-20")
    assert found is not None
    assert found.value == pytest.approx(1.9)
    assert result.score("exposure_heldout", "wiener", 0.3) is None
    assert result.arms()[:2] == ["hessian", "wiener"]
