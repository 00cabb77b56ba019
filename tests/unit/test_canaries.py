"""The randomisation that every conclusion about forgetting rests on."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, chisquare

from sixgig.data.canaries import (
    GROUPS,
    TRAINED_GROUPS,
    Canary,
    CanaryPlan,
    decoys,
    make_canaries,
    paraphrased_prefix,
    person_name,
)
from sixgig.data.canary_content import FAMILIES, TEMPLATES, WRONG_FAMILY
from sixgig.data.wordlists import PLANTS
from sixgig.errors import InputError, UnknownNameError

PLAN = CanaryPlan(
    num_calibration=24,
    num_heldout=25,
    num_heldout_other=9,
    num_control=40,
    num_control_other=10,
    num_wrong_set=12,
    num_look_alike=13,
    repetitions=(1, 4, 16),
)
SHAPES = {
    "digits": r" \d{4}-\d{4}-\d{4}",
    "personal": r" \d{1,2} [A-Z][a-z]+ (19|20)\d\d, \d{1,3} [A-Z][a-z]+ [A-Z][a-z]+, [A-Z][a-z]+ [A-Z][a-z]+",
    "token": r" ([a-z0-9]{4}-){3}[a-z0-9]{4}",
    "garden": r" ([a-z]+, ){4}[a-z]+",
}
EXCHANGEABLE = tuple(group for group in GROUPS if group != "wrong_set")  # all that share kinds of secret
counts = st.integers(0, 30)


def chi_square_p(pairs: list[tuple[str, str]]) -> float:
    """Pearson's test of independence of the two labels."""
    table, rows, columns = Counter(pairs), Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    statistic = sum(
        (table[a, b] - rows[a] * columns[b] / len(pairs)) ** 2 / (rows[a] * columns[b] / len(pairs))
        for a in rows
        for b in columns
    )
    return float(chi2.sf(statistic, (len(rows) - 1) * (len(columns) - 1)))


@settings(deadline=None, max_examples=30)
@given(
    plan=st.builds(
        CanaryPlan,
        num_calibration=counts,
        num_heldout=counts,
        num_heldout_other=counts,
        num_control=counts,
        num_control_other=counts,
        num_wrong_set=counts,
        num_look_alike=counts,
        repetitions=st.lists(st.integers(1, 64), min_size=1, max_size=4, unique=True).map(tuple),
    ),
    seed=st.integers(0, 2**31),
)
def test_every_plan_is_balanced_unique_and_well_formed(plan: CanaryPlan, seed: int) -> None:
    canaries = make_canaries(plan, seed)
    assert Counter(c.group for c in canaries) == {g: plan.count(g) for g in GROUPS if plan.count(g)}
    for key in ("id", "prefix", "secret"):
        assert len({getattr(c, key) for c in canaries}) == len(canaries)
    assert len({person_name(c) for c in canaries}) == len(canaries)
    for group in EXCHANGEABLE:
        members = [c for c in canaries if c.group == group]
        assert_balanced([c.family for c in members], FAMILIES)
        for family in FAMILIES:
            cell = [c for c in members if c.family == family]
            letters = ("other",) if group.endswith("_other") else ("a", "b")
            assert_balanced([c.template for c in cell], [f"{family}-{letter}" for letter in letters])
            assert_balanced(
                [c.repetitions for c in cell], plan.repetitions if group in TRAINED_GROUPS else [0]
            )
    assert {c.family for c in canaries if c.group == "wrong_set"} <= {WRONG_FAMILY}
    for canary in canaries:
        assert re.fullmatch(SHAPES[canary.family], canary.secret)
        assert canary.prefix == canary.prefix.rstrip()
        assert canary.suffix == "."


