"""Flags of the earlier projects' scripts at `sixgig run`: translated before Typer reads them, and said aloud.

    run --experiment 2 --num_seeds 3 --output_dir out   ->   run null-test --seeds 3 --out out

A flag that means nothing for the experiment is refused, saying what to type instead. Nothing is guessed: two
experiments named at once, and numbers that no script knew, are refused too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..errors import InputError

OLD_EXPERIMENTS = {
    "1": "kill-switch",
    "2": "null-test",
    "3": "saving-genius",
    "4": "performance",
    "all": "all",
}
_RENAMED = {"--cache_dir": "--cache-dir", "--num_seeds": "--seeds", "--output_dir": "--out"}
_QUANTISED = "--quantization-bits"
_UNQUANTISED = "--no-quantization"
_WITH_VALUE = ("--experiment", _QUANTISED, *_RENAMED)
OLD_FLAGS = (*_WITH_VALUE, _UNQUANTISED)

# Where the old meaning, the model as bitsandbytes quantises it, is measured: what to put before the setting.
_MEASURED_BY = {"performance": "", "all": "performance."}
_INSTEAD = {
    _QUANTISED: "-s bits=VALUE for the split's Base; for the model as bitsandbytes quantises it, which that "
    "flag meant: sixgig run performance -s bitsandbytes_bits=VALUE, or sixgig chat MODEL "
    "--quantization-bits VALUE",
    _UNQUANTISED: "nothing: the unquantised model is measured in every run, beside the split one; "
    "sixgig chat MODEL --no-quantization talks to it",
}


@dataclass
class _Read:
    """A command line taken apart: words as they stay, and what the old flags said."""

    words: list[str] = field(default_factory=list)
    named: list[str] = field(default_factory=list)  # experiments named in today's way
    old: list[tuple[str, str]] = field(default_factory=list)  # flag, value


def translated(
    arguments: Sequence[str], takes_value: Callable[[], set[str]], say: Callable[[str], None]
) -> list[str]:
    """`arguments` of a whole command line with the old flags of `run` in today's words.

    `takes_value` gives the options of `run` that are followed by a value; it is asked only where an old flag
    stands. Raises InputError naming every flag that cannot be translated, with what to type.
    """
    flags = {argument.partition("=")[0] for argument in arguments}
    if list(arguments[:1]) != ["run"] or not flags & set(OLD_FLAGS):
        return list(arguments)
    read = _read(arguments[1:], takes_value())
    experiment = _experiment(read)
    new: list[str] = []
    refused: list[tuple[str, str]] = []
    for flag, value in read.old:
        words = _in_new_words(flag, value, experiment)
        new += words or []
        if words is None:
            refused.append((flag, _INSTEAD[flag].replace("VALUE", value or "VALUE")))
    if refused:
        raise InputError(
            f"flags of the earlier scripts that mean nothing for {experiment or 'this experiment'}",
            received=", ".join(flag for flag, _ in refused),
            where="sixgig run",
            todo="; ".join(f"{flag} -> {instead}" for flag, instead in refused),
        )
    if experiment is not None and not read.named:
        new = [experiment, *new]
    say(f"understood as: sixgig run {' '.join([*new, *read.words])}")
    return ["run", *new, *read.words]


def _read(arguments: Sequence[str], takes_value: set[str]) -> _Read:
    read, rest = _Read(), list(arguments)
    while rest:
        argument = rest.pop(0)
        flag, equals, value = argument.partition("=")
        if flag in _WITH_VALUE:
            read.old.append((flag, value if equals else rest.pop(0) if rest else ""))
        elif flag == _UNQUANTISED:
            read.old.append((flag, ""))
        else:
            read.words.append(argument)
            if argument in takes_value and rest:
                read.words.append(rest.pop(0))
            elif not argument.startswith("-"):
                read.named.append(argument)
    return read


def _experiment(read: _Read) -> str | None:
    """The experiment meant, by number or by name; None where neither is there (Typer says so)."""
    from ..experiments.known import EXPERIMENTS  # not above: this module is imported by every command

    numbers = [value for flag, value in read.old if flag == "--experiment"]
    known = ", ".join(f"{number} ({name})" for number, name in OLD_EXPERIMENTS.items())
    for number in numbers:
        if number not in OLD_EXPERIMENTS:
            raise InputError(
                "no experiment of the earlier scripts",
                expected=f"one of {known}",
                received=f"--experiment {number}".strip(),
                where="sixgig run",
                todo=f"or name one without the flag: sixgig run {' | '.join([*EXPERIMENTS, 'all'])}",
            )
    meant = list(dict.fromkeys([*read.named, *(OLD_EXPERIMENTS[number] for number in numbers)]))
    if len(meant) > 1:
        raise InputError(
            "two experiments at once",
            expected="one",
            received=" and ".join(meant),
            where="sixgig run",
            todo=f"sixgig run {meant[0]}, or sixgig run {meant[1]}, or sixgig run all",
        )
    if numbers and meant[0] not in (*EXPERIMENTS, "all"):
        raise InputError(
            f"{meant[0]}, which this version does not run",
            expected=f"one of {', '.join([*EXPERIMENTS, 'all'])}",
            received=f"--experiment {numbers[0]}",
            where="sixgig run",
        )
    return meant[0] if meant else None


def _in_new_words(flag: str, value: str, experiment: str | None) -> list[str] | None:
    """Today's words for one old flag; None where it means nothing for this experiment."""
    if flag == "--experiment":
        return []  # its name comes first, once
    if flag in _RENAMED:
        return [_RENAMED[flag], *([value] if value else [])]
    prefix = _MEASURED_BY.get(experiment or "")
    if prefix is None:
        return None
    if flag == _UNQUANTISED:
        return ["-s", f"{prefix}bitsandbytes_bits=0"]
    if value not in ("4", "8"):
        raise InputError("not a width that bitsandbytes has", expected="4 or 8", received=f"{flag} {value}")
    return ["-s", f"{prefix}bitsandbytes_bits={value}"]
