"""Sums as a skill: groups without a pair in common, tokens digit by digit, two alphabets apart."""

from __future__ import annotations

from itertools import combinations

import pytest

from sixgig.data.arithmetic import DIGITS, INVENTED, Sum, check_disjoint, draw_sums, sum_texts
from sixgig.errors import InputError

COUNTS = {"heldout": 1001, "control": 200, "calibration": 400}


def by_character(text: str) -> list[int]:
    return [ord(sign) for sign in text]


def test_groups_share_no_pair_in_either_order_and_have_the_sizes_asked_for() -> None:
    groups = draw_sums(COUNTS, seed=3)
    assert {name: len(groups[name]) for name in COUNTS} == COUNTS
    pairs = {name: {one.unordered for one in sums} for name, sums in groups.items()}
    for one, other in combinations(pairs, 2):
        assert not pairs[one] & pairs[other]
    every = [(one.a, one.b) for sums in groups.values() for one in sums]
    assert len(set(every)) == len(every) > 8100 - len(COUNTS) - 1
    assert all(10 <= a <= 99 and 10 <= b <= 99 for a, b in every)


def test_the_draw_depends_on_the_seed_and_not_on_the_alphabet() -> None:
    def pairs(**given: object) -> list[tuple[int, int]]:
        return [(one.a, one.b) for one in draw_sums(COUNTS, **given)["heldout"]]  # type: ignore[arg-type]

    assert pairs(seed=0) == pairs(seed=0, alphabet=INVENTED)
    assert pairs(seed=0) != pairs(seed=1)


def test_more_pairs_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match="not enough pairs"):
        draw_sums({"heldout": 50, "control": 50}, seed=0, least=0, most=9)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("question", "Question: 47 + 58\nAnswer: 105\n"),
        ("equation", "47 + 58 = 105\n"),
        ("bare", "47+58=105\n"),
    ],
)
def test_a_sum_is_written_out_and_only_its_answer_counts(form: str, text: str) -> None:
    (found,) = sum_texts([Sum(a=47, b=58)], by_character, form=form)
    assert "".join(map(chr, found.ids)) == text
    assert "".join(chr(i) for i, w in zip(found.ids, found.weights, strict=True) if w) == "105\n"


def test_digits_are_encoded_one_by_one_whatever_the_tokenizer_makes_of_several() -> None:
    asked: list[str] = []

    def encode(text: str) -> list[int]:
        asked.append(text)
        return by_character(text)

    sum_texts([Sum(a=47, b=58), Sum(a=47, b=58, alphabet=INVENTED)], encode, form="question")
    digits = [part for part in asked if any(sign in part for sign in DIGITS + INVENTED if sign != "Q")]
    assert all(len(part) == 1 for part in digits)


def test_invented_digits_stand_for_the_same_sum() -> None:
    real, invented = Sum(a=47, b=58), Sum(a=47, b=58, alphabet=INVENTED)
    table = str.maketrans(DIGITS, INVENTED)
    assert "".join(invented.answer) == "".join(real.answer).translate(table)
    assert not set("".join(invented.answer)) & set(DIGITS)


def test_alphabets_that_share_tokens_are_refused() -> None:
    check_disjoint(by_character)
    check_disjoint(lambda sign: [999, ord(sign)])  # a mark before every word is no digit's own
    with pytest.raises(InputError, match="does not tell all digits apart"):
        check_disjoint(lambda sign: [0])
    with pytest.raises(InputError, match="share tokens"):
        check_disjoint(lambda sign: [7, ord(sign)] if sign in "1Q" else [ord(sign)])
