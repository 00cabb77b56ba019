"""`sixgig chat`: answers stream, the switch turns live, and what a model says cannot steer the terminal."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from artifact_tools import parts, saved
from tiny_model import tiny_folder

from sixgig.cli.chat import Talk, printable
from sixgig.cli.main import run
from sixgig.errors import InputError
from sixgig.load.artifact import open_base, open_split, save_split
from sixgig.runtime.pack_cpu import why_no_kernel

needs_kernel = pytest.mark.skipif(why_no_kernel() is not None, reason=why_no_kernel() or "")
SHORT = ("--max-new-tokens", "6", "--device", "cpu")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("chat"))[0]


def answered(arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    assert run(["chat", *arguments, *SHORT]) == 0
    return capsys.readouterr().out


def test_one_prompt_one_answer_the_same_each_time(split: Path, capsys: pytest.CaptureFixture) -> None:
    first = answered([str(split), "--prompt", "hello"], capsys)
    assert first.endswith("\n")
    assert first == answered([str(split), "--prompt", "hello"], capsys)


def test_alpha_0_answers_as_the_base_alone(split: Path, capsys: pytest.CaptureFixture) -> None:
    without = answered([str(split), "--prompt", "hello", "--alpha", "0"], capsys)
    assert without == answered([str(split / "base"), "--prompt", "hello"], capsys)
    assert without != answered([str(split), "--prompt", "hello"], capsys)


def test_the_switch_turns_while_talking(
    split: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "hello\n/alpha 0\nhello\n\n/alpha x\n/what\n/alpha 1\nhello\n/quit\nnever read\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert run(["chat", str(split), *SHORT]) == 0
    captured = capsys.readouterr()
    with_ortho = answered([str(split), "--prompt", "hello"], capsys)
    without = answered([str(split), "--prompt", "hello", "--alpha", "0"], capsys)
    assert captured.out == with_ortho + without + with_ortho
    assert "alpha must be a number" in captured.err
    assert "no such command: /what" in captured.err


def test_the_end_of_input_ends(
    split: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run(["chat", str(split), *SHORT]) == 0
    assert capsys.readouterr().out == ""


def test_sampling_follows_its_seed(split: Path, capsys: pytest.CaptureFixture) -> None:
    def sampled(seed: str) -> str:
        words = [str(split), "--prompt", "hello", "--temperature", "2", "--seed", seed]
        return answered(words, capsys)

    assert sampled("1") == sampled("1")
    assert len({sampled(str(seed)) for seed in range(4)}) > 1


def test_a_split_without_its_ortho_part_says_so(
    split: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    copy = Path(shutil.copytree(split, tmp_path / "copy"))
    shutil.rmtree(copy / "ortho")
    assert run(["chat", str(copy), "--prompt", "hello", *SHORT]) == 0
    assert "Base alone" in capsys.readouterr().err
    assert run(["chat", str(copy), "--alpha", "1", "--prompt", "hello", *SHORT]) == 2
    assert "only the Base is here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--alpha", "nan"], "alpha must be a number"),
        (["--temperature", "-1"], "--temperature"),
        (["--max-new-tokens", "0"], "--max-new-tokens"),
        (["--prompt", "long " * 100], "longer than the model reads"),
        (["--raw", "--prompt", ""], "the text is empty"),
    ],
)
def test_bad_input(split: Path, capsys: pytest.CaptureFixture, more: list[str], words: str) -> None:
    assert run(["chat", str(split), "--device", "cpu", "--prompt", "x", *more]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_a_folder_that_is_no_split(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(["chat", str(tmp_path), "--prompt", "x"]) == 2
    assert "not a split" in capsys.readouterr().err
    assert run(["chat", str(tmp_path / "nowhere"), "--prompt", "x"]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_without_a_template_only_raw_works(tmp_path: Path) -> None:
    model = tiny_folder(tmp_path / "model", template=False)
    bases, orthos = parts(model)
    save_split(
        tmp_path / "split", loaded_folder=model, bases=bases, orthos=orthos, manifest={}, factor_bits=8
    )
    loaded = open_base(tmp_path / "split" / "base")
    options = {"max_new_tokens": 3, "temperature": 0.0, "seed": 0}
    with pytest.raises(InputError, match="no chat template"):
        Talk(loaded, raw=False, **options)
    assert Talk(loaded, raw=True, **options).answer("abc")


def test_the_conversation_is_read_until_alpha_turns(split: Path) -> None:
    talk = Talk(open_split(split), max_new_tokens=4, temperature=0.0, raw=False, seed=0)
    first = len(talk._ids("hello"))
    talk.answer("hello")
    assert len(talk._ids("hello")) > first
    talk.turn(1.0)
    assert len(talk._ids("hello")) == first


@pytest.fixture(scope="module")
def packable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split whose layers the INT4 kernel can hold."""
    folder = tmp_path_factory.mktemp("packable")
    model = tiny_folder(folder / "model", hidden_size=64, intermediate_size=96)
    bases, orthos = parts(model, group_size=32)
    split = folder / "split"
    save_split(split, loaded_folder=model, bases=bases, orthos=orthos, manifest={}, factor_bits=8)
    return split


@needs_kernel
def test_packed_layers_with_a_live_switch(
    packable: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "hello\n/alpha 0\nhello\n/alpha 1\nhello\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert run(["chat", str(packable), "--kernels", "packed", *SHORT]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("INT4 kernels of torch (4-bit codes), bf16 activations, 8-bit head\n")
    with_ortho = answered([str(packable), "--prompt", "hello"], capsys)
    without = answered([str(packable / "base"), "--prompt", "hello"], capsys)
    assert with_ortho != without
    assert captured.out == with_ortho + without + with_ortho


def test_the_reference_says_so_and_answers(packable: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = [str(packable), "--prompt", "hello", "--kernels", "reference"]
    assert run(["chat", *arguments, *SHORT]) == 0
    assert capsys.readouterr().err == "reference kernels: dense weights, float32 activations\n"


def test_what_is_missing_is_said_once(split: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(["chat", str(split), "--prompt", "hello", *SHORT]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("reference kernels")
    assert len([line for line in lines if "slower" in line]) == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--kernels", "fast"], "unknown kernels"),
        (["--kernels", "packed"], "no layer fits the INT4 kernel"),
        (["--top-p", "0"], "top-p out of range"),
        (["--context-tokens", "20", "--prompt", "as long as the cache"], "--context-tokens"),
    ],
)
def test_bad_choices(split: Path, capsys: pytest.CaptureFixture, more: list[str], words: str) -> None:
    assert run(["chat", str(split), "--prompt", "x", *SHORT, *more]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\r\x9bc\n\td é 😀") == "a[2Jbc\n\td é 😀"
