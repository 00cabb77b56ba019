"""Controls for private records by permuting: a record's question with the other records' values.

Nobody has never-planted twins of real data. What there is: the values of the other records, which were made
by the same life and do not belong to this question. Were the model to know nothing of who has which value,
any assignment of values to questions would be as likely to it as the true one, so a measure's mean over all
assignments is what ignorance gives (a permutation test; Fisher 1935, "The Design of Experiments").

All pairs of a pool are compared, which is the mean over all permutations; one drawn derangement would add its
own luck. A record is never its own control, and records with equal values are never each other's.

A question often gives away what its answer looks like ("telephone:"), so records are compared with those
whose values look alike: digits with digits, two words with two words. Groups too small to compare in are
joined with their neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError

MIN_GROUP = 3  # records of one form; fewer are compared with those of the next


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Records that are compared with one another.

    members: places of the records, from 0; own: for each the place of its value in `values`;
    values: for each distinct value the place of a record that has it; alike: whether all have one form.
    """

    members: tuple[int, ...]
    own: tuple[int, ...]
    values: tuple[int, ...]
    alike: bool


def form_of(value: str) -> tuple[int, int]:
    """What a value looks like, coarsely: (0 digits, 1 digits among letters, 2 words; its length class).

    >>> form_of(" 4821-77"), form_of(" ab12"), form_of(" Rome"), form_of(" went to the sea again")
    ((0, 3), (1, 3), (2, 1), (2, 3))
    """
    characters = [character for character in value if character.isalnum()]
    num_digits = sum(character.isdigit() for character in characters)
    if num_digits:
        return int(num_digits < len(characters)), len(characters).bit_length()
    return 2, len(re.findall(r"\w+", value)).bit_length()


def pools(
    values: Sequence[str], keys: Sequence[Hashable], *, max_members: int, seed: int
) -> tuple[Pool, ...]:
    """All records in pools of at most about `max_members`, drawn by `seed` within their form.

    Args:
        values: each record's value as text, for its form; keys: what makes two values equal.
    Raises:
        InputError: all values are equal, so that there is nothing to compare.
    """
    if len(set(keys)) < 2:
        raise InputError(
            "all records have the same value",
            expected="records whose values differ, since each is compared with the others'",
            received=f"{len(keys)} records with one value",
        )
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0xDE7A]))
    found = []
    for members, alike in _groups(values, keys):
        mixed = [members[place] for place in rng.permutation(len(members))]
        parts = np.array_split(np.asarray(mixed), -(-len(mixed) // max_members))
        found += [(sorted(map(int, part)), alike) for part in parts]
    return tuple(_pool(members, keys, alike) for members, alike in _with_controls(found, keys))


def _groups(values: Sequence[str], keys: Sequence[Hashable]) -> list[tuple[list[int], bool]]:
    """Records by form, small groups joined with the next; and whether a group is of one form."""
    by_form: dict[tuple[int, int], list[int]] = {}
    for place, value in enumerate(values):
        by_form.setdefault(form_of(value), []).append(place)
    groups: list[tuple[list[int], bool]] = []
    waiting: list[int] = []
    for form in sorted(by_form):
        members, alike = [*waiting, *by_form[form]], not waiting
        waiting = members if len(members) < MIN_GROUP or len({keys[m] for m in members}) < 2 else []
        if not waiting:
            groups.append((members, alike))
    if waiting and groups:
        groups[-1] = ([*groups[-1][0], *waiting], False)
    elif waiting:
        groups.append((waiting, len(by_form) == 1))
    return groups


def _with_controls(
    found: list[tuple[list[int], bool]], keys: Sequence[Hashable]
) -> list[tuple[list[int], bool]]:
    """A pool in which a draw left one value only joins the one before it."""
    kept: list[tuple[list[int], bool]] = []
    for members, alike in sorted(found, key=lambda one: -len({keys[place] for place in one[0]})):
        if kept and len({keys[place] for place in members}) < 2:
            kept[-1] = (sorted([*kept[-1][0], *members]), kept[-1][1] and alike)
        else:
            kept.append((members, alike))
    return kept


def _pool(members: Sequence[int], keys: Sequence[Hashable], alike: bool) -> Pool:
    first: dict[Hashable, int] = {}
    for place in members:
        first.setdefault(keys[place], place)
    number = {key: index for index, key in enumerate(first)}
    return Pool(
        members=tuple(members),
        own=tuple(number[keys[place]] for place in members),
        values=tuple(first.values()),
        alike=alike,
    )
