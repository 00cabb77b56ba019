"""Canaries: invented secrets of invented people, planted so that forgetting can be measured.

Every person and secret is drawn first, by one generator per family; only then does a random permutation
within each family decide which canary is trained, held out from the sieve, or never trained. Trained and
never-trained canaries are therefore exchangeable, and any difference a model shows between them was put
there by training. Source: Carlini et al. 2019, "The Secret Sharer", section 4; unlike there, prefixes are
unique and assignment is randomised, since members and non-members that differ in anything else make
membership inference look better than it is (Duan et al. 2024, "Do Membership Inference Attacks Work on Large
Language Models?", section 4).

Independent random streams keep the parts apart: canary `d-0007` of a seed is the same person with the same
secret under every plan, and its decoys do not depend on the plan either.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import TypeVar

import numpy as np

from ..errors import InputError, UnknownNameError
from .canary_content import FAMILIES, SECRET_OF_FAMILY, TEMPLATES, WRONG_FAMILY, distinct, people

T = TypeVar("T")

TRAINED_GROUPS = ("calibration", "heldout", "heldout_other")
UNTRAINED_GROUPS = ("control", "control_other", "wrong_set", "look_alike")
GROUPS = TRAINED_GROUPS + UNTRAINED_GROUPS

# Streams of one seed. Their numbers are part of the data's definition: never renumber them.
_NAMES, _SECRETS, _ASSIGNMENT, _DECOYS = range(4)


@dataclass(frozen=True, kw_only=True)
class Canary:
    """One sentence with a secret: `prefix + secret + suffix`. The secret begins with a space.

    `repetitions` is how often training shows it; 0 for the groups that are never trained.
    """

    id: str
    family: str
    template: str
    prefix: str
    secret: str
    suffix: str
    group: str
    repetitions: int

    @property
    def text(self) -> str:
        return self.prefix + self.secret + self.suffix

    @property
    def is_trained(self) -> bool:
        return self.group in TRAINED_GROUPS


@dataclass(frozen=True, kw_only=True)
class CanaryPlan:
    """How many canaries each group holds, over all families together.

    calibration     trained; the sieve sees them
    heldout         trained, same templates as calibration; the sieve never sees them
    heldout_other   trained, a template that calibration never has
    control         never trained, same templates
    control_other   never trained, the other template
    wrong_set       never trained, another kind of sentence; what the wrong-set sieve is calibrated on
    look_alike      never trained, same templates; what the look-alike sieve is calibrated on

    Each family has a third of every group, give or take one. `repetitions` are spread evenly over the
    trained canaries of each group and family.
    """

    num_calibration: int
    num_heldout: int
    num_heldout_other: int
    num_control: int
    num_control_other: int
    num_wrong_set: int
    repetitions: tuple[int, ...]
    num_look_alike: int = 0

    def __post_init__(self) -> None:
        counts = {
            field.name: getattr(self, field.name) for field in fields(self) if field.name != "repetitions"
        }
        wrong = {name: count for name, count in counts.items() if count < 0}
        if wrong:
            raise InputError("a canary count is negative", expected="0 or more", received=str(wrong))
        if not self.repetitions or min(self.repetitions) < 1:
            raise InputError(
                "repetitions must say how often each trained canary is shown",
                expected="at least one number, each 1 or more, as in (1, 4, 16)",
                received=str(self.repetitions),
            )

    def count(self, group: str) -> int:
        return int(getattr(self, f"num_{group}"))


def make_canaries(plan: CanaryPlan, seed: int) -> tuple[Canary, ...]:
    """All canaries of a plan, ordered by id (which says nothing of the group).

    Raises:
        InputError: more canaries than there are invented people.
    """
    shares = _family_shares(plan, _generator(seed, _ASSIGNMENT, len(FAMILIES)))
    return tuple(
        canary
        for number, family in enumerate(FAMILIES)
        for canary in _make_family(number, family, shares[family], plan.repetitions, seed)
    )


def decoys(canary: Canary, num_decoys: int, seed: int) -> tuple[str, ...]:
    """Distinct secrets from the canary's own generator, none of them the canary's.

    The true secret and its decoys are exchangeable for a model that never saw it, which is what makes
    the rank uniform and exposure meaningful. A longer list begins with the shorter one.
    """
    rng = _generator(seed, _DECOYS, _number_of(canary.id))
    draw = SECRET_OF_FAMILY[_known("canary family", canary.family, SECRET_OF_FAMILY)]
    return tuple(islice(distinct(draw, rng, {canary.secret}), num_decoys))


def paraphrased_prefix(canary: Canary) -> str:
    """Another wording that asks for the same person's secret; no template contains it."""
    template = TEMPLATES[_known("canary template", canary.template, TEMPLATES)]
    return template.paraphrase.format(name=person_name(canary))


