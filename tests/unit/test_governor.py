"""The governor on a CPU and on a fake card: the cap, its end, samples, peaks, a thread that always ends."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sixgig.errors import InputError
from sixgig.memory import governor as governors
from sixgig.memory.governor import Governor
from sixgig.memory.readings import Peak, Reading, read_memory, read_peak
from sixgig.report.store import RunDirectory
from sixgig.units import GIB, MIB

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)


@dataclass
class FakeCard:
    """What torch.cuda says of a card of 24 GiB, with 1 GiB outside the allocator."""

    total_bytes: int = 24 * GIB
    outside_bytes: int = 1 * GIB
    allocated_bytes: int = 0
    reserved_bytes: int = 0
    max_allocated_bytes: int = 0
    max_reserved_bytes: int = 0
    fractions: list[float] = field(default_factory=list)

    def hold(self, allocated_bytes: int) -> None:
        self.allocated_bytes, self.reserved_bytes = allocated_bytes, allocated_bytes + 64 * MIB
        self.max_allocated_bytes = max(self.max_allocated_bytes, self.allocated_bytes)
        self.max_reserved_bytes = max(self.max_reserved_bytes, self.reserved_bytes)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> FakeCard:
    fake = FakeCard()

    def mem_get_info(device: Any) -> tuple[int, int]:
        return fake.total_bytes - fake.outside_bytes - fake.reserved_bytes, fake.total_bytes

    answers = {
        "mem_get_info": mem_get_info,
        "memory_allocated": lambda device: fake.allocated_bytes,
        "memory_reserved": lambda device: fake.reserved_bytes,
        "max_memory_allocated": lambda device: fake.max_allocated_bytes,
        "max_memory_reserved": lambda device: fake.max_reserved_bytes,
        "reset_peak_memory_stats": lambda device: None,
        "set_per_process_memory_fraction": lambda share, device: fake.fractions.append(share),
        "current_device": lambda: 0,
        "init": lambda: None,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *shape, device=None, dtype=None: ones(*shape, dtype=dtype))
    return fake


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    with RunDirectory.create(tmp_path, "test", {"a": 1}) as directory:
        yield directory


def samples(run: RunDirectory) -> list[dict[str, Any]]:
    return [event for event in run.events() if event["event"] == "memory"]


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited 10 s"
        time.sleep(0.002)


def is_running() -> bool:
    return any(thread.name == "sixgig-governor" for thread in threading.enumerate())


def test_on_a_cpu_resident_memory_alone_is_sampled(run: RunDirectory) -> None:
    with Governor(CPU, log=run.log, interval_seconds=0.001) as governor:
        wait_for(lambda: samples(run))
        assert governor.text().endswith(" GiB")
        assert " of " not in governor.text()
    assert not is_running()
    assert set(samples(run)[0]) == {"seconds", "event", "resident_bytes", "peak"}
    assert governor.peak.resident_bytes >= samples(run)[0]["resident_bytes"] > 2**20
    assert governor.peak.allocated_bytes == governor.peak.device_used_bytes == 0
    assert governor.problem is None


@pytest.mark.parametrize(
    "error", [None, ValueError("a defect"), KeyboardInterrupt(), SystemExit(3)], ids=repr
)
def test_the_thread_ends_the_cap_is_lifted_and_the_peak_is_written_however_the_run_ends(
    error: BaseException | None, run: RunDirectory, card: FakeCard
) -> None:
    def work() -> None:
        with Governor(CARD, budget_bytes=6 * GIB, log=run.log, interval_seconds=0.001):
            assert is_running()
            card.hold(2 * GIB)
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    assert not is_running()
    assert card.fractions[-1] == 1.0
    last = run.events()[-1]
    assert last["event"] == "memory_peak"
    assert last["allocated_bytes"] == 2 * GIB


def test_the_budget_caps_what_remains_after_the_context(card: FakeCard, run: RunDirectory) -> None:
    with Governor(CARD, budget_bytes=6 * GIB, log=run.log):
        assert card.fractions == [pytest.approx(5 / 24)]
    assert card.fractions == [pytest.approx(5 / 24), 1.0]
    (cap,) = [event for event in run.events() if event["event"] == "memory_cap"]
    assert (cap["budget_bytes"], cap["for_tensors_bytes"]) == (6 * GIB, 5 * GIB)


def test_a_card_without_an_index_is_the_current_one(card: FakeCard) -> None:
    with Governor(torch.device("cuda"), budget_bytes=6 * GIB):
        assert card.fractions == [pytest.approx(5 / 24)]


def test_without_a_budget_no_cap_is_set(card: FakeCard) -> None:
    with Governor(CARD):
        pass
    assert card.fractions == []


@pytest.mark.parametrize("budget_bytes", [GIB // 2, 1 * GIB, 25 * GIB])
def test_a_budget_that_the_card_cannot_be_held_to_is_refused(budget_bytes: int, card: FakeCard) -> None:
    with pytest.raises(InputError, match="cannot be held to"):
        Governor(CARD, budget_bytes=budget_bytes).__enter__()
    assert card.fractions == []
    assert not is_running()


def test_a_budget_on_a_cpu_is_refused() -> None:
    with pytest.raises(InputError, match="only a card"):
        Governor(CPU, budget_bytes=GIB)


def test_a_peak_between_two_samples_is_known_from_the_allocator(card: FakeCard, run: RunDirectory) -> None:
    with Governor(CARD, log=run.log, interval_seconds=30) as governor:
        wait_for(lambda: samples(run))
        card.hold(5 * GIB)
        card.hold(1 * GIB)
    assert governor.peak.allocated_bytes == 5 * GIB
    assert governor.peak.reserved_bytes == 5 * GIB + 64 * MIB


def test_the_line_of_progress_holds_use_and_limit(card: FakeCard) -> None:
    with Governor(CARD, budget_bytes=6 * GIB, interval_seconds=0.001) as governor:
        card.hold(2 * GIB)
        wait_for(lambda: governor.text() == "3.1 of 6.0 GiB")
    with Governor(CARD, interval_seconds=0.001) as governor:
        wait_for(lambda: governor.text() == "3.1 of 24.0 GiB")


def test_a_line_is_written_for_a_change_and_not_for_every_sample(
    card: FakeCard, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    fixed = Reading(
        resident_bytes=GIB, allocated_bytes=1000, device_used_bytes=GIB, device_total_bytes=2 * GIB
    )
    monkeypatch.setattr(governors, "read_memory", lambda device: taken.append(1) or current[0])
    monkeypatch.setattr(governors, "read_peak", lambda device: Peak())
    current = [fixed]
    with Governor(CARD, log=run.log, interval_seconds=0.001):
        wait_for(lambda: len(taken) > 20)
        assert len(samples(run)) == 1
        current[0] = replace(fixed, resident_bytes=GIB + GIB // 200)
        wait_for(lambda: len(samples(run)) == 2)  # under 1%, but a new peak
        current[0] = fixed
        seen = len(taken)
        wait_for(lambda: len(taken) > seen + 20)
        assert len(samples(run)) == 2
        current[0] = replace(fixed, allocated_bytes=1020)
        wait_for(lambda: len(samples(run)) == 3)


def test_what_goes_wrong_in_the_thread_is_kept_and_never_raised(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(device: Any) -> Reading:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(governors, "read_memory", broken)
    with Governor(CPU, log=run.log, interval_seconds=0.001) as governor:
        wait_for(lambda: governor.problem is not None)
    assert "illegal memory access" in str(governor.problem)
    assert run.events()[-1]["event"] == "memory_peak"


def test_a_log_that_cannot_be_written_does_not_end_the_run() -> None:
    def full(event: str, **fields: Any) -> None:
        raise OSError(28, "No space left on device")

    with Governor(CPU, log=full, interval_seconds=0.001) as governor:
        wait_for(lambda: governor.problem is not None)
    assert "No space" in str(governor.problem)


def test_lines_of_many_threads_stay_whole_and_in_order(run: RunDirectory) -> None:
    def write(name: int) -> None:
        for number in range(100):
            run.log("step", name=name, number=number, filler="x" * 2000)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (run.path / "events.jsonl").read_text().splitlines()
    events = [event for event in map(json.loads, lines) if event["event"] == "step"]
    assert len(events) == 400
    assert [event["seconds"] for event in events] == sorted(event["seconds"] for event in events)
    for name in range(4):
        assert [event["number"] for event in events if event["name"] == name] == list(range(100))


def test_readings_of_this_process() -> None:
    reading, peak = read_memory(CPU), read_peak(CPU)
    assert set(reading.to_json_value()) == {"resident_bytes"}
    assert peak.resident_bytes >= reading.resident_bytes - MIB  # pages may have come in between


def test_peaks_join_kind_by_kind_and_are_read_back_from_anything() -> None:
    one, other = Peak(resident_bytes=5, allocated_bytes=1), Peak(resident_bytes=3, reserved_bytes=7)
    joined = one.joined(other)
    assert joined == Peak(resident_bytes=5, allocated_bytes=1, reserved_bytes=7)
    assert Peak.from_json_value(joined.to_json_value()) == joined
    for nothing in (None, [], "x", {"resident_bytes": "many"}, {"other": 3}):
        assert Peak.from_json_value(nothing) == Peak()
