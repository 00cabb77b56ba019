from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sixgig.errors import IntegrityError, NumericalError
from sixgig.report.plain_json import canonical, first_fault, parse, require_plain, sha256_of

plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    # surrogates are what `text` leaves out by category
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(plain_values)
@settings(deadline=None, max_examples=60)
def test_plain_values_survive_writing_and_reading(value: object) -> None:
    assert first_fault(value) is None
    assert parse(canonical(value), where="here") == value
    assert sha256_of(parse(canonical(value), where="here")) == sha256_of(value)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [1, float("nan")]}, "$.a[1]"),
        ({"a": float("inf")}, "$.a"),
        ({1: 2}, "int, not str"),
        ([{"b": {1, 2}}], "$[0].b: set"),
        ("\ud800", "surrogate"),
    ],
)
def test_a_fault_is_named_with_its_place(value: object, place: str) -> None:
    with pytest.raises(NumericalError, match="cannot be kept") as caught:
        require_plain(value, what="it")
    assert place in str(caught.value)


def test_tuples_become_lists_at_once() -> None:
    assert require_plain({"a": (1, (2,))}, what="it") == {"a": [1, [2]]}


@pytest.mark.parametrize(
    "text", ["", "{", '{"a": NaN}', "[-Infinity]", "[1e999]", "9" * 5000, "[" * 100_000, '"\\ud800"']
)
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError, match="somewhere"):
        parse(text, where="somewhere")
