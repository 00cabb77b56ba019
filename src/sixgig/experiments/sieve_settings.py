"""Settings of single sieves as words "SIEVE.SETTING=VALUE", checked without torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ..errors import InputError, UnknownNameError
from ..transform.sieve import SIEVES, make_sieve
from .settings import changed, parse_words


def sieve_settings(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """["kfac.share=0.8"] -> {"kfac": {"share": 0.8}}. Values are YAML, as with -s.

    Raises InputError or UnknownNameError naming the word that cannot be used.
    """
    found: dict[str, dict[str, Any]] = {}
    for word in words:
        key, value = next(iter(parse_words([word]).items()))
        sieve, dot, setting = key.partition(".")
        if not dot or not setting:
            raise InputError(
                "not a setting of a sieve",
                expected="SIEVE.SETTING=VALUE, as in kfac.share=0.8",
                received=repr(word),
                where="sieve_settings",
            )
        if sieve not in SIEVES:
            raise UnknownNameError("sieve", sieve, SIEVES, where="sieve_settings")
        if setting in found.get(sieve, {}):
            raise InputError("a setting is given twice", received=key, where="sieve_settings")
        default: Any = make_sieve(sieve)
        typed = changed(default, {setting: value}, where=f"sieve_settings, {sieve}")
        found.setdefault(sieve, {})[setting] = getattr(typed, setting)
    return found


def check_sieve_settings(words: Sequence[str], sieves: Collection[str]) -> None:
    """Raises as `sieve_settings`, and InputError for a sieve that is none of the arms."""
    for sieve, settings in sieve_settings(words).items():
        if sieve not in sieves:
            raise InputError(
                f"sieve_settings hold {sieve}, which is not among the sieves",
                expected=", ".join(sieves),
                todo=f"add {sieve} to sieves, or leave its settings out",
            )
        make_sieve(sieve, **settings)  # refuses what cannot go together
