"""Scores and verdicts of performance from invented times; timing, turns and energy on fakes."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fake_looks import INT4, performance_scores, times
from fake_result import fake_result
from torch import Tensor

from sixgig.evaluate.energy import (
    NO_COUNTER_ON_CPU,
    EnergyCounter,
    counter_of,
    energy_counter,
    joules_per_token,
)
from sixgig.evaluate.speed import RoundTimes, Stopwatch, take_turns, time_round
from sixgig.experiments.split_rows import FULL, FULL_MODULES, SPLIT
from sixgig.report.schema import BLOCK_KEYS

CPU = torch.device("cpu")


@pytest.mark.parametrize(("alpha0", "passed"), [(1.0, True), (1.03, False), (0.9, True)])
def test_an_overhead_is_seen_through_disturbances_that_all_share(alpha0: float, passed: bool) -> None:
    scores = performance_scores(alpha0)
    first, second = scores.verdicts()
    assert first.passed is passed
    assert first.value == pytest.approx(alpha0 - 1, abs=0.003)
    assert (first.counts, second.counts) == (True, False)
    assert second.passed is True


def test_too_few_rounds_say_how_many_would_do() -> None:
    scores = performance_scores()
    noisy = {**scores.times, (SPLIT, 0.0): times(10.08, noise=0.1, seed=8, num_rounds=30)}
    one = performance_scores(times=noisy).verdicts()[0]
    assert one.passed is None
    assert one.needed_n is not None
    assert one.needed_n > 30


def test_scores_are_what_the_times_say() -> None:
    scores = performance_scores()
    found = {(s.name, s.arm, s.alpha): s for s in scores.all()}
    latency = found["latency", INT4, None]
    assert latency.value == pytest.approx(np.median(scores.times[INT4, None].latency_ms))
    assert latency.low is not None
    assert latency.high is not None
    assert latency.low <= latency.value <= latency.high
    seconds = latency.value / 1000
    assert found["tokens_per_second", INT4, None].value == pytest.approx(1 / seconds)
    assert found["achieved_bandwidth", INT4, None].value == pytest.approx(0.1 / seconds)
    assert found["roofline_share", INT4, None].value == pytest.approx(1e8 / seconds / 2e10)
    assert found["overhead_fp16", INT4, None].value == pytest.approx(-0.5, abs=0.01)
    assert found["energy", INT4, None].value is None
    assert found["energy", INT4, None].note == "invented: no counter"
    assert ("overhead_fp16", FULL, None) not in found


def test_bitsandbytes_is_held_against_full_precision_in_its_own_loop() -> None:
    scores, arm = performance_scores(), "bitsandbytes-4"
    foreign = replace(times(45, seed=5), quantised_share=0.75)
    more = {(arm, None): foreign, (FULL_MODULES, None): times(30, seed=6)}
    beside = {(s.name, s.arm): s for s in performance_scores(times={**scores.times, **more}).all()}
    assert beside["overhead_fp16", arm].value == pytest.approx(0.5, abs=0.01)
    assert beside["overhead_fp16", arm].note == "against fp16-modules"
    assert beside["overhead_fp16", FULL_MODULES].value == pytest.approx(0.5, abs=0.01), "30 against 20"
    assert beside["quantised_share", arm].value == 0.75
    assert ("quantised_share", INT4) not in beside
    alone = performance_scores(times={**scores.times, (arm, None): foreign}).all()
    (found,) = [s for s in alone if (s.name, s.arm) == ("overhead_fp16", arm)]
    assert found.value == pytest.approx(1.25, abs=0.01), "all arms run in one loop"


def test_the_earlier_keys_are_all_there() -> None:
    block = performance_scores(1.02).seed_block(4)
    assert set(block) == {*BLOCK_KEYS["exp4_performance"], "bits"}
    assert block["overhead_vs_int4"] == pytest.approx(0.02, abs=0.003)
    assert len(performance_scores().curves()) == 4


# ---- timing ------------------------------------------------------------------------------------------


class FakeDecoder:
    """Ten tokens; prefill takes 20 ms, a step 5."""

    context_tokens = 64

    def __init__(self) -> None:
        self.position = 0
        self.read: list[int] = []

    def reset(self) -> None:
        self.position, self.read = 0, []

    def prefill(self, ids: Any) -> Tensor:
        time.sleep(0.02)
        self.read += list(ids)
        self.position += len(ids)
        return torch.eye(10)[(self.read[-1] + 1) % 10]

    def step(self, token: int) -> Tensor:
        time.sleep(0.005)
        self.read.append(token)
        self.position += 1
        return torch.eye(10)[(token + 1) % 10]

    def set_alpha(self, alpha: float) -> None:
        raise AssertionError("the caller turns the switch")


def test_a_round_times_the_prompt_and_every_token_and_writes_greedily() -> None:
    decoder = FakeDecoder()
    found = time_round(decoder, [7, 8], 4, CPU)
    assert decoder.read == [7, 8, 9, 0, 1, 2], "what opened the round was forgotten"
    assert 0.02 <= found.prefill_seconds < 0.2
    assert len(found.token_seconds) == 4
    assert all(0.005 <= seconds < 0.1 for seconds in found.token_seconds)


def test_a_stopwatch_forgets_what_it_told() -> None:
    watch = Stopwatch(CPU)
    watch.mark()
    watch.mark()
    assert len(watch.seconds()) == 1
    for _ in range(3):
        watch.mark()
    assert len(watch.seconds()) == 2


def test_turns_go_back_and_forth_and_warm_up_is_left_out() -> None:
    order: list[str] = []

    def arm(name: str) -> RoundTimes:
        order.append(name)
        return RoundTimes(prefill_seconds=float(len(order)), token_seconds=(1.0,))

    shares: list[float] = []
    found = take_turns(
        {name: (lambda name=name: arm(name)) for name in "abc"},
        num_rounds=2,
        num_warmup_rounds=1,
        progress=shares.append,
    )
    assert "".join(order) == "abccbaabc"
    assert [one.prefill_seconds for one in found["a"]] == [6, 7]
    assert [len(rounds) for rounds in found.values()] == [2, 2, 2]
    assert shares[-1] == 1


# ---- energy ------------------------------------------------------------------------------------------


class FakeNvml:
    """A card whose counter rises by 500 mJ a reading."""

    class NVMLError(Exception):
        pass

    def __init__(self, *, supported: bool = True) -> None:
        self.millijoules, self.supported = 0, supported

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert uuid == "GPU-1"
        return "handle"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if not self.supported:
            raise self.NVMLError("Not Supported")
        self.millijoules += 500
        return self.millijoules


def test_energy_a_token_is_the_counters_rise_over_the_tokens() -> None:
    counter = counter_of("GPU-1", FakeNvml())
    assert isinstance(counter, EnergyCounter)
    assert joules_per_token(counter, lambda: 50, seconds=0.0001) <= 0.5 / 50

    readings = iter([10.0, 16.0])
    counter = EnergyCounter(read=lambda: next(readings))
    assert joules_per_token(counter, lambda: time.sleep(0.02) or 3, seconds=0.01) == 2


def test_where_there_is_no_counter_the_reason_is_told() -> None:
    assert energy_counter(CPU) == NO_COUNTER_ON_CPU
    reason = counter_of("GPU-1", FakeNvml(supported=False))
    assert isinstance(reason, str)
    assert "Not Supported" in reason


def test_a_result_may_not_lack_an_earlier_key() -> None:
    block = performance_scores().seed_block(4)
    assert fake_result(exp4_performance=block).blocks()["exp4_performance"] == block
    del block["overhead_vs_int4"]
    with pytest.raises(ValueError, match="exp4_performance lacks overhead_vs_int4"):
        fake_result(exp4_performance=block)
