"""The null test and performance from the command line: refusals, plans, runs of a tiny model, resumes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fake_mmlu import write_mmlu
from other_data import assert_other_data_is_refused
from tiny_model import tiny_folder

from sixgig.catalogue import get
from sixgig.cli.main import run
from sixgig.data.corpora import load_public_text
from sixgig.experiments import null_test, null_test_texts
from sixgig.experiments.known import EXPERIMENTS
from sixgig.experiments.settings import as_plain
from sixgig.report.schema import Result

NULL_TEST = {
    "window_tokens": 64,
    "num_windows": 4,
    "num_mmlu": 6,
    "num_mmlu_subjects": 2,
    "compared_tokens": 32,
    "group_size": 8,
    "rank": 2,
    "sparse_share": 0.02,
    "calibration_window": 32,
    "num_calibration_windows": 2,
    "fit_window": 32,
    "fit_steps": 2,
}
PERFORMANCE = {
    "prompt_tokens": 8,
    "tokens_per_round": 3,
    "num_rounds": 3,
    "group_size": 8,
    "rank": 2,
    "sparse_share": 0.02,
    "calibration_window": 32,
    "num_calibration_windows": 1,
    "bandwidth_seconds": 0.01,
}
OTHERS = [name for name in EXPERIMENTS if name != "kill-switch"]


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


def arguments(experiment: str, tiny: Path, out: Path, *more: str) -> list[str]:
    settings = NULL_TEST if experiment == "null-test" else PERFORMANCE
    words = [part for key, value in settings.items() for part in ("-s", f"{key}={json.dumps(value)}")]
    places = ["--model", str(tiny), "--device", "cpu", "--out", str(out)]
    return ["run", experiment, "--preset", "tiny", *places, *words, *more]


def result_of(out: Path) -> tuple[Path, Result]:
    (folder,) = out.iterdir()
    return folder, Result.read(folder / "result.json")


# ---- plans and refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["null-test", "-s", "bits=5"], "bits must be 2 or 3 or 4 or 8"),
        (["null-test", "-s", "num_windows=1"], "num_windows must be at least 2"),
        (["null-test", "-s", "stride=4096"], "stride must be at most window_tokens"),
        (["null-test", "-s", "num_mmlu=1"], "num_mmlu must be 0 or at least 2"),
        (["null-test", "-s", "fit_learning_rate=0"], "fit_learning_rate must be above 0"),
        (["null-test", "-s", "num_window=3"], "did you mean num_windows"),
        (["null-test", "--seeds", "3"], "did you mean seed"),
        (["null-test", "--preset", "huge"], "unknown preset"),
        (["performance", "-s", "num_rounds=1"], "num_rounds must be at least 2"),
        (["performance", "-s", "energy_seconds=0", "-s", "bits=7"], "energy_seconds must be above 0"),
        (["performance", "-s", "bitsandbytes_bits=3"], "bitsandbytes_bits must be 0 (none), 4 or 8, not 3"),
        (["null-test", "-s", "bitsandbytes_bits=4"], "unknown setting: bitsandbytes_bits"),
        (["performance", "-s", "sparse_share=2"], "sparse_share must be from 0 to 1"),
        (["performence"], "did you mean performance"),
    ],
)
def test_wrong_settings_are_refused_by_name(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", *words, "--dry-run", "--device", "cpu"]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert "defect" not in shown.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("preset", ["tiny", "cpu", "4g", "6g", "8g", "full"])
def test_every_preset_is_planned_and_reads_back_as_settings(
    name: str, preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dry-run", "--json", "--device", "cpu"]
    assert run(["run", name, *words, "--preset", preset]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["config"] == as_plain(EXPERIMENTS[name].presets[preset])
    assert shown["config"]["preset"] == preset
    assert shown["plan"]["task"] == EXPERIMENTS[name].task
    file = tmp_path / "again.yaml"
    file.write_text(yaml.safe_dump(shown["config"]))
    assert run(["run", name, *words, "--config", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["config"] == shown["config"]


@pytest.mark.parametrize("name", [name for name in OTHERS if name != "dual-dp"])  # it plants: test_dual_dp.py
def test_presets_fit_the_cards_that_they_are_named_after(name: str) -> None:
    spec, experiment = get("smollm2-135m-instruct"), EXPERIMENTS[name]
    for preset, gib in (("4g", 4), ("6g", 6), ("8g", 8)):
        assert experiment.peak_bytes(spec, experiment.preset(preset), "cuda") < (gib - 1) * 2**30


@pytest.mark.parametrize("name", OTHERS)
def test_a_model_too_large_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", name, "--model", "llama-3.1-405b", "--device", "cpu", "--dry-run"]) == 1
    assert "does not fit" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "name"), [("2", "null-test"), ("4", "performance")])
def test_the_earlier_scripts_numbers_lead_here(
    number: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", "--experiment", number]) == 2
    assert f"sixgig run {name}" in capsys.readouterr().err


# ---- the null test -----------------------------------------------------------------------------------


@pytest.fixture
def with_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of invented questions; the public text stays the package's own."""
    monkeypatch.setattr(
        null_test_texts,
        "load_public_text",
        lambda purpose, data_dir: load_public_text(purpose, data_dir=None),
    )
    return write_mmlu(tmp_path / "data")


