"""The earlier scripts' flags at `sixgig run`, and the scripts that run everything."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sixgig.cli.main import _options_of_run, run
from sixgig.cli.old_flags import OLD_EXPERIMENTS, translated
from sixgig.errors import InputError
from sixgig.experiments import known

ROOT = Path(__file__).resolve().parents[2]
EVERY = ("kill-switch", "null-test", "saving-genius", "performance")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIXGIG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SIXGIG_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def all_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this version had every experiment of the scripts."""
    for name in EVERY:
        monkeypatch.setitem(
            known.EXPERIMENTS, name, known.EXPERIMENTS.get(name, known.EXPERIMENTS["null-test"])
        )


def new_words(line: str) -> list[str]:
    return translated(shlex.split(line), _options_of_run, lambda message: None)


@pytest.mark.usefixtures("all_four")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        *((f"--experiment {number}", name) for number, name in OLD_EXPERIMENTS.items()),
        ("--experiment=2", "null-test"),
        ("--device cuda --experiment 1 --model m", "kill-switch --device cuda --model m"),
        ("kill-switch --experiment 1", "kill-switch"),
        ("--experiment 1 --num_seeds 3", "kill-switch --seeds 3"),
        ("--experiment 1 --num_seeds=3", "kill-switch --seeds 3"),
        ("kill-switch --output_dir out", "--out out kill-switch"),
        ("kill-switch --cache_dir /c", "--cache-dir /c kill-switch"),
        ("performance --quantization-bits 8", "-s bitsandbytes_bits=8 performance"),
        ("--experiment all --quantization-bits=4", "all -s performance.bitsandbytes_bits=4"),
        ("--experiment 4 --no-quantization", "performance -s bitsandbytes_bits=0"),
        # The value of an option is no experiment, whatever it looks like.
        ("--out kill-switch --experiment 2", "null-test --out kill-switch"),
        ("-s model=m --experiment 2", "null-test -s model=m"),
    ],
)
def test_old_flags_become_todays_words(old: str, new: str) -> None:
    assert new_words(f"run {old}") == shlex.split(f"run {new}")


@pytest.mark.parametrize(
    "line", ["run kill-switch --seeds 3", "run", "plan m --num_seeds 3", "chat m --quantization-bits 4"]
)
def test_other_command_lines_stay_as_they_are_and_ask_for_nothing(line: str) -> None:
    def asked() -> set[str]:
        raise AssertionError("the options of run were asked for")

    words = shlex.split(line)
    assert translated(words, asked, lambda message: None) == words


@pytest.mark.usefixtures("all_four")
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("kill-switch --experiment 2", "two experiments at once"),
        ("--experiment 1 --experiment 2", "two experiments at once"),
        ("all --experiment 2", "two experiments at once"),
        ("--experiment 9", "1 (kill-switch)"),
        ("--experiment", "1 (kill-switch)"),
        ("--experiment kill-switch", "sixgig run kill-switch"),
        ("--experiment 4 --quantization-bits 5", "4 or 8"),
        ("--experiment 4 --quantization-bits", "4 or 8"),
        ("kill-switch --quantization-bits 8", "-s bits=8"),
        ("kill-switch --quantization-bits 4", "chat MODEL --quantization-bits 4"),
        ("null-test --no-quantization", "the unquantised model is measured in every run"),
    ],
)
def test_contradictions_unknown_numbers_and_flags_without_a_meaning_are_refused(line: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        new_words(f"run {line}")
    assert said in str(caught.value)


def test_every_flag_without_a_meaning_is_named_at_once() -> None:
    with pytest.raises(InputError) as caught:
        new_words("run kill-switch --quantization-bits 4 --no-quantization")
    assert "--quantization-bits, --no-quantization" in str(caught.value)


def test_an_experiment_that_this_version_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(known.EXPERIMENTS, "saving-genius", raising=False)
    with pytest.raises(InputError, match="saving-genius, which this version does not run"):
        new_words("run --experiment 3")


def test_what_was_understood_is_said_and_runs(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--preset", "tiny", "--device", "cpu", "--dry-run", "--json"]
    assert run(["run", "--experiment", "1", "--num_seeds", "2", "--output_dir", "o", *words]) == 0
    captured = capsys.readouterr()
    assert "understood as: sixgig run kill-switch --seeds 2 --out o --preset tiny" in captured.err
    old = json.loads(captured.out)
    assert run(["run", "kill-switch", "--seeds", "2", "--out", "o", *words]) == 0
    assert json.loads(capsys.readouterr().out) == old
    assert old["config"]["seeds"] == [0, 1]


def test_models_are_looked_for_in_the_cache_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[Path | None] = []

    def looked_for(name: str, *, cache_dir: Path | None) -> Path:
        places.append(cache_dir)
        raise InputError("an invented end")

    monkeypatch.setattr("sixgig.experiments.run.model_folder", looked_for)
    words = ["--preset", "tiny", "--device", "cpu", "--cache-dir", str(tmp_path / "elsewhere")]
    assert run(["run", "kill-switch", *words]) == 2
    assert places == [tmp_path / "elsewhere"]


@pytest.mark.skipif(os.name == "nt", reason="there is no sh here")
def test_the_shell_script_is_run_all(tmp_path: Path) -> None:
    """With a `sixgig` on the PATH that is this very source."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "sixgig").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sixgig "$@"\n')
    (commands / "sixgig").chmod(0o755)
    words = ["--dry-run", "--json", "--preset", "tiny", "--device", "cpu", "-s", "bits=3"]
    path = {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}

    def answer(command: list[str]) -> str:
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | path, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout

    script = answer([str(ROOT / "scripts/run_all_experiments.sh"), *words])
    assert script == answer([sys.executable, "-m", "sixgig", "run", "all", *words])
    assert json.loads(script)["experiment"] == "all"


@pytest.mark.skipif(os.name == "nt", reason="there is no sh here")
def test_the_shell_script_says_when_there_is_no_sixgig(tmp_path: Path) -> None:
    shell = shutil.which("sh")
    assert shell is not None
    done = subprocess.run(
        [shell, str(ROOT / "scripts/run_all_experiments.sh")],
        capture_output=True,
        text=True,
        env={"PATH": str(tmp_path)},
        timeout=60,
    )
    assert done.returncode == 2
    assert "not on the PATH" in done.stderr


def test_the_powershell_script_is_run_all_too() -> None:
    """It cannot run here; what it calls can be read."""
    lines = (ROOT / "scripts/run_all_experiments.ps1").read_text().splitlines()
    assert "sixgig run all @args" in lines
    assert lines[-1] == "exit $LASTEXITCODE"
