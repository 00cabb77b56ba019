"""Holds a run to a budget of card memory, samples what it takes, and knows its peak afterwards.

The cap is torch's own, so that a large card runs out where a small one would, and the same ladders answer. It
does not hold what lies outside torch's allocator: the CUDA context is measured and taken off the budget once;
kernels that are loaded later are not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..errors import InputError
from ..units import GIB, MIB, format_bytes
from .readings import Peak, Reading, read_memory, read_peak

if TYPE_CHECKING:
    import torch

CHANGE_SHARE = 0.01  # of any number since the last sample written, to be worth another line
CHANGE_BYTES = MIB  # by which a peak must have risen
JOIN_SECONDS = 10.0  # for the thread to end; a reading takes milliseconds


class Governor:
    """A context manager around a whole run; `peak` holds the most that was taken, then and afterwards.

    Every `interval_seconds` a thread reads the memory and, where it has changed, logs an event `memory`. The
    thread never raises: `problem` holds what ended it early, if anything did. On a CPU resident memory alone
    is known and nothing is capped.

    Args:
        device: of the model.
        budget_bytes: of the card, context included; None: all of it.
        log: the run's event log; must be safe to call from a thread.
    Raises:
        InputError for a budget on a CPU, beyond the card, or that the context alone exceeds.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        budget_bytes: int | None = None,
        log: Callable[..., None] = lambda event, **fields: None,
        interval_seconds: float = 1.0,
    ) -> None:
        if budget_bytes is not None and device.type != "cuda":
            raise InputError(
                "only a card's memory can be capped",
                received=f"a budget of {format_bytes(budget_bytes)} on the device {device.type}",
                todo="leave the budget out",
            )
        self.budget_bytes = budget_bytes
        self.problem: str | None = None
        self._device, self._log, self._interval_seconds = device, log, interval_seconds
        self._on_card = device.type == "cuda"
        self._sampled = Peak()
        self._latest: Reading | None = None
        self._written: tuple[Reading, Peak] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sixgig-governor", daemon=True)

    def __enter__(self) -> Self:
        if self._on_card:
            self._prepare_card()
        try:
            self._thread.start()
        except RuntimeError:  # no thread can be started: the cap must not outlive this
            self._lift_cap()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(JOIN_SECONDS)
        self._lift_cap()
        try:
            self._log("memory_peak", **self.peak.to_json_value())
        except Exception as failure:  # a full disk must not hide what ended the run
            self.problem = self.problem or str(failure)

    @property
    def peak(self) -> Peak:
        """The most of each kind so far: the allocator's own counters, and the card's as sampled."""
        return read_peak(self._device).joined(self._sampled)

    def text(self) -> str:
        """What the model's device holds, for a line of progress: "3.1 of 6.0 GiB"; "" at the very first."""
        reading = self._latest
        if reading is None:
            return ""
        used, limit = reading.device_used_bytes, self.budget_bytes or reading.device_total_bytes
        if used is None or limit is None:
            return f"{reading.resident_bytes / GIB:.1f} GiB"
        return f"{used / GIB:.1f} of {limit / GIB:.1f} GiB"

    # ---- the card ------------------------------------------------------------------------------------

    def _prepare_card(self) -> None:
        import torch

        torch.cuda.init()  # the allocator has no counters before
        if self._device.index is None:
            self._device = torch.device("cuda", torch.cuda.current_device())
        torch.cuda.reset_peak_memory_stats(self._device)
        if self.budget_bytes is None:
            return
        # A product loads cuBLAS, whose share of the context would else come after the measurement.
        one = torch.ones(16, 16, device=self._device, dtype=torch.bfloat16)
        (one @ one).sum().item()
        reading = read_memory(self._device)
        used, total = reading.device_used_bytes or 0, reading.device_total_bytes or 0
        outside_bytes = used - (reading.reserved_bytes or 0)
        for_tensors = self.budget_bytes - outside_bytes
        if self.budget_bytes > total or for_tensors <= 0:
            raise InputError(
                "a budget that this card cannot be held to",
                expected=f"more than {format_bytes(outside_bytes)} (the CUDA context, and what other "
                f"programs hold on the card) and at most the card's {format_bytes(total)}",
                received=format_bytes(self.budget_bytes),
            )
        self._log("memory_cap", budget_bytes=self.budget_bytes, for_tensors_bytes=for_tensors)
        torch.cuda.set_per_process_memory_fraction(for_tensors / total, self._device.index)

    def _lift_cap(self) -> None:
        if self.budget_bytes is not None:
            import torch

            torch.cuda.set_per_process_memory_fraction(1.0, self._device.index)

    # ---- the thread ----------------------------------------------------------------------------------

    def _watch(self) -> None:
        try:
            while True:
                self._sample()
                if self._stop.wait(self._interval_seconds):
                    return
        except Exception as error:  # nobody would see it; the run matters more than its samples
            self.problem = f"{type(error).__name__}: {error}"

    def _sample(self) -> None:
        reading = read_memory(self._device)
        self._latest = reading
        self._sampled = self._sampled.joined(
            Peak(resident_bytes=reading.resident_bytes, device_used_bytes=reading.device_used_bytes or 0)
        )
        peak = self.peak
        if self._written is None or _differs(reading, peak, *self._written):
            self._written = (reading, peak)
            self._log("memory", **reading.to_json_value(), peak=peak.to_json_value())


def _differs(reading: Reading, peak: Peak, old_reading: Reading, old_peak: Peak) -> bool:
    now, old = reading.to_json_value(), old_reading.to_json_value()
    if any(abs(now[key] - old.get(key, 0)) > CHANGE_SHARE * old.get(key, 0) for key in now):
        return True
    new, before = peak.to_json_value(), old_peak.to_json_value()
    return any(new[key] >= before[key] + CHANGE_BYTES for key in new)
