"""Every error that sixgig raises on purpose, and the exit status each one becomes.

    SixgigError
    ├── InputError          bad input: a setting, a name, a file from outside          exit 2
    │   ├── UnknownNameError    a name that is not in a known set; carries suggestions
    │   ├── NotAvailableError   something needed is not here and cannot be fetched
    │   └── IntegrityError      a file is corrupt, truncated or not the pinned one
    ├── NumericalError      NaN or Inf in weights, calibration or loss                 exit 2
    ├── DoesNotFitError     the plan says no                                           exit 1
    └── OutOfSpaceError     disk or memory ran out after every fallback                exit 3
        └── TornStepError       in the midst of a step: its stage has to be begun again

A message says what was expected, what was received, where, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SixgigError(Exception):
    """An error whose message is meant for the person at the terminal."""

    exit_status = 2

    def __init__(
        self,
        problem: str,
        *,
        expected: str | None = None,
        received: str | None = None,
        where: str | None = None,
        todo: str | None = None,
    ) -> None:
        self.problem = problem
        self.expected = expected
        self.received = received
        self.where = where
        self.todo = todo
        parts = (("expected", expected), ("received", received), ("where", where), ("what to do", todo))
        super().__init__("\n".join([problem, *(f"  {label}: {text}" for label, text in parts if text)]))


class InputError(SixgigError, ValueError):
    """Input from outside is not what it must be."""


class UnknownNameError(InputError):
    """A name that is not in a known set; the nearest known names are offered."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, where: str | None = None) -> None:
        known = sorted(known)
        by_lower_case = {item.lower(): item for item in known}
        near = difflib.get_close_matches(name.lower(), by_lower_case, n=3, cutoff=0.4)
        self.suggestions = [by_lower_case[item] for item in near]
        todo = f"did you mean {' or '.join(self.suggestions)}?" if self.suggestions else None
        super().__init__(
            f"unknown {kind}: {name}",
            expected=f"one of {', '.join(known)}",
            received=repr(name),
            where=where,
            todo=todo,
        )


class NotAvailableError(InputError):
    """Something that is needed is not on this machine and could not be fetched."""


class IntegrityError(InputError):
    """A file's content is not what its pinned digest or its format demands."""


class NumericalError(SixgigError):
    """NaN or Inf where a number must be; names the layer or the file."""


class DoesNotFitError(SixgigError):
    """The plan says that the work cannot fit; the message holds the ledger and what would fit."""

    exit_status = 1


class OutOfSpaceError(SixgigError):
    """Disk or memory ran out and no fallback was left."""

    exit_status = 3


class TornStepError(OutOfSpaceError):
    """Memory ran out when a step of training had changed some weights and not others.

    Nothing can go on from such weights; whoever has what the stage began with begins it again.
    """