def assert_balanced(labels: list, allowed) -> None:
    number = Counter(labels)
    assert set(number) <= set(allowed)
    assert max(number[label] for label in allowed) - min(number[label] for label in allowed) <= 1


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31), num_wrong_set=st.integers(1, 60))
def test_the_wrong_set_shares_nothing_with_what_is_planted(seed: int, num_wrong_set: int) -> None:
    canaries = make_canaries(replace(PLAN, num_wrong_set=num_wrong_set), seed)
    wrong = [c for c in canaries if c.group == "wrong_set"]
    others = [c for c in canaries if c.group != "wrong_set"]
    assert len(wrong) == num_wrong_set
    assert all(not c.is_trained and c.repetitions == 0 for c in wrong)
    assert not {c.template for c in wrong} & {c.template for c in others}
    assert not {person_name(c) for c in wrong} & {person_name(c) for c in others}
    for canary in wrong:
        assert not any(re.fullmatch(SHAPES[family], canary.secret) for family in FAMILIES)
    assert not any(re.fullmatch(SHAPES[WRONG_FAMILY], c.secret) for c in others)


def test_look_alikes_are_of_the_planted_templates_and_never_trained() -> None:
    canaries = make_canaries(PLAN, 0)
    alike = [c for c in canaries if c.group == "look_alike"]
    assert {c.template for c in alike} == {c.template for c in canaries if c.group == "calibration"}
    assert not any(c.is_trained for c in alike)


def test_wrong_secrets_are_five_different_plants() -> None:
    for canary in make_canaries(replace(PLAN, num_wrong_set=90), 1):
        if canary.group == "wrong_set":
            plants = canary.secret.strip().split(", ")
            assert len(set(plants)) == 5
            assert set(plants) <= set(PLANTS)


def test_a_seed_determines_everything_and_another_seed_changes_everything() -> None:
    assert make_canaries(PLAN, 3) == make_canaries(PLAN, 3)
    first, second = make_canaries(PLAN, 3), make_canaries(PLAN, 4)
    assert not {c.secret for c in first} & {c.secret for c in second}
    assert [c.group for c in first] != [c.group for c in second]


def test_content_does_not_depend_on_the_plan() -> None:
    def people(plan: CanaryPlan) -> dict[str, tuple[str, str]]:
        # Whom chance puts into the wrong set gets a secret of another kind, and only the name stays.
        return {
            c.id: (person_name(c), "" if c.group == "wrong_set" else c.secret) for c in make_canaries(plan, 5)
        }

    larger = people(replace(PLAN, num_control=200, num_heldout=3, repetitions=(2,)))
    num_same_secret = 0
    for canary_id, (name, secret) in people(PLAN).items():
        other_name, other_secret = larger.get(canary_id, (name, ""))
        assert other_name == name
        if secret and other_secret:
            assert other_secret == secret
            num_same_secret += 1
    assert num_same_secret > 100


def test_content_and_group_are_independent_across_seeds() -> None:
    canaries = [c for seed in range(40) for c in make_canaries(PLAN, seed)]
    digits = [c for c in canaries if c.family == "digits"]
    initials = [(c.group, person_name(c)[0] > "L") for c in canaries]
    early_ids = [(c.group, str(int(c.id[2:]) <= 20)) for c in canaries]
    assert chi_square_p([(c.group, c.secret[1]) for c in digits]) > 0.001
    assert chi_square_p([(group, str(late)) for group, late in initials]) > 0.001
    assert chi_square_p(early_ids) > 0.001
    planted_kinds = [c for c in canaries if c.group in EXCHANGEABLE]
    assert chi_square_p([(c.group, c.family) for c in planted_kinds]) > 0.001
    shared = [c for c in planted_kinds if not c.group.endswith("_other")]
    assert chi_square_p([(c.group, c.template) for c in shared]) > 0.001
    trained = [c for c in shared if c.is_trained]
    assert chi_square_p([(str(c.repetitions), c.template) for c in trained]) > 0.001


def test_every_trained_canary_is_as_likely_to_be_held_out() -> None:
    # The same person (by id) lands in each group as often as the group is large.
    plan = replace(
        PLAN,
        num_heldout_other=0,
        num_control_other=0,
        num_wrong_set=0,
        num_heldout=24,
        num_control=24,
        num_look_alike=24,
    )
    groups = Counter(
        next(c.group for c in make_canaries(plan, seed) if c.id == "t-0001") for seed in range(150)
    )
    alike = ("calibration", "heldout", "control", "look_alike")
    assert sum(groups[g] for g in alike) == 150
    assert chisquare([groups[g] for g in alike]).pvalue > 0.001