def test_a_null_test_ends_with_a_split_that_is_int4_to_the_bit(
    tiny: Path, tmp_path: Path, with_questions: Path
) -> None:
    out = tmp_path / "runs"
    status = run(arguments("null-test", tiny, out, "--data-dir", str(with_questions)))
    folder, result = result_of(out)
    assert status == (1 if result.passed is False else 0)
    exact = [v for v in result.verdicts if "with alpha at 0" in v.criterion]
    assert [v.passed for v in exact] == [True] * 4
    assert result.score("ppl_ratio_int4", "split", 0.0).value == 1  # type: ignore[union-attr]
    assert result.score("ppl_ratio_int4", "split", 1.0).value != 1  # type: ignore[union-attr]
    assert result.exp2_null_test is not None
    assert {"ppl_fp16", "mmlu_fp16", "mmlu_libortho_alpha0"} <= set(result.exp2_null_test)
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert sum(row["kind"] == "window" for row in rows) == 4 * 4
    assert sum(row["kind"] == "question" for row in rows) == 4 * 6
    assert not (folder / "work").exists()
    page = (folder / "report.html").read_text()
    assert "What the split costs when it removes nothing" in page
    assert "exp2_null_test" in page
    assert "exposure was measured" not in page, "another experiment's figures"


def test_without_questions_the_result_says_so_and_has_no_row_of_them(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    assert run(arguments("null-test", tiny, out)) in (0, 1)
    _, result = result_of(out)
    assert any("MMLU was not measured" in warning for warning in result.warnings)
    assert not [score for score in result.scores if "mmlu" in score.name]
    assert result.exp2_null_test is not None
    assert not [key for key in result.exp2_null_test if "mmlu" in key]
    assert all(source["synthetic"] for source in result.provenance["data_sources"])


def test_an_interrupted_null_test_resumes_to_the_same_numbers(
    tiny: Path, tmp_path: Path, with_questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--data-dir", str(with_questions))
    assert run(arguments("null-test", tiny, tmp_path / "whole", *more)) in (0, 1)
    looked = null_test.sequence_nlls
    calls: list[int] = []

    def interrupted(*given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return looked(*given, **named)

    monkeypatch.setattr(null_test, "sequence_nlls", interrupted)
    cut = tmp_path / "cut"
    assert run(arguments("null-test", tiny, cut, *more)) == 130
    monkeypatch.setattr(null_test, "sequence_nlls", looked)
    again = arguments("null-test", tiny, cut, *more, "--resume")
    (folder,) = cut.iterdir()
    assert_other_data_is_refused(folder, lambda: run(again))
    assert run(again) in (0, 1)
    (one, ours), (other, theirs) = result_of(cut), result_of(tmp_path / "whole")
    assert (ours.scores, ours.verdicts) == (theirs.scores, theirs.verdicts)
    assert (one / "samples.jsonl").read_bytes() == (other / "samples.jsonl").read_bytes()


# ---- performance -------------------------------------------------------------------------------------


def test_performance_times_all_arms_and_a_resume_leaves_them_as_they_are(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    status = run(arguments("performance", tiny, out))
    folder, result = result_of(out)
    assert status == (1 if result.passed is False else 0)
    places = [(s.arm, s.alpha) for s in result.scores if s.name == "latency"]
    assert places == [("fp16", None), ("int4", None), ("split", 0.0), ("split", 1.0)]
    assert all((s.value or 0) > 0 for s in result.scores if s.name in ("latency", "achieved_bandwidth"))
    needed = {(s.arm, s.alpha): s.value for s in result.scores if s.name == "bytes_per_token"}
    assert needed["split", 0.0] == needed["int4", None]
    assert (needed["split", 1.0] or 0) > (needed["int4", None] or 0)
    assert result.exp4_performance is not None
    assert result.score("energy", "fp16", None).note  # type: ignore[union-attr]
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 4 * 3
    assert all(len(row["token_seconds"]) == 3 for row in rows)
    before = (folder / "result.json").read_bytes()
    assert run(arguments("performance", tiny, out, "--resume")) == status
    assert (folder / "result.json").read_bytes() == before
    assert run(["report", str(folder), str(folder)]) in (0, 2)
