"""Measured bandwidth: the arithmetic on a fake clock, a real copy on the host, and which code runs where."""

from __future__ import annotations

import contextlib

import pytest
import torch

from sixgig import bandwidth
from sixgig.units import MIB


def test_the_best_round_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    durations = iter([9.0, 4.0, 2.0, 5.0, 1.0])

    def copy() -> float:
        nonlocal now
        duration = next(durations)
        now += duration
        return duration

    monkeypatch.setattr("time.perf_counter", lambda: now)
    # The first round only warms up; the clock then stands at 13, and 6 s later it is over: 2 and 5, not 1.
    assert bandwidth._best_bytes_per_second(copy, 1000, 6.0) == 500


def test_the_host_copies_at_a_plausible_speed() -> None:
    measured = bandwidth.host_bytes_per_second(2, seconds=0.02, buffer_bytes=32 * MIB)
    assert 0.2e9 < measured < 5e12


def test_every_byte_of_the_buffer_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[int] = []

    def once(copy, num_bytes: int, seconds: float) -> int:
        import numpy as np

        monkeypatch.setattr(np, "copyto", lambda target, source: copied.append(source.nbytes))
        assert copy() >= 0
        return num_bytes

    monkeypatch.setattr(bandwidth, "_best_bytes_per_second", once)
    assert bandwidth.host_bytes_per_second(3, buffer_bytes=1000) == 2000
    assert sorted(copied) == [333, 333, 334]


@pytest.mark.parametrize(
    ("built_for", "capability", "runs"),
    [
        (["sm_80", "sm_86", "sm_90"], (8, 9), True),
        (["sm_80", "sm_90"], (7, 5), False),
        (["sm_90"], (8, 9), False),
        (["sm_86"], (8, 0), False),
        (["sm_90a"], (9, 0), False),
        (["sm_90a", "sm_90"], (9, 0), True),
        (["sm_80", "compute_80"], (12, 0), True),
        (["sm_100", "sm_120"], (12, 0), True),
        ([], (8, 6), False),
    ],
)
def test_code_runs_on_its_own_major_version_unless_it_is_portable(
    built_for: list[str], capability: tuple[int, int], runs: bool
) -> None:
    assert bandwidth.runs_on(built_for, capability) is runs


@pytest.mark.skipif(torch.cuda.is_available(), reason="a usable GPU is here")
def test_without_a_device_there_is_nothing_to_measure() -> None:
    assert bandwidth.device_speeds() == ()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no usable GPU is here")
def test_a_device_reaches_half_of_its_specification() -> None:
    from sixgig.cards import card_for
    from sixgig.hardware import probe

    for gpu, speed in zip(probe().gpus, bandwidth.device_speeds(), strict=True):
        assert speed.has_kernels
        card = card_for(gpu)
        specified = card.bandwidth_bytes_per_second if card else None
        assert 0.5 * (specified or 10e9) < speed.bytes_per_second < (specified or 20e12)


def test_a_devices_speed_from_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None: ...

        def synchronize(self) -> None: ...

        def elapsed_time(self, end: Event) -> float:
            return 2.0  # ms

    allocated: list[int] = []

    def zeros(num_bytes: int, **options: object) -> torch.Tensor:
        allocated.append(num_bytes)
        return torch.empty(1, dtype=torch.uint8)

    fakes = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_arch_list": lambda: ["sm_90"],
        "mem_get_info": lambda device: (64 * MIB, 80 * MIB),
        "get_device_capability": lambda device: (7, 5),
        "get_device_name": lambda device: "Tesla T4",
        "Event": Event,
        "device": lambda device: contextlib.nullcontext(),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch, "zeros", zeros)
    assert bandwidth.device_speeds(seconds=0) == (
        bandwidth.DeviceSpeed(
            name="Tesla T4",
            compute_capability="7.5",
            bytes_per_second=2 * 16 * MIB * 500,  # read and written in 2 ms
            has_kernels=False,
        ),
    )
    assert allocated == [16 * MIB]  # a quarter of what is free
