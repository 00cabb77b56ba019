"""What is tried when memory runs out: ordered moves that change how work is cut, never what is computed.

A unit of work (a step of training, a batch of a look) that runs out of memory is begun again one rung lower.
Every move is announced, written to the run's events and kept for the rest of the stage, so that nothing goes
up and down. No move shortens or leaves out data: numbers stay what they are, but for rounding.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..errors import OutOfSpaceError, TornStepError
from ..files import write_json
from ..hardware import return_freed_memory
from .out_of_memory import is_out_of_memory
from .readings import Reading, read_memory

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
R = TypeVar("R")

MAX_RESTARTS = 2  # of a stage that ran out of memory where no ladder stands
MAX_TORN = 16  # restarts after torn steps; each comes down a rung, and no ladder here has so many


@dataclass(frozen=True, kw_only=True)
class Move(Generic[T]):
    """One way to hold less at once.

    `lower` gives the next setting, or None where this move has no more to give; `says` tells a setting in
    words that end "out of memory while ...: ".
    """

    lower: Callable[[T], T | None]
    says: Callable[[T], str]


class Fallbacks:
    """Where moves are told, and how far each kind of work has come down in the stage at hand.

    `announce` gets a line for people; `log(event, **fields)` is the run's event log. With `folder`, what
    torch's allocator holds on a card is kept there (out-of-memory.json) when every move is used up.
    """

    def __init__(
        self,
        announce: Callable[[str], None] = lambda message: None,
        log: Callable[..., None] = lambda event, **fields: None,
        *,
        device: torch.device | None = None,
        folder: Path | None = None,
    ) -> None:
        self.announce, self.log = announce, log
        self._device, self._folder = device, folder
        self._settled: dict[str, Any] = {}

    def ladder(
        self, what: str, setting: T, moves: Sequence[Move[T]], *, where: str = "", todo: str = ""
    ) -> Ladder[T]:
        """The ladder of the work `what`: at `setting`, or where this stage has already come down to."""
        return Ladder(what, self._settled.get(what, setting), moves, self, where=where, todo=todo)

    def settle(self, what: str, setting: Any) -> None:
        self._settled[what] = setting

    def stage(self, name: str, work: Callable[[], R]) -> R:
        """`work`, a whole stage that reads only what earlier stages kept, begun anew where it must be.

        That is after a step of training that was torn (then lower on its ladder), and at most `MAX_RESTARTS`
        times where memory ran out outside every ladder. All ladders begin at their top.
        """
        self._settled.clear()
        again = Move[int](
            lower=lambda count: count + 1 if count < MAX_RESTARTS else None,
            says=lambda count: f"this stage is begun again ({count} of {MAX_RESTARTS} times)",
        )
        ladder = self.ladder(name, 0, [again])
        for _ in range(MAX_TORN):
            try:
                return ladder.run(lambda _: work())
            except TornStepError as error:
                self.announce(f"{name} is begun again: {error.problem}")
            give_back()
        return ladder.run(lambda _: work())

    def read(self) -> Reading:
        import torch

        return read_memory(self._device or torch.device("cpu"))

    def keep_statistics(self) -> str:
        """Writes what the card's allocator holds; returns where, in words. On a CPU there is nothing."""
        if self._folder is None or self._device is None or self._device.type != "cuda":
            return ""
        import torch

        path = self._folder / "out-of-memory.json"
        try:
            write_json(path, {"device": str(self._device), **torch.cuda.memory_stats(self._device)})
        except Exception as error:  # the lack of memory is what has to be told
            return f"; the allocator's statistics could not be written: {error}"
        return f"; the allocator's statistics are in {path.name}"


class Ladder(Generic[T]):
    """The moves of one kind of work, in order: the next begins where the one before has no more to give.

    Made by `Fallbacks.ladder`, or without moves by `fixed`.
    """

    def __init__(
        self,
        what: str,
        setting: T,
        moves: Sequence[Move[T]],
        fallbacks: Fallbacks,
        *,
        where: str = "",
        todo: str = "",
    ) -> None:
        self.setting = setting
        self._what, self._moves, self._fallbacks = what, moves, fallbacks
        self._where, self._todo = where, todo or "use a smaller model, shorter texts, or --device cpu"
        self._tried: list[str] = []

    def run(self, work: Callable[[T], R], *, where: str = "", undo: Callable[[], None] = lambda: None) -> R:
        """`work(setting)`, again with the next setting each time memory runs out in it.

        `undo` brings everything that `work` changes to where it was; it is called before each new try.

        Raises:
            OutOfSpaceError naming what was tried, when no move is left.
        """
        while True:
            try:
                return work(self.setting)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._lower(error, where or self._where)
            # Outside the except block, so that the failed pass's tensors are let go before what held them is
            # given back.
            undo()
            give_back()

    def _lower(self, error: Exception, where: str) -> None:
        reading = self._fallbacks.read()
        message = (str(error).splitlines() or [type(error).__name__])[0]
        facts = {"while": self._what, "where": where, "error": message, **reading.to_json_value()}
        for move in self._moves:
            lower = move.lower(self.setting)
            if lower is not None:
                break
        else:
            self._fallbacks.log("out_of_memory", move="none is left", **facts)
            raise self._used_up(message, where) from error
        self.setting = lower
        self._fallbacks.settle(self._what, lower)
        self._tried.append(move.says(lower))
        self._fallbacks.log("out_of_memory", move=self._tried[-1], **facts)
        self._fallbacks.announce(f"out of memory while {self._what}: {self._tried[-1]}")

    def _used_up(self, message: str, where: str) -> OutOfSpaceError:
        tried = "; ".join(self._tried) or "nothing is left to try at this size"
        return OutOfSpaceError(
            f"the device's memory is too small for {self._what}",
            received=message + self._fallbacks.keep_statistics(),
            where=", ".join(part for part in (where, f"after: {tried}") if part),
            todo=self._todo,
        )


def fixed(setting: T) -> Ladder[T]:
    """A ladder without moves: work that is to run at `setting` or not at all."""
    return Ladder("this work", setting, (), Fallbacks())


def give_back() -> None:
    """Lets go of what nobody holds any more, to the card and to the system."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.cuda.empty_cache()
    return_freed_memory()
