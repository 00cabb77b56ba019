"""`sixgig run`: what is refused and how, what a dry run touches, and a whole run on a tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_model import tiny_folder
from untimed import untimed_scores

from sixgig.cli.main import run
from sixgig.experiments import kill_switch_splits
from sixgig.experiments.presets import PRESETS
from sixgig.experiments.settings import as_plain, changed
from sixgig.report.schema import Result

TINY = {
    "seeds": [0],
    "sieves": ["hessian", "wiener"],
    "relearned": [],
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


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty cache, no benchmark data, one thread, and a folder of its own to work in."""
    monkeypatch.setenv("SIXGIG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SIXGIG_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def nothing_was_written(folder: Path) -> bool:
    return not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["kill-swich"], "did you mean kill-switch"),
        (["kill-switch", "--preset", "tinny"], "did you mean tiny"),
        (["kill-switch", "-s", "preset=tinny"], "did you mean tiny"),
        (["kill-switch", "-s", "preset=5"], "unknown preset: 5"),
        (["kill-switch", "--device", "gpu"], "unknown device: gpu"),
        (["kill-switch", "--model", "smollm2-135m-instrct"], "smollm2-135m-instruct"),
        (["kill-switch", "--model", "olmoe-1b-7b-0924"], "mixtures of experts cannot be split yet"),
        (["null-test", "--model", "olmoe-1b-7b-0924"], "olmoe-1b-7b-0924 (OlmoeForCausalLM)"),
        (["kill-switch", "--model", "some-one/model"], "sixgig fetch some-one/model"),
        (["kill-switch", "-s", "sieves=wiener,winer"], "did you mean wiener"),
        (["kill-switch", "-s", "num_heldot=24"], "did you mean num_heldout"),
        (["kill-switch", "-s", "num_heldot=24", "-s", "bits=four"], "bits must be a whole number"),
        (["kill-switch", "-s", "bits=5"], "bits must be 2 or 3 or 4 or 8"),
        (["kill-switch", "-s", "bits"], "key=value"),
        (["kill-switch", "--seeds", "0"], "seeds"),
        (["kill-switch", "--seeds", "two"], "--seeds"),
        (["kill-switch", "--config", "absent.yaml"], "absent.yaml"),
        (["kill-switch", "--nonsense"], "--nonsense"),
        ([], "experiment"),
    ],
)
def test_bad_input_is_named_on_stderr_with_status_2_before_anything_is_written(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", *arguments, "--dry-run"]) == 2
    captured = capsys.readouterr()
    assert words.lower() in captured.err.lower()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert "defect" not in captured.err
    assert nothing_was_written(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a usable GPU is here")
def test_a_gpu_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "kill-switch", "--device", "cuda", "--dry-run"]) == 2
    assert "--device cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"bits: [4", "not valid YAML"),
        (b"- bits\n- seeds\n", "not settings"),
        (b"", "not settings"),
        (b"just words", "not settings"),
        (b"name: M\xfcller", "UTF-8"),
        (b"1: 2\n", "unknown setting: 1"),
        (b"bits: 5\n", "bits must be"),
        (b"bits: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        (b"x" * (2**20 + 1), "too large"),
        (b"preset: [cpu]\n", "unknown preset"),
    ],
)
def test_a_broken_settings_file_is_refused_by_name(
    content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "broken.yaml"
    file.write_bytes(content)
    assert run(["run", "kill-switch", "--config", str(file), "--dry-run"]) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert "defect" not in shown


def test_a_model_that_was_not_fetched_is_named_with_the_command_that_fetches_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", "kill-switch", "--preset", "tiny"]) == 2
    assert "sixgig fetch smollm2-135m-instruct" in capsys.readouterr().err
    assert nothing_was_written(tmp_path)


def test_a_model_too_large_is_refused_with_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "kill-switch", "--model", "llama-3.1-405b", "--device", "cpu", "--dry-run"]) == 1
    assert "does not fit" in capsys.readouterr().err


# ---- a dry run ---------------------------------------------------------------------------------------


