"""Receipts of finished runs: decided by whole intervals; what is not one measurement is refused."""

from __future__ import annotations

from typing import Any

import pytest
from benchmark_scripts import load_script
from fake_result import fake_result

from sixgig.report.schema import Result, Score, Verdict

ORIGIN = {
    "source_sha256": "s",
    "library_versions": {"torch": "2"},
    "device_name": "card",
    "commit": "c",
    "dirty": False,
}


@pytest.fixture(scope="module")
def script() -> Any:
    return load_script("experiments")


def one(seed: int, ratio: tuple[float, float, float], passed: bool | None = True, **origin: Any) -> Result:
    low, value, high = ratio
    score = Score(
        name="ppl_ratio_int4",
        arm="split",
        alpha=0.0,
        value=value,
        low=low,
        high=high,
        n=10,
        unit="ratio",
        higher_is_better=False,
    )
    verdict = Verdict(criterion="c", arm="split", threshold="at most 1.05", value=value, passed=passed)
    shown = verdict.model_copy(update={"criterion": "d", "counts": False})
    return fake_result().model_copy(
        update={
            "experiment": "null-test",
            "config": {"preset": "full", "seed": seed},
            "provenance": ORIGIN | origin,
            "scores": [score],
            "verdicts": [verdict, shown],
            "timings": {"whole_run": 10.0 + seed},
        }
    )


@pytest.mark.parametrize(
    ("second", "met"),
    [((1.0, 1.01, 1.02), True), ((1.04, 1.045, 1.06), None), ((1.06, 1.07, 1.08), False)],
)
def test_what_is_asked_is_decided_by_every_run_s_whole_interval(
    script: Any, second: tuple[float, float, float], met: bool | None
) -> None:
    value = script.receipt([one(0, (0.99, 1.0, 1.01)), one(1, second)], "2026-01-02", None)
    figures = {figure["name"]: figure for figure in value["figures"]}
    asked = figures["null_ppl_ratio_alpha0_int4"]
    assert asked["value"] == pytest.approx((1.0 + second[1]) / 2)
    assert (asked["low"], asked["high"], asked["n"]) == (0.99, second[2], 10)
    assert asked["met"] is met
    assert asked["target"] == "at most 1.05"
    assert "2 runs" in asked["note"]
    assert "the same units in each" in asked["note"], "a seed that plants nothing asks the same questions"
    assert value["command"].startswith(
        "sixgig run null-test --preset full --data-dir DATA -s seed=S for S in 0, 1;"
    )
    assert figures["null_test_seconds"]["value"] == 10.5


def test_a_verdict_is_met_where_every_run_s_is_and_one_for_comparison_never(script: Any) -> None:
    runs = [one(0, (0.99, 1.0, 1.01)), one(1, (0.99, 1.0, 1.01), passed=None)]
    figures = {figure["name"]: figure for figure in script.receipt(runs, "2026-01-02", None)["figures"]}
    assert figures["split: c"]["met"] is None
    assert figures["split: d"]["target"], "shown, and not judged"
    assert figures["split: d"]["met"] is None
    assert figures["split: d"]["note"].startswith("for comparison only")
    runs[1] = one(1, (0.99, 1.0, 1.01), passed=False)
    figures = {figure["name"]: figure for figure in script.receipt(runs, "2026-01-02", None)["figures"]}
    assert figures["split: c"]["met"] is False


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: one(1, (0.9, 1.0, 1.1), source_sha256="t"), "differ in code"),
        (lambda: one(1, (0.9, 1.0, 1.1), device_name="another"), "differ in device"),
        (lambda: one(0, (0.9, 1.0, 1.1)), "the same seeds"),
    ],
)
def test_runs_that_are_no_one_measurement_are_refused(script: Any, other: Any, words: str) -> None:
    with pytest.raises(SystemExit, match=words):
        script.receipt([one(0, (0.9, 1.0, 1.1)), other()], "2026-01-02", None)


def test_a_run_without_what_is_asked_is_refused(script: Any) -> None:
    lacking = one(0, (0.9, 1.0, 1.1)).model_copy(update={"scores": []})
    with pytest.raises(SystemExit, match="null_ppl_ratio_alpha0_int4"):
        script.receipt([lacking], "2026-01-02", None)
