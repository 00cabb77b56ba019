"""`sixgig chat` with a plain model: as it is, or as bitsandbytes loads it (a fake); and what it refuses."""

from __future__ import annotations

import importlib.util
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from artifact_tools import saved
from tiny_model import tiny_folder

from sixgig.cli.main import run
from sixgig.load import bnb
from sixgig.load.loaded import LoadedModel, load

SHORT = ("--max-new-tokens", "6", "--device", "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("plain") / "tiny")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("split"))[0]


@pytest.fixture
def fake_load(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """bitsandbytes' place taken by the model in bf16; the bits that it was asked for."""
    asked: list[int] = []

    def load_quantised(folder: Path, *, bits: int, device: Any) -> tuple[LoadedModel, None]:
        asked.append(bits)
        return replace(load(folder, dtype=torch.bfloat16, device=device), computes_on=f"fake, {bits}"), None

    monkeypatch.setattr(bnb, "load_quantised", load_quantised)
    return asked


def test_a_plain_model_answers_in_its_own_type(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "hello\n/alpha 1\n/alpha 0\nhello\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert run(["chat", str(model), "--no-quantization", *SHORT]) == 0
    talked = capsys.readouterr()
    assert run(["chat", str(model), "--no-quantization", "--prompt", "hello", *SHORT]) == 0
    once = capsys.readouterr()
    assert once.err == "reference kernels: dense weights, float32 activations\n"
    assert once.out
    assert talked.out == 2 * once.out
    assert "not split, so without alpha" in talked.err
    assert "no Ortho part" in talked.err


@pytest.mark.parametrize("bits", [4, 8])
def test_what_bitsandbytes_loaded_is_said_first(
    model: Path, fake_load: list[int], bits: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["chat", str(model), "--quantization-bits", str(bits), "--prompt", "hello", *SHORT]) == 0
    captured = capsys.readouterr()
    assert fake_load == [bits]
    assert captured.err == f"fake, {bits}, bfloat16 activations\n"
    assert captured.out.endswith("\n")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--quantization-bits", "4", "--no-quantization"], "contradict each other"),
        (["--quantization-bits", "3"], "bitsandbytes quantises to other widths"),
        (["--quantization-bits", "four"], "--quantization-bits"),
        (["--no-quantization", "--alpha", "1"], "it has no Ortho part"),
        (["--no-quantization", "--kernels", "packed"], "no packed layers"),
        (["--quantization-bits", "4", "--kernels", "fast"], "unknown kernels"),
        ([], "add --no-quantization"),
    ],
)
def test_wrong_choices_are_refused(
    model: Path,
    flags: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "fast" in flags:
        monkeypatch.setattr(bnb, "load_quantised", lambda folder, **_: (load(folder), None))
    assert run(["chat", str(model), "--prompt", "x", *SHORT, *flags]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert "defect" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("flags", [["--quantization-bits", "4"], ["--no-quantization"]])
@pytest.mark.parametrize(("part", "kind"), [(".", "a split"), ("base", "a Base")])
def test_a_split_keeps_its_own_bits(
    split: Path, part: str, kind: str, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["chat", str(split / part), "--prompt", "x", *SHORT, *flags]) == 2
    captured = capsys.readouterr()
    assert "a split's Base has its own bits" in captured.err
    assert f"received: {kind}\n" in captured.err


def test_a_name_that_is_unknown_or_not_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIXGIG_CACHE", str(tmp_path))
    assert run(["chat", "smollm2-135m-instruct", "--no-quantization", "--prompt", "x"]) == 2
    assert "sixgig fetch smollm2-135m-instruct" in capsys.readouterr().err
    assert run(["chat", "smollm", "--quantization-bits", "4", "--prompt", "x"]) == 2
    assert "unknown model" in capsys.readouterr().err


def test_without_the_library_it_says_what_to_install(
    model: Path, without_bitsandbytes: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["chat", str(model), "--quantization-bits", "4", "--prompt", "x", *SHORT]) == 2
    assert "sixgig[compare]" in capsys.readouterr().err


@pytest.fixture
def without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "bitsandbytes" else found(name, *more),
    )
