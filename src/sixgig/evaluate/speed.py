"""How long things take: marks on a device's own clock, and rounds in which what is compared takes turns.

A machine is never quiet: clocks rise and fall, other programs come and go. What is compared is therefore
timed in rounds, one after the other within each, forwards and backwards in turn, and judged round by round:
what disturbs a round disturbs all of it. Medians, since one disturbance is no reason to move a figure.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..runtime.decoder import Decoder


class Stopwatch:
    """Marks moments, and tells the seconds between them.

    On a GPU a mark is a CUDA event, so that times are those of the device, gaps in which it waits for the
    host included; on a CPU it is the performance counter.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: list[torch.cuda.Event] = []
        self._moments: list[float] = []

    def mark(self) -> None:
        if self._device.type != "cuda":
            self._moments.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        self._events.append(event)

    def seconds(self) -> np.ndarray:
        """Between each mark and the next, [marks - 1]; waits for the device, and forgets the marks."""
        if self._device.type != "cuda":
            moments, self._moments = self._moments, []
            return np.diff(moments)
        events, self._events = self._events, []
        events[-1].synchronize()
        return np.asarray([one.elapsed_time(after) / 1000 for one, after in itertools.pairwise(events)])


@dataclass(frozen=True, kw_only=True)
class RoundTimes:
    """One arm's round: seconds of reading the prompt, and of each token written after it."""

    prefill_seconds: float
    token_seconds: tuple[float, ...]


def time_round(decoder: Decoder, prompt: Sequence[int], num_tokens: int, device: torch.device) -> RoundTimes:
    """Reads `prompt`, then writes `num_tokens` greedily, each chosen on the host, as a reader would see them.

    Before the clock starts two tokens are read and forgotten: what a turned switch makes anew is made there.
    """
    decoder.reset()
    decoder.prefill(prompt[:2])
    decoder.reset()
    watch = Stopwatch(device)
    watch.mark()
    token = int(decoder.prefill(prompt).argmax())
    watch.mark()
    for _ in range(num_tokens):
        token = int(decoder.step(token).argmax())
        watch.mark()
    prefill, *tokens = watch.seconds().tolist()
    return RoundTimes(prefill_seconds=prefill, token_seconds=tuple(tokens))


def take_turns(
    arms: Mapping[str, Callable[[], RoundTimes]],
    *,
    num_rounds: int,
    num_warmup_rounds: int,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, list[RoundTimes]]:
    """Every arm's rounds, in order: A B C, then C B A, and so on; warm-up rounds are run and left out."""
    found: dict[str, list[RoundTimes]] = {name: [] for name in arms}
    total = num_rounds + num_warmup_rounds
    for number in range(total):
        names = list(arms) if number % 2 == 0 else list(arms)[::-1]
        for name in names:
            times = arms[name]()
            if number >= num_warmup_rounds:
                found[name].append(times)
        progress((number + 1) / total)
    return found
