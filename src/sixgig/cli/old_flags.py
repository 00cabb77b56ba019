"""Flags of the earlier projects' scripts: `sixgig run` refuses each, saying what to type instead."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InputError

_OLD_EXPERIMENTS = {
    "1": "kill-switch",
    "2": "null-test",
    "3": "saving-genius",
    "4": "performance",
    "all": "all",
}
# Old flag -> what does the same here. VALUE stands for what followed the flag.
_REPLACEMENTS = {
    "--cache-dir": "set the environment variable SIXGIG_CACHE to VALUE",
    "--cache_dir": "set the environment variable SIXGIG_CACHE to VALUE",
    "--quantization-bits": "-s bits=VALUE for the split's Base; for the model as bitsandbytes quantises it, "
    "which that flag meant: sixgig run performance -s bitsandbytes_bits=VALUE, or sixgig chat MODEL "
    "--quantization-bits VALUE",
    "--no-quantization": "nothing: the unquantised model is measured in every run, beside the split one; "
    "sixgig chat MODEL --no-quantization talks to it",
    "--num_seeds": "--seeds VALUE",
    "--output_dir": "--out VALUE",
}


def refuse_old_flags(arguments: Sequence[str]) -> None:
    """Raises `InputError` naming every old flag of a `run` command line with its replacement."""
    if list(arguments[:1]) != ["run"]:
        return
    found = []
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        following = arguments[index + 1] if index + 1 < len(arguments) else ""
        value = value if equals else following
        if flag == "--experiment":
            found.append((flag, _experiment(value)))
        elif flag in _REPLACEMENTS:
            found.append((flag, _REPLACEMENTS[flag].replace("VALUE", value or "VALUE")))
    if found:
        raise InputError(
            "flags of the earlier scripts",
            received=", ".join(flag for flag, _ in found),
            where="sixgig run",
            todo="; ".join(f"{flag} -> {new}" for flag, new in found),
        )


def _experiment(number: str) -> str:
    from ..experiments.run import EXPERIMENTS  # not above: this module is imported by every command

    name = _OLD_EXPERIMENTS.get(number)
    if name is None:
        return f"one of: {', '.join(EXPERIMENTS)}"
    if name not in EXPERIMENTS:
        return f"{name}, which this version does not run; it runs {', '.join(EXPERIMENTS)}"
    return f"sixgig run {name}"
