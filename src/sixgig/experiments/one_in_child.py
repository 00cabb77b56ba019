"""One experiment in a process of its own, so that its memory is given back whole and it ends alone.

A process's peak memory never falls, and torch's allocator keeps what it had: in one process each experiment
would be measured with its predecessors' peak. A process killed by the system for its memory takes only its
own experiment along. The price is starting Python and torch once more for each, a few seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from ..errors import SixgigError
from .run import Request, run

SECONDS_TO_END = 10.0  # that an interrupted process gets to put its terminal in order
INTERRUPTED = 130
_KILLED = -9  # SIGKILL, which Windows has not: how Linux ends a process when memory runs out

Explain = Callable[[Exception], tuple[int, str]]  # exit status and message; must be importable by name


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an experiment's process ended: 0, or the exit status of what it said in `reason`.

    `trace` is the traceback of what nobody meant to happen, "" for errors that are meant for people.
    """

    status: int
    reason: str = ""
    trace: str = ""


def run_in_child(request: Request, explain: Explain) -> Outcome:
    """Runs `request` in a new process; progress goes to stderr as ever. An interruption ends it too."""
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(request, explain, theirs), name=request.experiment)
    child.start()
    theirs.close()  # else the end of the process would not be the end of the pipe
    try:
        outcome = _received(ours)
        child.join()
        return outcome or _died(child.exitcode)
    except KeyboardInterrupt:
        child.join(SECONDS_TO_END)  # the terminal's Ctrl-C reaches it too
        raise
    finally:
        if child.is_alive():
            child.terminate()
            child.join()
        ours.close()


def run_here(request: Request, explain: Explain) -> Outcome:
    """The same in this process: what `run_in_child` must come to."""
    try:
        run(request, announce=_say)
    except KeyboardInterrupt:
        return Outcome(status=INTERRUPTED, reason="interrupted")
    except Exception as error:
        status, message = explain(error)
        trace = "" if isinstance(error, SixgigError) else traceback.format_exc()
        return Outcome(status=status, reason=message, trace=trace)
    return Outcome(status=0)


def _work(request: Request, explain: Explain, connection: Connection) -> None:
    sys.stdout = sys.stderr  # stdout belongs to the answer, which the other process gives
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection.send(run_here(request, explain))
    connection.close()


def _end_with_parent() -> None:
    """A parent that was killed outright cannot end this process, which nobody would then wait for."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in a child process"
    parent.join()
    os._exit(1)  # what a run keeps is whole at any moment


def _received(connection: Any) -> Outcome | None:
    try:
        return connection.recv()
    except EOFError:
        return None


def _died(code: int | None) -> Outcome:
    """What is known of a process that said nothing: memory is a guess only where it was killed outright."""
    if code == _KILLED:
        reason = "its process was killed (signal 9); so the system ends one when memory runs out"
        return Outcome(status=3, reason=reason)
    how = f"ended with exit status {code}" if code is None or code >= 0 else f"was ended by signal {-code}"
    return Outcome(status=2, reason=f"its process {how}, without a word")


def _say(message: str) -> None:
    print(message, file=sys.stderr)