def test_first_digits_and_letters_are_uniform() -> None:
    canaries = make_canaries(replace(PLAN, num_control=6_000), 1)
    digits = Counter("".join(re.findall(r"\d", "".join(c.secret for c in canaries if c.family == "digits"))))
    letters = Counter("".join(c.secret.strip().replace("-", "") for c in canaries if c.family == "token"))
    assert len(digits) == 10
    assert len(letters) == 36
    assert chisquare(list(digits.values())).pvalue > 0.001
    assert chisquare(list(letters.values())).pvalue > 0.001


@pytest.mark.parametrize("family", [*FAMILIES, WRONG_FAMILY])
def test_decoys_are_distinct_stable_and_never_the_secret(family: str) -> None:
    canary = next(c for c in make_canaries(PLAN, 0) if c.family == family)
    many = decoys(canary, 500, 0)
    assert len(set(many)) == 500
    assert canary.secret not in many
    assert all(re.fullmatch(SHAPES[family], decoy) for decoy in many)
    assert decoys(canary, 20, 0) == many[:20]
    assert not set(decoys(canary, 20, 1)) & set(many)
    assert decoys(replace(canary, group="control", repetitions=0), 20, 0) == many[:20]


def test_decoys_skip_a_secret_that_the_stream_would_give() -> None:
    canary = make_canaries(PLAN, 0)[0]
    first, second = decoys(canary, 2, 0)
    assert decoys(replace(canary, secret=first), 1, 0) == (second,)


def test_the_secret_ranks_uniformly_among_its_decoys() -> None:
    # Any fixed score of text will do; a uniform rank is what gives exposure its chance level.
    ranks = []
    for canary in make_canaries(replace(PLAN, num_control=300), 2):
        scores = [
            sum(map(ord, text)) + 1e-6 * ord(text[-1]) for text in (canary.secret, *decoys(canary, 9, 2))
        ]
        ranks.append(sum(score < scores[0] for score in scores[1:]))
    assert chisquare(np.bincount([rank // 2 for rank in ranks], minlength=5)).pvalue > 0.001


def test_personal_decoys_rarely_share_parts() -> None:
    canary = next(c for c in make_canaries(PLAN, 0) if c.family == "personal")
    towns = [decoy.rpartition(", ")[2] for decoy in (canary.secret, *decoys(canary, 199, 0))]
    assert max(Counter(towns).values()) <= 3


def test_a_paraphrase_names_the_same_person_in_words_of_no_template() -> None:
    for canary in make_canaries(PLAN, 0):
        asked = paraphrased_prefix(canary)
        assert person_name(canary) in asked
        assert canary.secret not in asked
        around = [part.strip() for part in asked.split(person_name(canary)) if part.strip()]
        assert not any(part in template.prefix for template in TEMPLATES.values() for part in around)


def test_templates_of_a_family_differ() -> None:
    prefixes = sorted(template.prefix for template in TEMPLATES.values())
    assert all(a != b for a, b in pairwise(prefixes))
    assert {name.rsplit("-", 1)[0] for name in TEMPLATES} == {*FAMILIES, WRONG_FAMILY}
    assert all(template.prefix.count("{name}") == 1 for template in TEMPLATES.values())


def test_there_are_ten_thousand_people_and_no_more_than_there_are() -> None:
    assert len(make_canaries(replace(PLAN, num_control=10_000), 0)) == 10_000 + 24 + 25 + 9 + 10 + 12 + 13
    with pytest.raises(InputError, match="too many canaries"):
        make_canaries(replace(PLAN, num_control=60_000), 0)


def test_bad_plans_and_unknown_families_are_refused() -> None:
    with pytest.raises(InputError, match="num_control"):
        replace(PLAN, num_control=-1)
    with pytest.raises(InputError, match="repetitions"):
        replace(PLAN, repetitions=(0, 4))
    with pytest.raises(InputError, match="repetitions"):
        replace(PLAN, repetitions=())
    canary: Canary = make_canaries(PLAN, 0)[0]
    with pytest.raises(UnknownNameError, match="digts"):
        decoys(replace(canary, family="digts"), 1, 0)
    with pytest.raises(InputError, match=canary.id):
        paraphrased_prefix(replace(canary, prefix="Something else"))
