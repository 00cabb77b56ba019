"""`sixgig plan` and `sixgig models` as a person types them: what is chosen, shown and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from sixgig import hardware
from sixgig.cli.main import run
from sixgig.units import GIB

HERE = hardware.probe()


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No card here, 32 GiB of memory."""
    fake = replace(HERE, gpus=(), ram_bytes=32 * GIB)
    for verb in ("plan", "models"):
        monkeypatch.setattr(f"sixgig.cli.{verb}.probe", lambda: fake)


def shown(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert run(list(arguments)) == status
    return capsys.readouterr().out


def document(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    return json.loads(shown(capsys, *arguments, "--json", status=status))


def test_a_card_by_its_name_gets_settings_that_fit_and_a_speed(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "plan", "llama-3-8b", "--vram", "RTX 4050")
    assert "It fits: 4 bits" in text
    assert "not 16 bits: takes at least" in text
    assert "tokens a second" in text


def test_ways_that_take_alike_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "plan", "llama-3-8b", "--task", "sft", "--vram", "6GiB", status=1)
    passed = [line for line in text.splitlines() if line.startswith("  not ")]
    sizes = [line.rpartition("takes at least ")[2] for line in passed]
    assert len(sizes) == len(set(sizes)) == 2
    assert all("(nor 7 more ways like it)" in line for line in passed)


def test_memory_that_is_no_size_is_told_with_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "llama-3-8b", "--ram", "lots"]) == 2
    assert "where: --ram" in capsys.readouterr().err


def test_the_sum_is_that_of_the_lines_and_below_the_card(capsys: pytest.CaptureFixture[str]) -> None:
    value = document(capsys, "plan", "llama-3-8b", "--vram", "6GiB")
    lines = [line["num_bytes"] for line in value["lines"] if line["place"] == "device"]
    assert sum(lines) == value["device_peak_bytes"] <= value["device_bytes"] == 6 * GIB
    assert value["fits"] is True
    assert value["tried"][-1]["fits"] is True
    assert not any(tried["fits"] for tried in value["tried"][:-1])


def test_what_was_asked_is_not_changed(capsys: pytest.CaptureFixture[str]) -> None:
    value = document(capsys, "plan", "llama-3-8b", "--vram", "6GiB", "--bits", "8", status=1)
    assert value["workload"]["bits"] == 8
    assert value["fits"] is False
    assert any("--bits" in answer for answer in value["would_fit"])


def test_training_is_planned_with_the_least_that_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("plan", "smollm2-135m", "--task", "sft", "--context", "1024", "--accumulation", "4")
    roomy = document(capsys, *words, "--vram", "8GiB")["workload"]["training"]
    tight = document(capsys, *words, "--vram", "4GiB")["workload"]["training"]
    assert (roomy["checkpointing"], roomy["loss"]) == (False, "dense")
    assert (tight["checkpointing"], tight["loss"]) != (False, "dense")
    assert tight["accumulation"] == 4


def test_a_mixture_says_its_size_and_where_its_experts_stay(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "plan", "qwen1.5-moe-a2.7b-chat", "--bits", "4", "--vram", "6GiB")
    assert "14.3 B parameters" in text
    assert "experts in RAM" in text
    assert "no measured run" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--task", "sft", "--loss", "denze"), "loss is 'denze'"),
        (("--task", "sft", "--bits", "4"), "--bits 32"),
        (("--task", "sft", "--optimizer", "in-backward", "--accumulation", "2"), "one micro-batch only"),
        (("--context", "0", "--batch", "-1"), "batch is -1"),
        (("--attention", "flash"), "sdpa, eager"),
        (("--head-bits", "5"), "head_bits is 5"),
        (("--task", "score", "--head-bits", "4"), "no way to score"),
        (("--vram", "4060x"), "neither a size nor a card's name"),
    ],
)
def test_bad_input_is_named(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str) -> None:
    assert run(["plan", "smollm2-135m", *words]) == 2
    assert said in capsys.readouterr().err


def test_the_catalogue_says_how_each_model_generates(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"]: row for row in document(capsys, "models", "--vram", "6GiB")["models"]}
    assert rows["llama-3-8b"]["settings"]["generate"].startswith("4 bits")
    assert rows["smollm2-135m-instruct"]["settings"]["generate"] == "16 bits"
    assert rows["llama-3.1-405b"]["fits"] == []
    assert "sft" not in rows["olmoe-1b-7b-0924"]["fits"]
    assert "split" in rows["qwen3-0.6b"]["fits"]
    assert all("split" not in rows[name]["fits"] for name in ("olmoe-1b-7b-0924", "qwen1.5-moe-a2.7b"))
