"""The ladder: moves in order, each told once, kept for the stage, and an end that says what was tried."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_memory import every_form
from hypothesis import given, settings
from hypothesis import strategies as st

from sixgig.errors import OutOfSpaceError, TornStepError
from sixgig.memory import ladder as ladders
from sixgig.memory.ladder import MAX_RESTARTS, Fallbacks, Move, fixed

HALVE = Move[tuple[int, int]](
    lower=lambda size: (size[0] // 2, size[1]) if size[0] > 1 else None, says=lambda size: f"{size[0]} wide"
)
FEWER = Move[tuple[int, int]](
    lower=lambda size: (size[0], size[1] - 1) if size[1] > 1 else None, says=lambda size: f"{size[1]} deep"
)


class Told:
    """What was announced and logged."""

    def __init__(self, **more: Any) -> None:
        self.lines: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.fallbacks = Fallbacks(self.lines.append, self._log, **more)

    def _log(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event, **fields})


def needs(width: int, depth: int) -> Callable[[tuple[int, int]], tuple[int, int]]:
    """Work that runs out of memory above a size, and returns the size at which it ran."""

    def work(size: tuple[int, int]) -> tuple[int, int]:
        if size[0] > width or size[1] > depth:
            raise torch.OutOfMemoryError("invented\nsecond line")
        return size

    return work


def test_work_that_fits_runs_once_and_nothing_is_said() -> None:
    told = Told()
    assert told.fallbacks.ladder("testing", (8, 3), [HALVE, FEWER]).run(needs(8, 3)) == (8, 3)
    assert told.lines == told.events == []


def test_each_move_is_used_up_before_the_next_and_is_announced_and_recorded() -> None:
    told = Told()
    assert told.fallbacks.ladder("testing", (4, 3), [HALVE, FEWER]).run(needs(9, 2), where="unit 7") == (1, 2)
    assert told.lines == [f"out of memory while testing: {move}" for move in ("2 wide", "1 wide", "2 deep")]
    for event, move in zip(told.events, ("2 wide", "1 wide", "2 deep"), strict=True):
        assert (event["event"], event["while"], event["move"]) == ("out_of_memory", "testing", move)
        assert (event["where"], event["error"]) == ("unit 7", "invented")
        assert event["resident_bytes"] > 2**20
    json.dumps(told.events)


@given(width=st.integers(1, 20), depth=st.integers(1, 5))
@settings(deadline=None, max_examples=20)
def test_whatever_fits_somewhere_on_the_ladder_is_found(width: int, depth: int) -> None:
    got = Told().fallbacks.ladder("testing", (16, 5), [HALVE, FEWER]).run(needs(width, depth))
    assert got[0] <= width
    assert got[1] <= depth


def test_a_settled_rung_stays_for_the_stage_and_the_next_stage_begins_at_the_top() -> None:
    told = Told()

    def stage() -> list[tuple[int, int]]:
        first = told.fallbacks.ladder("testing", (4, 1), [HALVE]).run(needs(2, 9))
        return [first, told.fallbacks.ladder("testing", (4, 1), [HALVE]).run(needs(9, 9))]

    assert told.fallbacks.stage("one", stage) == [(2, 1), (2, 1)]
    top = told.fallbacks.stage(
        "two", lambda: told.fallbacks.ladder("testing", (4, 1), [HALVE]).run(needs(9, 9))
    )
    assert top == (4, 1)
    assert len(told.lines) == 1


def test_one_kind_of_work_does_not_lower_another() -> None:
    told = Told()
    told.fallbacks.ladder("measuring", (4, 1), [HALVE]).run(needs(1, 1))
    assert told.fallbacks.ladder("training", (4, 1), [HALVE]).setting == (4, 1)


@pytest.mark.parametrize("error", every_form(), ids=lambda error: str(error)[:30] or type(error).__name__)
def test_no_move_left_is_a_clear_end_with_what_was_tried(error: Exception) -> None:
    told = Told()

    def never(size: tuple[int, int]) -> None:
        raise error

    with pytest.raises(OutOfSpaceError, match="too small for testing") as caught:
        told.fallbacks.ladder("testing", (4, 2), [HALVE, FEWER], todo="use less").run(never, where="unit 7")
    assert caught.value.exit_status == 3
    for part in ("unit 7", "2 wide; 1 wide; 1 deep", "use less"):
        assert part in str(caught.value)
    assert told.events[-1]["move"] == "none is left"
    assert len(told.lines) == 3


def test_other_errors_pass_at_once() -> None:
    def broken(size: int) -> None:
        raise ValueError("a defect")

    told = Told()
    with pytest.raises(ValueError, match="a defect"):
        told.fallbacks.ladder("testing", (4, 2), [HALVE]).run(broken)
    assert told.lines == []


def test_the_failed_try_s_tensors_are_gone_and_all_is_undone_before_the_next() -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    undone: list[int] = []

    def work(size: tuple[int, int]) -> None:
        assert [ref() for ref in alive] == [None] * len(alive)
        assert len(undone) == len(alive)
        kept = torch.zeros(1000)
        alive.append(weakref.ref(kept))
        if size[0] > 1:
            raise torch.OutOfMemoryError("invented")

    ladder = Told().fallbacks.ladder("testing", (4, 1), [HALVE])
    ladder.run(work, undo=lambda: undone.append(1))
    assert len(alive) == 3
    assert len(undone) == 2


def test_a_ladder_without_moves_ends_at_once() -> None:
    with pytest.raises(OutOfSpaceError):
        fixed((4, 1)).run(needs(1, 1))


# ---- stages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_failures", range(MAX_RESTARTS + 2))
def test_a_stage_is_begun_again_a_few_times_where_no_ladder_stands(num_failures: int) -> None:
    told, tries = Told(), []

    def stage() -> str:
        tries.append(1)
        if len(tries) <= num_failures:
            raise MemoryError
        return "done"

    if num_failures > MAX_RESTARTS:
        with pytest.raises(OutOfSpaceError, match="seed0-split"):
            told.fallbacks.stage("seed0-split", stage)
    else:
        assert told.fallbacks.stage("seed0-split", stage) == "done"
    assert len(tries) == min(num_failures, MAX_RESTARTS) + 1
    assert len(told.lines) == min(num_failures, MAX_RESTARTS)


def test_a_torn_step_begins_its_stage_again_from_the_rung_it_came_down_to() -> None:
    told, seen = Told(), []

    def stage() -> int:
        ladder = told.fallbacks.ladder("planting", (4, 1), [HALVE])
        seen.append(ladder.setting[0])

        def step(size: tuple[int, int]) -> int:
            if size[0] > 1:
                raise torch.OutOfMemoryError("invented")
            return size[0]

        def torn() -> None:
            raise TornStepError("some weights had taken a step")

        return ladder.run(step, undo=torn)

    assert told.fallbacks.stage("seed0-plant", stage) == 1
    assert seen == [4, 2, 1]
    assert [line for line in told.lines if "begun again" in line]


def test_what_ends_a_ladder_within_a_stage_ends_the_stage() -> None:
    told, tries = Told(), []

    def stage() -> None:
        tries.append(1)
        told.fallbacks.ladder("planting", (1, 1), [HALVE]).run(needs(0, 0))

    with pytest.raises(OutOfSpaceError, match="planting"):
        told.fallbacks.stage("seed0-plant", stage)
    assert len(tries) == 1


# ---- the allocator's statistics ----------------------------------------------------------------------


@pytest.fixture
def fake_card(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: {"allocated_bytes.all.peak": 17})
    monkeypatch.setattr(
        ladders, "read_memory", lambda device: ladders.Reading(resident_bytes=1, allocated_bytes=2)
    )
    return torch.device("cuda", 0)


def test_on_a_card_the_allocator_s_statistics_are_kept_at_the_end(
    tmp_path: Path, fake_card: torch.device
) -> None:
    told = Told(device=fake_card, folder=tmp_path)
    with pytest.raises(OutOfSpaceError, match=r"out-of-memory\.json"):
        told.fallbacks.ladder("testing", (1, 1), [HALVE]).run(needs(0, 0))
    kept = json.loads((tmp_path / "out-of-memory.json").read_text())
    assert kept == {"device": "cuda:0", "allocated_bytes.all.peak": 17}
    assert told.events[-1]["allocated_bytes"] == 2


def test_a_folder_that_cannot_be_written_does_not_hide_the_lack_of_memory(
    tmp_path: Path, fake_card: torch.device
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    told = Told(device=fake_card, folder=in_the_way)
    with pytest.raises(OutOfSpaceError, match="too small for testing") as caught:
        told.fallbacks.ladder("testing", (1, 1), [HALVE]).run(needs(0, 0))
    assert "could not be written" in str(caught.value)


def test_on_a_cpu_nothing_is_written(tmp_path: Path) -> None:
    told = Told(device=torch.device("cpu"), folder=tmp_path)
    with pytest.raises(OutOfSpaceError):
        told.fallbacks.ladder("testing", (1, 1), [HALVE]).run(needs(0, 0))
    assert list(tmp_path.iterdir()) == []
