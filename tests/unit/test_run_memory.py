"""What a run took of memory: in its result, over resumes, held against the plan, and the budget asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_result import fake_result

from sixgig.cli.main import run
from sixgig.experiments import run as runs
from sixgig.experiments.progress import RunProgress
from sixgig.experiments.run import Request, prepare
from sixgig.experiments.run_memory import recorded_peak, with_memory
from sixgig.hardware import Gpu, Hardware
from sixgig.memory.readings import Peak
from sixgig.report.html import render_html
from sixgig.report.schema import Memory, Result
from sixgig.units import GIB

PEAK = Peak(
    resident_bytes=2 * GIB, allocated_bytes=5 * GIB, reserved_bytes=6 * GIB, device_used_bytes=7 * GIB
)


def result(planned_bytes: int | None, measured_bytes: int | None) -> Result:
    memory = Memory(planned_peak_bytes=planned_bytes, measured_peak_bytes=measured_bytes)
    return fake_result().model_copy(update={"memory": memory, "warnings": ["something else"]})


def measured(planned_bytes: int | None, measured_bytes: int | None, **more: Any) -> Result:
    settings = {"device": "cuda", "budget_bytes": None, "problem": None} | more
    return with_memory(result(planned_bytes, measured_bytes), PEAK, **settings)


def test_a_card_s_peaks_and_budget_stand_in_the_result() -> None:
    got = measured(5 * GIB, None, budget_bytes=8 * GIB).memory
    assert got == Memory(
        planned_peak_bytes=5 * GIB,
        measured_peak_bytes=5 * GIB,
        reserved_peak_bytes=6 * GIB,
        device_used_peak_bytes=7 * GIB,
        resident_peak_bytes=2 * GIB,
        budget_bytes=8 * GIB,
    )


def test_on_a_cpu_the_process_s_peak_is_the_one_and_a_card_s_are_not_there() -> None:
    got = measured(2 * GIB, GIB, device="cpu").memory
    assert got.measured_peak_bytes == got.resident_peak_bytes == 2 * GIB
    assert got.reserved_peak_bytes is got.device_used_peak_bytes is got.budget_bytes is None


def test_what_the_stages_kept_counts_where_it_is_more() -> None:
    assert measured(9 * GIB, 9 * GIB).memory.measured_peak_bytes == 9 * GIB


@pytest.mark.parametrize(
    ("planned_bytes", "words"),
    [
        (5 * GIB, None),
        (int(5 * GIB / 1.09), None),
        (int(5 * GIB / 0.91), None),
        (int(5 * GIB / 1.2), "20% more"),
        (10 * GIB, "50% less"),
        (None, None),
    ],
)
def test_a_plan_that_was_off_by_more_than_a_tenth_is_told(
    planned_bytes: int | None, words: str | None
) -> None:
    got = measured(planned_bytes, None)
    assert got.warnings[0] == "something else"
    assert len(got.warnings) == (1 if words is None else 2)
    if words is not None:
        assert words in got.warnings[1]
        assert "5.00 GiB measured" in got.warnings[1]
        assert words in render_html(got)


def test_samples_that_broke_off_are_told() -> None:
    assert "no disk" in measured(5 * GIB, None, problem="OSError: no disk").warnings[-1]


def test_the_page_shows_every_peak_that_is_known() -> None:
    page = render_html(measured(5 * GIB, None, budget_bytes=8 * GIB))
    for words, size in (
        ("reserved by the allocator", "6.00 GiB"),
        ("in use on the card", "7.00 GiB"),
        ("of the process", "2.00 GiB"),
        ("budget of the run", "8.00 GiB"),
    ):
        assert f"{words}, peak</dt><dd>{size}" in page or f"{words}</dt><dd>{size}" in page
    assert "reserved by the allocator" not in render_html(fake_result())


def test_a_result_of_an_earlier_version_is_still_read(tmp_path: Path) -> None:
    value = fake_result().to_json_value()
    value["memory"] = {"planned_peak_bytes": 1, "measured_peak_bytes": 2}
    (tmp_path / "result.json").write_text(json.dumps(value))
    assert Result.read(tmp_path / "result.json").memory.budget_bytes is None


def test_the_peak_over_all_processes_is_the_greatest_kind_by_kind() -> None:
    events = [
        {"event": "memory", "resident_bytes": 99, "peak": {"resident_bytes": 5, "allocated_bytes": 1}},
        {"event": "memory_peak", "resident_bytes": 4, "allocated_bytes": 8},
        {"event": "memory", "peak": {"resident_bytes": 6, "device_used_bytes": 3}},
        {"event": "step", "resident_bytes": 1000},
    ]
    assert recorded_peak(events) == Peak(resident_bytes=6, allocated_bytes=8, device_used_bytes=3)
    assert recorded_peak([]) == Peak()


def test_progress_shows_what_is_held(capsys: pytest.CaptureFixture[str]) -> None:
    with RunProgress({"plant": 1.0}, memory=lambda: "3.1 of 6.0 GiB") as progress:
        progress.begin("plant")
        progress._last_line = -100.0
        progress.at(0.5)
    assert capsys.readouterr().err.splitlines()[-1].endswith("3.1 of 6.0 GiB")


# ---- --vram ------------------------------------------------------------------------------------------


@pytest.fixture
def large_card(monkeypatch: pytest.MonkeyPatch) -> Hardware:
    card = Gpu(name="Big", total_bytes=80 * GIB, free_bytes=79 * GIB, compute_capability="9.0", driver="1")
    hardware = replace(runs.probe(), gpus=(card,), torch_cuda_version="13.0", ram_bytes=64 * GIB)
    monkeypatch.setattr(runs, "probe", lambda cache_dir: hardware)
    return hardware


def request(**more: Any) -> Request:
    return Request(experiment="kill-switch", settings={}, **more)


def test_a_budget_chooses_preset_and_limit_as_a_card_of_that_size_would(large_card: Hardware) -> None:
    whole, small = prepare(request()), prepare(request(vram_bytes=6 * GIB))
    assert (whole.config.preset, small.config.preset) == ("full", "6g")
    assert small.plan["limit_bytes"] < 6 * GIB < whole.plan["limit_bytes"]
    assert (whole.plan["budget_bytes"], small.plan["budget_bytes"]) == (None, 6 * GIB)
    assert small.plan["device_total_bytes"] == 80 * GIB  # the card is what it is


@pytest.mark.parametrize("vram", ["0", "81GiB"])
def test_a_budget_beyond_the_card_is_refused(
    vram: str, large_card: Hardware, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", "kill-switch", "--vram", vram, "--dry-run"]) == 2
    assert "80.00 GiB" in capsys.readouterr().err


def test_a_budget_on_a_cpu_is_refused_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "kill-switch", "--vram", "6GiB", "--device", "cpu", "--dry-run"]) == 2
    assert "sixgig plan" in capsys.readouterr().err
    assert run(["run", "kill-switch", "--vram", "six", "--dry-run"]) == 2
    assert "neither a size nor a card" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.gpu
def test_a_real_card_runs_out_at_its_budget_and_is_whole_again() -> None:
    from sixgig.memory.governor import Governor
    from sixgig.memory.out_of_memory import is_out_of_memory

    device = torch.device("cuda", 0)

    def take(num_bytes: int) -> torch.Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, device=device)

    with Governor(device, budget_bytes=3 * GIB) as governor:
        held = take(GIB)
        with pytest.raises(RuntimeError) as caught:
            take(2 * GIB)
        assert is_out_of_memory(caught.value)
        del held
    assert GIB <= governor.peak.allocated_bytes < 2 * GIB
    assert take(4 * GIB).numel() == 4 * GIB
