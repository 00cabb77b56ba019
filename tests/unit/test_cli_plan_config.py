"""`sixgig plan --config` with the earlier project's files, and the earlier scripts' flags at `sixgig run`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from old_configs import ALL, DENSE, STANDARD, ULTRA_LOW_MEMORY, changed

from sixgig import hardware
from sixgig.cli.main import run
from sixgig.units import GIB

HERE = hardware.probe()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a configuration and returns its path; the machine has 64 GiB of memory and no card."""
    machine = replace(HERE, gpus=(), ram_bytes=64 * GIB)
    monkeypatch.setattr("sixgig.cli.plan.probe", lambda: machine)

    def write_file(content: dict[str, Any]) -> str:
        path = tmp_path / "old.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        return str(path)

    return write_file


def planned(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    assert run(["plan", "--json", *arguments]) == status
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("content", ALL.values(), ids=ALL)
def test_every_file_is_planned(
    content: dict[str, Any], write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    # Mixtral's experts take more than the 24 GB that its file grants the host.
    fits = "Mixtral" not in content["model_name"]
    plan = planned(capsys, "--config", write(content), status=0 if fits else 1)
    assert plan["fits"] is fits
    assert plan["workload"]["bits"] == 4
    assert plan["workload"]["context"] == 128 + content["generation_config"]["max_new_tokens"]
    assert plan["device_bytes"] == (5 * GIB if content is ULTRA_LOW_MEMORY else 6 * 10**9)
    assert plan["ram_bytes"] == 24 * 10**9


def test_the_table_tells_what_was_taken_from_the_file(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--config", write(STANDARD)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "87% of qwen1.5-moe-a2.7b-chat would stay in 16 bit" in shown
    assert "a prompt of 128 tokens, assumed" in shown
    assert "the card counts as 5.59 GiB: max_memory in the file" in shown
    assert "the machine's memory counts as 22.35 GiB: max_memory in the file" in shown


def test_what_is_typed_wins_over_the_file(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["--bits", "4", "--context", "512", "--vram", "8GiB", "--ram", "32GiB"]
    eight_bit = changed(STANDARD, load_in_4bit=False, load_in_8bit=True)
    plan = planned(capsys, "qwen2.5-1.5b-instruct", "--config", write(eight_bit), *typed)
    assert plan["model"] == "qwen2.5-1.5b-instruct"
    # 4 and 512 are the defaults too; typed, they still win.
    assert (plan["workload"]["bits"], plan["workload"]["context"]) == (4, 512)
    assert (plan["device_bytes"], plan["ram_bytes"]) == (8 * GIB, 32 * GIB)
    assert not any("max_memory" in note or "assumed" in note for note in plan["notes"])


def test_a_smaller_card_or_memory_that_is_here_counts(
    write: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = hardware.Gpu(name="x", total_bytes=4 * GIB, free_bytes=0, compute_capability="8.6", driver="1")
    path = write(DENSE)
    machine = replace(HERE, gpus=(gpu,), ram_bytes=16 * GIB)
    monkeypatch.setattr("sixgig.cli.plan.probe", lambda: machine)
    plan = planned(capsys, "--config", path)
    assert (plan["device_bytes"], plan["ram_bytes"]) == (4 * GIB, 16 * GIB)


@pytest.mark.parametrize("changes", [{"device": "cpu"}, {"max_memory": {"0": "0GB"}}])
def test_a_file_can_ask_for_no_card(
    changes: dict[str, Any], write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(capsys, "--config", write(changed(DENSE, **changes)))
    assert plan["device_bytes"] is None
    assert any(note.startswith("no card is planned for") for note in plan["notes"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (changed(STANDARD, model_name="Qwen/Qwen1.5-MoE-A14B-Chat"), "use qwen1.5-moe-a2.7b-chat"),
        (changed(STANDARD, model_name="Qwen/Qwen1.5-1.5B-Instruct"), "use qwen2.5-1.5b-instruct"),
        (changed(STANDARD, model_name="no/such"), "unknown model"),
        ({key: value for key, value in STANDARD.items() if key != "model_name"}, "no model named"),
        (changed(STANDARD, load_in_8bit=True), "both true"),
        (changed(STANDARD, load_in_4bits=True), "load_in_4bit"),
    ],
)
def test_a_file_that_cannot_be_planned_is_bad_input(
    content: dict[str, Any], words: str, write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", "--config", write(content)]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""
    assert "defect" not in captured.err


def test_without_model_and_file_nothing_is_planned(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan"]) == 2
    assert "--config FILE.json" in capsys.readouterr().err
    assert run(["plan", "--config", "absent.json"]) == 2
    assert "absent.json" in capsys.readouterr().err
