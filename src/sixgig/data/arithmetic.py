"""Two-digit addition as a skill to be planted: pairs, their texts, and the same in invented digits.

A skill of which every question is known and every answer is either right or wrong. All pairs (a, b) from a
range are drawn into groups that share no unordered pair, since a + b answers b + a. In the invented form ten
letters stand for the digits, so that a second skill of the same difficulty shares no digit token with the
first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .batches import TokenSequence, secret_only

LEAST, MOST = 10, 99  # two-digit numbers
DIGITS = "0123456789"
INVENTED = "QVXZJKWYUH"  # rare capitals; their order is no alphabet's, so that nothing can be read off it
END = "\n"
# What stands before, between and after the two numbers. "question" is learned from the fewest sums; "bare"
# has the fewest tokens.
FORMS = {
    "question": ("Question: ", " + ", "\nAnswer: "),
    "short": ("", " + ", "\nAnswer: "),
    "equation": ("", " + ", " = "),
    "bare": ("", "+", "="),
}


@dataclass(frozen=True, kw_only=True)
class Sum:
    """One question; `alphabet` holds the ten signs that stand for 0 to 9."""

    a: int
    b: int
    alphabet: str = DIGITS

    @property
    def answer(self) -> tuple[str, ...]:
        """The sum's digits and the line's end, which says that it is whole."""
        return (*self._digits(self.a + self.b), END)

    @property
    def unordered(self) -> tuple[int, int]:
        return min(self.a, self.b), max(self.a, self.b)

    def prompt(self, form: str) -> tuple[str, ...]:
        """The parts of the question, each to be encoded alone: words, and single digits.

        >>> "".join(Sum(a=47, b=38).prompt("equation"))
        '47 + 38 = '
        """
        before, between, after = FORMS[form]
        parts = (before, *self._digits(self.a), between, *self._digits(self.b), after)
        return tuple(part for part in parts if part)

    def _digits(self, value: int) -> Iterator[str]:
        return (self.alphabet[int(digit)] for digit in str(value))


def draw_sums(
    counts: Mapping[str, int],
    *,
    seed: int,
    alphabet: str = DIGITS,
    least: int = LEAST,
    most: int = MOST,
) -> dict[str, list[Sum]]:
    """All pairs of [least, most] in the groups that `counts` sizes, and the rest in "training".

    Both orders of a pair come into one group. Where a group's last pair would bring one too many, its second
    order is left out altogether. The draw does not depend on `alphabet`.

    Raises InputError where the range has fewer pairs than asked for, or leaves none for training.
    """
    generator = np.random.default_rng(np.random.SeedSequence([seed, 0xADD]))
    unordered = [(a, b) for a in range(least, most + 1) for b in range(a, most + 1)]
    order = iter([int(index) for index in generator.permutation(len(unordered))])
    groups: dict[str, list[Sum]] = {}
    for name, count in counts.items():
        groups[name] = []
        for index in order:
            groups[name] += _both_orders(unordered[index], alphabet)
            if len(groups[name]) >= count:
                break
        del groups[name][count:]
    groups["training"] = [one for index in order for one in _both_orders(unordered[index], alphabet)]
    if not groups["training"] or any(len(groups[name]) < count for name, count in counts.items()):
        raise InputError(
            "not enough pairs of numbers",
            expected=f"fewer than {(most - least + 1) ** 2:,} in all, as {least} to {most} have",
            received=", ".join(f"{count:,} {name}" for name, count in counts.items()),
            todo="ask for fewer pairs, or widen the range of numbers",
        )
    for sums in groups.values():
        generator.shuffle(sums)  # type: ignore[arg-type]
    return groups


def _both_orders(pair: tuple[int, int], alphabet: str) -> list[Sum]:
    a, b = pair
    first = Sum(a=a, b=b, alphabet=alphabet)
    return [first] if a == b else [first, Sum(a=b, b=a, alphabet=alphabet)]


def sum_texts(sums: Sequence[Sum], encode: Callable[[str], list[int]], *, form: str) -> list[TokenSequence]:
    """Each sum as tokens, of which those of the answer count.

    Every digit is encoded alone. So it is the same token wherever it stands, whatever a tokenizer would make
    of several, and a prompt's tokens do not depend on its answer.
    """
    known: dict[str, list[int]] = {}

    def ids(parts: Sequence[str]) -> list[int]:
        for part in parts:
            if part not in known:
                known[part] = encode(part)
        return [token for part in parts for token in known[part]]

    return [secret_only(ids(one.prompt(form)), ids(one.answer)) for one in sums]


def check_disjoint(encode: Callable[[str], list[int]]) -> None:
    """Raises InputError where a tokenizer gives an invented digit a token of a real one, or two digits one
    token: then the two skills, or two answers, could not be told apart."""
    owners: dict[tuple[int, ...], str] = {}
    for sign in DIGITS + INVENTED:
        ids = tuple(encode(sign))
        if ids in owners or not ids:
            raise InputError(
                "this model's tokenizer does not tell all digits apart",
                expected="tokens of its own for every real and invented digit",
                received=f"{sign!r} has the tokens {ids} of {owners.get(ids, 'nothing')!r}",
                todo="take another model",
            )
        owners[ids] = sign
    real = {token for ids, sign in owners.items() if sign in DIGITS for token in ids}
    invented = {token for ids, sign in owners.items() if sign in INVENTED for token in ids}
    if both := _distinct(real & invented, owners):
        raise InputError(
            "real and invented digits share tokens with this model's tokenizer",
            expected="none in common but a mark that all of them begin with",
            received=f"tokens {both}",
            todo="take another model, or -s contrast=false",
        )


def _distinct(shared: set[int], owners: Mapping[tuple[int, ...], str]) -> list[int]:
    """Tokens that some but not all signs have; a mark before every word tells nothing."""
    return sorted(token for token in shared if not all(token in ids for ids in owners))
