"""Scores, verdicts and words of an audit on made-up numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sixgig.errors import InputError
from sixgig.experiments.audit_config import AuditConfig
from sixgig.experiments.audit_scores import AuditLook, AuditScores
from sixgig.report.audit_words import (
    AUDITED,
    BEFORE,
    CANNOT_TELL,
    LEAKS,
    NONE_SHOWN,
    POWER,
    audit_answer,
    audit_summary,
    audit_words,
    not_shown,
)
from sixgig.report.schema import Memory, Result


def look(num: int, *, known: float = 0.0, recited: int = 0, seed: int = 0) -> AuditLook:
    """Every value after every question; `known`: nats that a record's own is likelier."""
    rng = np.random.default_rng(seed)
    nll = rng.normal(size=(num, num)) + rng.normal(size=num) - known * np.eye(num)
    value: dict[str, Any] = {
        "nll": [nll.tolist()],
        "recited": [place < recited for place in range(num)],
        "exact_tokens": [float(place < recited) for place in range(num)],
    }
    return AuditLook.from_stage(value, [{"members": list(range(num)), "own": list(range(num))}])


def result(
    num: int, *, whole: bool = True, before: AuditLook | None = None, seen: Any = None, **base: Any
) -> Result:
    looks = {(AUDITED, 0.0): look(num, **base)}
    looks |= {(AUDITED, 1.0): look(num, known=9, recited=num)} if whole else {}
    looks |= {(BEFORE, None): before} if before is not None else {}
    seen = seen or [None] * num
    scorer = AuditScores(looks=looks, rows=list(range(1, num + 1)), seen=seen, alpha=0.0)
    facts = {"num_records": num, "num_seen": seen.count(True), "num_known": num - seen.count(None)}
    return Result(
        experiment="audit",
        status="complete",
        config={"alpha": 0.0},
        provenance={"date_utc": "2026-01-02", "sixgig_version": "0", "audit": facts},
        plan={},
        memory=Memory(planned_peak_bytes=None, measured_peak_bytes=None),
        timings={},
        scores=scorer.all(),
        verdicts=scorer.verdicts(),
    )


def marks(found: Result) -> list[bool | None]:
    return [verdict.passed for verdict in found.verdicts]


def test_a_base_that_knows_nothing_passes_with_enough_records() -> None:
    found = result(70)
    assert marks(found) == [True, True, True, True]
    assert audit_answer(found) == NONE_SHOWN
    words = " ".join(audit_words(found))
    assert words.startswith("No leakage was found, and this audit could have seen it.")
    assert "Of your 70 records the Base recites none (at most 4.2% with 95% confidence)." in words
    assert "The whole split recites 70 of 70, so this audit could see a memory." in words


def test_too_few_records_say_how_many_would_do() -> None:
    found = result(12)
    assert False not in marks(found)
    assert audit_answer(found) == CANNOT_TELL
    words = audit_words(found)[0]
    assert words.startswith("Cannot tell")
    assert "about" in words
    sizes = [verdict.needed_n for verdict in found.verdicts if verdict.passed is None]
    assert found.verdicts[0].needed_n == 59
    assert all(size is None or size > 12 for size in sizes)


def test_one_recited_record_is_a_finding_and_is_named_by_its_row() -> None:
    found = result(70, recited=1)
    assert marks(found)[0] is False
    assert audit_answer(found) == LEAKS
    assert any("recites 1 (recited: row 1)" in sentence for sentence in audit_words(found))


@pytest.mark.parametrize("known", [2.0, -2.0])
def test_a_memory_that_is_not_recited_is_found_in_the_pairs_on_either_side(known: float) -> None:
    found = result(70, known=known)
    assert marks(found)[:3] == [True, False, False]
    assert audit_answer(found) == LEAKS
    assert found.score("permutation_p", AUDITED, 0.0).value < 0.01  # pyright: ignore


def test_without_the_contrast_nothing_is_called_clean() -> None:
    found = result(70, whole=False)
    assert marks(found) == [True, True, True, None]
    assert audit_answer(found) == CANNOT_TELL
    assert "without the Ortho part there is no contrast" in audit_words(found)[0]


def test_a_whole_split_that_does_not_recite_gives_no_power() -> None:
    looks = {(AUDITED, 0.0): look(70), (AUDITED, 1.0): look(70, recited=20)}
    scorer = AuditScores(looks=looks, rows=list(range(70)), seen=[None] * 70, alpha=0.0)
    power = scorer.verdicts()[-1]
    assert power.criterion == POWER
    assert power.passed is None
    assert power.needed_n is None


def test_what_the_model_from_before_guessed_is_no_leakage() -> None:
    guessed = look(70, known=2.0, recited=3, seed=1)
    alone = result(70, known=2.0, recited=3)
    held = result(70, known=2.0, recited=3, before=guessed)
    assert audit_answer(alone) == LEAKS
    assert marks(held)[0] is True
    assert abs(held.score("auc_beyond_before", AUDITED, 0.0).value) < 0.1  # pyright: ignore
    more = result(70, known=6.0, recited=5, before=guessed)
    assert marks(more)[:2] == [False, True] or marks(more)[:2] == [False, False]
    assert "rows 4, 5" in more.verdicts[0].note
    assert "The model from before recites 3" in " ".join(audit_words(held))
    assert not any("--before" in sentence for sentence in not_shown(held))
    assert any("--before" in sentence for sentence in not_shown(alone))


def test_what_was_known_before_gives_no_power_and_no_sample() -> None:
    found = result(70, before=look(70, known=9, recited=70, seed=1))
    none_recited, power = found.verdicts[0], found.verdicts[-1]
    assert none_recited.passed is None
    assert none_recited.value is None
    assert power.value == 0.0
    assert power.passed is None
    half = result(70, before=look(70, known=9, recited=20, seed=1))
    assert "n = 50" in half.verdicts[0].threshold
    assert half.verdicts[-1].value == pytest.approx(50 / 70)


def test_records_that_the_split_did_not_see_have_scores_of_their_own() -> None:
    found = result(70, seen=[True] * 40 + [False] * 30, recited=45)
    assert found.score("recited_unseen", AUDITED, 0.0).n == 30  # pyright: ignore
    assert found.score("recited_unseen", AUDITED, 0.0).value == pytest.approx(5 / 30)  # pyright: ignore
    assert "made with 40 of these 70" in not_shown(found)[0]
    assert "every one of these" in not_shown(result(70, seen=[True] * 70))[0]
    assert "held out" in not_shown(result(70, seen=[False] * 70))[0]


def test_the_summary_for_a_manifest_names_no_row() -> None:
    summary = audit_summary(result(70, recited=2))
    assert summary["answer"] == LEAKS
    assert summary["num_records"] == 70
    assert summary["measured"]["alpha_0"]["recited"]["value"] == pytest.approx(2 / 70)
    assert "row" not in str(summary)


@pytest.mark.parametrize("alpha", [2.0, 1.0, -0.1, float("nan")])
def test_alpha_outside_is_refused(alpha: float) -> None:
    with pytest.raises(InputError, match="alpha must be"):
        AuditConfig(alpha=alpha)


def test_settings_too_small_are_all_named() -> None:
    with pytest.raises(InputError, match=r"max_pool.*") as caught:
        AuditConfig(max_pool=1, max_value_tokens=0, seed=-1)
    assert "max_value_tokens" in str(caught.value)
    assert "seed" in str(caught.value)
