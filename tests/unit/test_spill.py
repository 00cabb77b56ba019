"""Spilling is told once, from slow steps on a full card, on systems where drivers page out."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from types import SimpleNamespace

import pytest

from sixgig.memory import spill
from sixgig.memory.spill import SpillWatch, spills_silently


class Steps:
    """A training under a fake clock; `said` holds (number of steps so far, message)."""

    def __init__(self, *, may_spill: bool = True, used_share: float = 0.99) -> None:
        self.now, self.number = 100.0, 0
        self.used_share = used_share
        self.said: list[tuple[int, str]] = []
        self.watch = SpillWatch(
            lambda message: self.said.append((self.number, message)),
            lambda: self.used_share,
            may_spill=may_spill,
            clock=lambda: self.now,
        )

    def take(self, seconds: Iterable[float]) -> Steps:
        for each in seconds:
            self.now += each
            self.watch.step(self.number)
            self.number += 1
        return self


def test_five_slow_steps_in_a_row_on_a_full_card_are_told_once_with_the_remedy() -> None:
    steps = Steps().take([1.0] * 10 + [30.0] * 40)
    ((number, message),) = steps.said
    assert number == 14  # the fifth slow one
    assert "CUDA - Sysmem Fallback Policy" in message
    assert "Prefer No Sysmem Fallback" in message
    assert "smaller batch" in message


@pytest.mark.parametrize(
    "seconds",
    [
        [1.0] * 100,
        [1.0] * 10 + [7.9] * 50,  # slower, as a longer text may be
        [1.0] * 10 + [30.0] * 4 + [1.0] + [30.0] * 4,  # a machine that was busy
        [500.0] + [1.0] * 20,  # the first step compiles and loads
        [1.0] * 4 + [30.0] * 4,  # too few to say what is usual
    ],
    ids=["even", "below the factor", "not in a row", "first step", "too few"],
)
def test_what_is_not_spilling_is_not_told(seconds: list[float]) -> None:
    assert Steps().take(seconds).said == []


def test_a_card_with_room_is_not_spilling() -> None:
    assert Steps(used_share=0.94).take([1.0] * 10 + [30.0] * 20).said == []


def test_a_system_whose_driver_does_not_page_out_is_not_watched() -> None:
    assert Steps(may_spill=False).take([1.0] * 10 + [30.0] * 20).said == []


def test_each_training_has_a_usual_time_of_its_own() -> None:
    steps = Steps().take([1.0] * 10)
    steps.number = 0
    assert steps.take([30.0] * 30).said == []
    assert steps.take([400.0] * 5).said


def test_windows_and_linux_within_it_page_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def on(name: str, release: str) -> bool:
        monkeypatch.setattr(spill, "sys", SimpleNamespace(platform=name))
        monkeypatch.setattr(
            spill, "platform", SimpleNamespace(uname=lambda: SimpleNamespace(release=release))
        )
        return spills_silently()

    assert on("win32", "10")
    assert on("linux", "5.15.153.1-microsoft-standard-WSL2")
    assert not on("linux", "6.8.0-generic")
    assert not on("darwin", "23.0")


def test_this_system_is_asked() -> None:
    expected = sys.platform == "win32" or "microsoft" in platform.uname().release.lower()
    assert spills_silently() == expected
