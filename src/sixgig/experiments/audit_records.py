"""A user's records as questions with values: tokens, the pools that are compared, what the split saw.

Nothing of a text leaves this module but token ids in memory; kept and said are row numbers and counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..data.permuted import Pool, pools
from ..data.private import PrivateRecord, halved, row_list, same_text_rows
from ..errors import InputError
from .audit_config import MIN_RECORDS, AuditConfig

Ids = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class AuditRecords:
    """`seen`: whether the split was made with the record, None where that is not known. All are in the order
    of the rows that are audited."""

    rows: tuple[int, ...]
    questions: tuple[tuple[Ids, Ids], ...] = field(repr=False)
    pools: tuple[Pool, ...]
    seen: tuple[bool | None, ...]
    notes: tuple[str, ...]


def audit_records(
    records: Sequence[PrivateRecord],
    encode: Callable[[str], list[int]],
    config: AuditConfig,
    was_seen: Callable[[PrivateRecord], bool | None] = lambda record: None,
) -> AuditRecords:
    """The records that an audit can ask about, each text once.

    Raises:
        InputError: too few records, rows that nothing can be asked about, or values that are all equal.
    """
    distinct, notes = _each_once(records)
    asked = [halved(record) for record in distinct]
    num_halved = sum(one is not record for one, record in zip(asked, distinct, strict=True))
    if num_halved:
        notes.append(
            f"{num_halved} records have nothing before their value: each was cut at the white space nearest "
            "its middle, and its first half asks for the second"
        )
    questions = [(tuple(encode(one.prefix)), tuple(encode(one.secret))) for one in asked]
    empty = [one.row for one, pair in zip(asked, questions, strict=True) if not all(pair)]
    if empty:
        raise InputError(
            "private rows that nothing can be asked about",
            expected="a token or more before the value, and in it",
            where=row_list(empty),
            todo="take them out, or write them as prefix and secret",
        )
    if len(asked) < MIN_RECORDS:
        raise InputError(
            "too few records to audit",
            expected=f"at least {MIN_RECORDS} of different text; about 60 can decide every criterion",
            received=str(len(asked)),
            todo="add records that the model saw, also ones that the split was not made with",
        )
    cut = [(ask[-config.max_question_tokens :], value[: config.max_value_tokens]) for ask, value in questions]
    notes += _cut_note(questions, cut, config)
    made = pools(
        [one.secret for one in asked],
        [value for _, value in cut],
        max_members=config.max_pool,
        seed=config.seed,
    )
    return AuditRecords(
        rows=tuple(one.row for one in asked),
        questions=tuple(cut),
        pools=made,
        seen=tuple(was_seen(record) for record in distinct),
        notes=(*notes, *_pool_notes(made, [value for _, value in cut])),
    )


def _each_once(records: Sequence[PrivateRecord]) -> tuple[list[PrivateRecord], list[str]]:
    """One text twice is one memory: counted twice, it would make intervals narrower than they are."""
    same = same_text_rows(records)
    again = {row for rows in same for row in rows[1:]}
    told = [f"{row_list(rows)} are one text, which counts once" for rows in same[:5]]
    if len(same) > 5:
        told.append(f"and {len(same) - 5} more texts stand in several rows; each counts once")
    return [record for record in records if record.row not in again], told


def _cut_note(
    whole: Sequence[tuple[Ids, Ids]], cut: Sequence[tuple[Ids, Ids]], config: AuditConfig
) -> list[str]:
    shorter = sum(before != after for before, after in zip(whole, cut, strict=True))
    if not shorter:
        return []
    return [
        f"{shorter} records are longer than what is asked: of each, the last {config.max_question_tokens} "
        f"tokens before its value and the first {config.max_value_tokens} of the value were taken"
    ]


def _pool_notes(made: Sequence[Pool], values: Sequence[Ids]) -> list[str]:
    alike = sum(len(pool.members) for pool in made if pool.alike)
    mixed = sum(len(pool.members) for pool in made if not pool.alike)
    notes = [
        "controls are the values of other records, equal ones never: "
        + (f"{alike} records were compared with values of like form and length" if alike else "")
        + ("; " if alike and mixed else "")
        + (f"{mixed} with others too, since too few were like theirs" if mixed else "")
    ]
    most = max(Counter(values).values())
    if most > 1:
        notes.append(
            f"one value stands in {most} records: such records are not compared with one another, and a "
            "value as common as that may be guessed"
        )
    return notes
