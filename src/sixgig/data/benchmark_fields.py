"""The fields of each benchmark's rows, and the check that a row has them: the hub's own names and types.

A shape is a type (`str`, `int`), a list of one shape, or a dictionary of shapes. Within `Optional` a value
may be missing, as most arguments of an instruction are. Fields that no shape names are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import InputError


class Optional(NamedTuple):
    """A value of that shape, or None."""

    shape: Any


# IFEval's arguments, as google/IFEval publishes them: each row has every name, None where it has no say.
_INSTRUCTION_ARGUMENTS: dict[str, Any] = {
    **dict.fromkeys(
        (
            *("num_highlights", "num_words", "num_placeholders", "num_bullets", "num_sections"),
            *("capital_frequency", "num_paragraphs", "let_frequency", "frequency", "num_sentences"),
            "nth_paragraph",
        ),
        Optional(int),
    ),
    **dict.fromkeys(
        (
            *("relation", "prompt_to_repeat", "section_spliter", "capital_relation", "language"),
            *("let_relation", "letter", "end_phrase", "keyword", "postscript_marker", "first_word"),
        ),
        Optional(str),
    ),
    "keywords": Optional([str]),
    "forbidden_words": Optional([str]),
}

WIKITEXT: dict[str, Any] = {"page": str}
GSM8K: dict[str, Any] = {"question": str, "answer": str}
MMLU: dict[str, Any] = {"question": str, "subject": str, "choices": [str], "answer": int}
ARC: dict[str, Any] = {
    "id": str,
    "question": str,
    "choices": {"text": [str], "label": [str]},
    "answerKey": str,
}
HELLASWAG: dict[str, Any] = {
    "ind": int,
    "activity_label": str,
    "ctx_a": str,
    "ctx_b": str,
    "ctx": str,
    "endings": [str],
    "label": str,
}
IFEVAL: dict[str, Any] = {
    "key": int,
    "prompt": str,
    "instruction_id_list": [str],
    "kwargs": [_INSTRUCTION_ARGUMENTS],
}


def fitted(value: Any, shape: Any, *, where: str, field: str = "") -> Any:
    """`value` with the fields of `shape` alone, missing optional ones as None.

    Raises:
        InputError: a field is missing, of another type, or an argument of IFEval that is not known.
    """
    if isinstance(shape, Optional):
        return None if value is None else fitted(value, shape.shape, where=where, field=field)
    if isinstance(shape, dict):
        return _fitted_fields(_of_type(value, dict, where, field), shape, where=where, field=field)
    if isinstance(shape, list):
        items = _of_type(value, list, where, field)
        return [
            fitted(item, shape[0], where=where, field=f"{field}[{place}]") for place, item in enumerate(items)
        ]
    return _of_type(value, shape, where, field)


def _fitted_fields(
    value: Mapping[str, Any], shape: Mapping[str, Any], *, where: str, field: str
) -> dict[str, Any]:
    prefix = f"{field}." if field else ""
    missing = [name for name, part in shape.items() if name not in value and not isinstance(part, Optional)]
    if missing:
        raise InputError(
            f"a row lacks {', '.join(prefix + name for name in missing)}",
            expected=f"the fields {', '.join(prefix + name for name in shape)}",
            received=", ".join(map(str, value)) or "no field",
            where=where,
        )
    if all(isinstance(part, Optional) for part in shape.values()) and (extra := value.keys() - shape.keys()):
        # Left out, an unknown argument would change what an instruction asks for.
        raise InputError(
            f"an argument that is not known: {', '.join(sorted(map(str, extra)))}",
            expected=f"among {', '.join(shape)}",
            where=f"{where}, {field}",
        )
    return {
        name: fitted(value.get(name), part, where=where, field=prefix + name) for name, part in shape.items()
    }


def _of_type(value: Any, kind: type, where: str, field: str) -> Any:
    # bool is an int to Python and to nobody else.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(
            f"{field or 'a row'} is of another type",
            expected={dict: "an object", list: "a list", str: "text", int: "a whole number"}[kind],
            received=f"{type(value).__name__}: {value!r}"[:120],
            where=where,
        )
    return value