def dry_run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    assert run(["run", "kill-switch", "--dry-run", "--json", "--device", "cpu", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_dry_run_prints_one_document_and_loads_nothing(tmp_path: Path) -> None:
    script = (
        "import sys; from sixgig.cli.main import run; "
        "status = run(['run', 'kill-switch', '--dry-run', '--json', '--device', 'cpu']); "
        "print('loaded:', *({'torch', 'transformers', 'safetensors'} & set(sys.modules)), file=sys.stderr); "
        "sys.exit(status)"
    )
    # The cache is empty: a dry run that looked for weights would end with an error.
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"experiment", "device", "plan", "config"}
    assert done.stderr.split() == ["loaded:"]
    assert nothing_was_written(tmp_path)


def test_a_dry_run_shows_the_settings_that_a_run_would_have(capsys: pytest.CaptureFixture[str]) -> None:
    shown = dry_run(["--preset", "tiny", "-s", "bits=3", "--seeds", "2"], capsys)
    wanted = as_plain(changed(PRESETS["tiny"], {"bits": 3, "seeds": [0, 1]}, where="test"))
    assert shown["config"] == wanted
    assert shown["plan"]["peak_bytes"] > 0


def test_words_count_over_the_file_and_the_file_over_the_preset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: tiny\nbits: 3\nrank: 5\n")
    shown = dry_run(["--config", str(file), "-s", "rank=7"], capsys)["config"]
    assert (shown["preset"], shown["bits"], shown["rank"]) == ("tiny", 3, 7)
    assert shown["num_decoys"] == PRESETS["tiny"].num_decoys
    assert dry_run(["--config", str(file), "--preset", "cpu"], capsys)["config"]["preset"] == "cpu"


def test_a_preset_named_by_a_word_is_that_preset_and_not_a_label(capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(["-s", "preset=tiny"], capsys)["config"] == as_plain(PRESETS["tiny"])


@pytest.mark.parametrize("name", PRESETS)
def test_every_presets_dry_run_reads_back_as_a_settings_file(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = dry_run(["--preset", name], capsys)["config"]
    file = tmp_path / "again.yaml"
    file.write_text(yaml.safe_dump(shown))
    assert dry_run(["--config", str(file)], capsys)["config"] == shown


def test_a_dry_run_for_people_prints_settings_that_can_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "kill-switch", "--dry-run", "--preset", "tiny", "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert yaml.safe_load(captured.out) == as_plain(PRESETS["tiny"])
    assert "nothing was loaded" in captured.err


# ---- a whole run on a tiny model ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


def arguments_for(tiny: Path, out: Path, *more: str) -> list[str]:
    words = [f"{key}={json.dumps(value)}" for key, value in TINY.items()]
    options = [part for word in words for part in ("-s", word)]
    places = ["--model", str(tiny), "--device", "cpu", "--out", str(out)]
    return ["run", "kill-switch", "--preset", "tiny", *places, *options, *more]


def only_run(out: Path) -> Path:
    (folder,) = out.iterdir()
    return folder


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SIXGIG_DATA", raising=False)
        assert run(arguments_for(tiny, out)) in (0, 1)
    return only_run(out)


def assert_same_numbers(resumed: Path, whole: Path) -> None:
    ours, theirs = (Result.read(folder / "result.json") for folder in (resumed, whole))
    assert untimed_scores(ours.scores) == untimed_scores(theirs.scores)
    assert ours.verdicts == theirs.verdicts
    assert ours.examples == theirs.examples
    assert (resumed / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()


def test_a_run_ends_with_a_result_that_a_resume_leaves_as_it_is(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    status = run(arguments_for(tiny, out, "--json"))
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    folder = only_run(out)
    assert Path(document["folder"]) == folder
    result = Result.read(folder / "result.json")
    assert result.to_json_value() == document["result"]
    assert status == (1 if result.passed is False else 0)
    assert result.status == "complete"
    assert {"config.yaml", "events.jsonl", "samples.jsonl", "report.html", "figures"} <= {
        part.name for part in folder.iterdir()
    }
    assert not (folder / "work").exists()
    assert len(result.examples) == 5
    assert result.provenance["data_sources"][0]["synthetic"] is True
    before = (folder / "result.json").read_bytes()
    assert run(arguments_for(tiny, out, "--json", "--resume")) == status
    assert (folder / "result.json").read_bytes() == before
    assert only_run(out) == folder
    assert json.loads(capsys.readouterr().out) == document
    # Its own config.yaml runs it again.
    assert run(["run", "kill-switch", "--dry-run", "--json", "--config", str(folder / "config.yaml")]) == 0
    again = json.loads(capsys.readouterr().out)["config"]
    assert again == {key: value for key, value in result.config.items() if key in again}
    assert run(["report", str(folder)]) == 0


@pytest.mark.parametrize("others", [(), ("kill-switch", "notes", "null-test-20260101-000000-00000000")])
def test_a_resume_without_a_run_is_refused(
    others: tuple[str, ...], tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in others:
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert run(arguments_for(tiny, tmp_path / "runs", "--resume")) == 2
    shown = capsys.readouterr().err
    assert "no run to resume" in shown
    assert "without --resume" in shown


def test_an_interrupted_run_ends_with_130_and_resumes_to_the_same_scores(
    tiny: Path,
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fit = kill_switch_splits.fit_ortho

    def interrupted(*arguments: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(kill_switch_splits, "fit_ortho", interrupted)
    out = tmp_path / "interrupted"
    assert run(arguments_for(tiny, out)) == 130
    assert not (only_run(out) / "result.json").exists()
    monkeypatch.setattr(kill_switch_splits, "fit_ortho", fit)
    capsys.readouterr()

    # With other settings it would not be the same run.
    assert run(arguments_for(tiny, out, "--resume", "-s", "rank=3")) == 2
    assert "rank" in capsys.readouterr().err

    assert run(arguments_for(tiny, out, "--resume")) in (0, 1)
    assert "report: " in capsys.readouterr().out
    assert_same_numbers(only_run(out), whole)


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9 here")
def test_a_run_killed_outright_twice_resumes_to_the_same_scores(
    tiny: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    for stage, more in (("seed0-plant", ()), ("seed0-split", ("--resume",))):
        command = [sys.executable, "-m", "sixgig", *arguments_for(tiny, out, *more)]
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        deadline = time.monotonic() + 120
        while not list(out.glob(f"*/stages/{stage}.json")) and time.monotonic() < deadline:
            assert process.poll() is None, f"the run ended before {stage}"
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (only_run(out) / "result.json").exists()
    assert run(arguments_for(tiny, out, "--resume")) in (0, 1)
    assert_same_numbers(only_run(out), whole)


def test_running_out_of_memory_for_good_is_status_3(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*arguments: Any, **more: Any) -> Any:
        raise torch.OutOfMemoryError("invented: no memory left")

    monkeypatch.setattr("sixgig.evaluate.observation.score_secrets", no_memory)
    assert run(arguments_for(tiny, tmp_path / "runs")) == 3
    assert "too small" in capsys.readouterr().err
    events = (only_run(tmp_path / "runs") / "events.jsonl").read_text()
    assert "out of memory while measuring" in events