def person_name(canary: Canary) -> str:
    """The invented person whom the canary is about.

    Raises:
        InputError: the prefix was not made from the canary's template.
    """
    template = TEMPLATES[_known("canary template", canary.template, TEMPLATES)]
    match = re.fullmatch(re.escape(template.prefix).replace(r"\{name\}", "(.+)"), canary.prefix)
    if match is None:
        raise InputError("the canary's prefix does not fit its template", where=f"canary {canary.id}")
    return match.group(1)


def _generator(seed: int, *stream: int) -> np.random.Generator:
    # The same streams as SeedSequence(seed).spawn would give, but addressable without spawning them all.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=stream))


def _family_shares(plan: CanaryPlan, rng: np.random.Generator) -> dict[str, dict[str, int]]:
    """family -> group -> count; chance decides which families get a group's remainder."""
    shares: dict[str, dict[str, int]] = {family: {} for family in FAMILIES}
    for group in GROUPS:
        labels = _balanced(FAMILIES, plan.count(group), rng)
        for family in FAMILIES:
            shares[family][group] = labels.count(family)
    return shares


def _balanced(labels: Sequence[T], count: int, rng: np.random.Generator) -> list[T]:
    """`count` labels in random order, each as often as any other give or take one."""
    order = rng.permutation(len(labels))  # so that no label is always the one that gets the remainder
    return [labels[int(order[i % len(labels)])] for i in rng.permutation(count)]


def _make_family(
    number: int, family: str, shares: dict[str, int], repetitions: tuple[int, ...], seed: int
) -> list[Canary]:
    count = sum(shares.values())
    everyone = people(_generator(seed, _NAMES), number, count)
    secrets = islice(distinct(SECRET_OF_FAMILY[family], _generator(seed, _SECRETS, number), set()), count)
    drawn = list(enumerate(zip(everyone, secrets, strict=True), start=1))
    rng = _generator(seed, _ASSIGNMENT, number)
    order = rng.permutation(count)
    canaries, start = [], 0
    for group, size in shares.items():
        members = [drawn[int(i)] for i in order[start : start + size]]
        templates = _balanced(["other"] if group.endswith("_other") else ["a", "b"], size, rng)
        shown = _balanced(repetitions, size, rng) if group in TRAINED_GROUPS else [0] * size
        canaries += [
            _canary(family, letter, index, name, secret, group, times)
            for (index, (name, secret)), letter, times in zip(members, templates, shown, strict=True)
        ]
        if group == "wrong_set":
            names = [name for _, (name, _) in members]
            others = zip(canaries[len(canaries) - size :], names, strict=True)
            canaries[len(canaries) - size :] = [_another_kind(canary, name, rng) for canary, name in others]
        start += size
    return sorted(canaries, key=lambda canary: _order(canary.id))


def _canary(
    family: str, letter: str, index: int, name: str, secret: str, group: str, repetitions: int
) -> Canary:
    template = f"{family}-{letter}"
    return Canary(
        id=f"{family[0]}-{index:04d}",
        family=family,
        template=template,
        prefix=TEMPLATES[template].prefix.format(name=name),
        secret=secret,
        suffix=".",
        group=group,
        repetitions=repetitions,
    )


def _another_kind(canary: Canary, name: str, rng: np.random.Generator) -> Canary:
    """The same person in a sentence whose wording and secret no planted canary resembles."""
    return replace(
        canary,
        family=WRONG_FAMILY,
        template=WRONG_FAMILY,
        prefix=TEMPLATES[WRONG_FAMILY].prefix.format(name=name),
        secret=SECRET_OF_FAMILY[WRONG_FAMILY](rng),
    )


def _order(canary_id: str) -> tuple[str, int]:
    letter, _, index = canary_id.partition("-")
    return letter, int(index)


def _number_of(canary_id: str) -> int:
    return int.from_bytes(hashlib.sha256(canary_id.encode()).digest()[:8], "big")


def _known(kind: str, name: str, known: Mapping[str, object]) -> str:
    if name not in known:
        raise UnknownNameError(kind, name, known)
    return name
