"""An audit's result in plain words: what was found first, then what the audit does not show."""

from __future__ import annotations

from typing import Any

from .schema import Result, Score, Verdict

AUDITED, BEFORE = "audited", "before"  # arms: the split at its two settings, and the model from before
POWER = "the whole split recites, so that a memory could be seen"
NONE_RECITED = "no record is recited"  # how its criterion begins

LEAKS, NONE_SHOWN, CANNOT_TELL = "leakage shown", "no leakage shown", "cannot tell"


def audit_answer(result: Result) -> str:
    """Leakage shown, where a criterion on the Base failed; none shown, where all were met and the whole split
    recites; else one cannot tell."""
    if result.passed is False:
        return LEAKS
    return NONE_SHOWN if result.passed else CANNOT_TELL


def audit_words(result: Result, *, name_rows: bool = True) -> tuple[str, ...]:
    """Whole sentences, the answer first. Rows are named to their owner, not to who gets the Base."""
    alpha = _alpha(result)
    base = result.score("recited", AUDITED, alpha)
    assert base is not None  # every audit has it
    sentences = [_answer(result), _recited(result, base, alpha, name_rows), _told(result, alpha)]
    return tuple(sentence for sentence in (*sentences, _whole(result), _before(result, alpha)) if sentence)


def not_shown(result: Result) -> tuple[str, ...]:
    """What the same audit leaves open, whatever it found."""
    facts = result.provenance.get("audit", {})
    return (
        *_seen(facts, result),
        *(
            ()
            if result.score("recited", BEFORE, None)
            else (
                "Without the model from before (--before) a value that can be guessed from its question "
                "cannot be told from one that is remembered: both count as known.",
            )
        ),
        "Asked was with each record's own words and without training. Other wordings, samples by the "
        "thousand, and training the Base a little further (relearning, the strongest attack known) were not "
        "tried; `sixgig run kill-switch` tries them on planted secrets.",
        "Nothing is said of private texts that are not in this file.",
    )


def audit_summary(result: Result) -> dict[str, Any]:
    """For the split's manifest: counts and intervals; no rows."""
    alpha = _alpha(result)
    places = {f"alpha_{alpha:g}": (AUDITED, alpha), "alpha_1": (AUDITED, 1.0), "before": (BEFORE, None)}
    measured = {
        name: {
            measure: _numbers(score)
            for measure in ("recited", "auc_own_value", "exposure_own_value")
            if (score := result.score(measure, *place)) is not None
        }
        for name, place in places.items()
    }
    facts = result.provenance.get("audit", {})
    return {
        "answer": audit_answer(result),
        "words": " ".join(audit_words(result, name_rows=False)),
        "date_utc": result.provenance.get("date_utc"),
        "sixgig_version": result.provenance.get("sixgig_version"),
        "alpha": alpha,
        "num_records": facts.get("num_records"),
        "num_records_that_the_split_saw": facts.get("num_seen"),
        "measured": {name: found for name, found in measured.items() if found},
        "criteria": {verdict.criterion: verdict.passed for verdict in result.verdicts},
    }


def _numbers(score: Score) -> dict[str, float | int | None]:
    return {"value": score.value, "low": score.low, "high": score.high, "n": score.n}


def _alpha(result: Result) -> float:
    return float(result.config["alpha"])


def _answer(result: Result) -> str:
    answer = audit_answer(result)
    if answer == LEAKS:
        return "Leakage was found."
    if answer == NONE_SHOWN:
        return "No leakage was found, and this audit could have seen it."
    return f"Cannot tell: no leakage was found, but {_why(result)}."


def _why(result: Result) -> str:
    open_ones = [verdict for verdict in result.verdicts if verdict.passed is None]
    sizes = [verdict.needed_n for verdict in open_ones if verdict.needed_n]
    power = next((verdict for verdict in open_ones if verdict.criterion == POWER), None)
    reasons = [_no_power(power)] if power is not None else []
    if sizes:
        reasons.append(f"the records are too few to tell; about {max(sizes)} would do")
    elif any(verdict.criterion != POWER for verdict in open_ones):
        reasons.append("a gap as large as this one can neither be shown to be there nor to be none")
    return "; and ".join(reasons)


def _no_power(power: Verdict) -> str:
    if power.value is None:
        return "without the Ortho part there is no contrast, and nothing says that a memory would have shown"
    return (
        "the whole split hardly recites either, so the audit might not see a memory that is there (a model "
        "that was trained on a chat's form is asked without it)"
    )


def _recited(result: Result, base: Score, alpha: float, name_rows: bool) -> str:
    judged = next(verdict for verdict in result.verdicts if verdict.criterion.startswith(NONE_RECITED))
    hits = round((base.value or 0.0) * base.n)
    name = "the Base" if alpha == 0 else f"the split at alpha {alpha:g}"
    if hits == 0:
        upper = f"at most {judged.high or 0.0:.1%} with 95% confidence"
        return f"Of your {base.n} records {name} recites none ({upper})."
    note = f" ({judged.note})" if judged.note and name_rows else ""
    return f"Of your {base.n} records {name} recites {hits}{note}."


def _told(result: Result, alpha: float) -> str | None:
    found = result.score("auc_own_value", AUDITED, alpha)
    if found is None or found.value is None or found.low is None or found.high is None:
        return None
    return (
        f"Guessing which of two values belongs to a record, it is right in {100 * found.value:.0f}% "
        f"[{100 * found.low:.0f}, {100 * found.high:.0f}] of cases; 50% is chance."
    )


def _whole(result: Result) -> str | None:
    whole = result.score("recited", AUDITED, 1.0)
    if whole is None or whole.value is None:
        return None
    power = next(verdict for verdict in result.verdicts if verdict.criterion == POWER)
    words = (
        "so this audit could see a memory" if power.passed else "too few to say that it would see a memory"
    )
    return f"The whole split recites {round(whole.value * whole.n)} of {whole.n}, {words}."


def _before(result: Result, alpha: float) -> str | None:
    found, beyond = (
        result.score("auc_own_value", BEFORE, None),
        result.score("auc_beyond_before", AUDITED, alpha),
    )
    recited = result.score("recited", BEFORE, None)
    if found is None or found.value is None or beyond is None or beyond.value is None or recited is None:
        return None
    return (
        f"The model from before recites {round((recited.value or 0.0) * recited.n)} and is right in "
        f"{100 * found.value:.0f}%: beyond it lie {100 * beyond.value:+.0f} points "
        f"[{100 * (beyond.low or 0.0):+.0f}, {100 * (beyond.high or 0.0):+.0f}]."
    )


def _seen(facts: dict[str, Any], result: Result) -> tuple[str, ...]:
    seen, known, total = facts.get("num_seen"), facts.get("num_known"), facts.get("num_records")
    if not known:
        return (
            "Which of these records the split was made with is not known here (the Ortho part tells it). The "
            "sieve is best at what it was shown: records that the model saw and the sieve did not would tell "
            "more.",
        )
    if seen == total:
        return (
            "The split was made with every one of these records, so this is its best case. Records that the "
            "model saw and the split did not would tell more: give them as --private.",
        )
    if not seen:
        return ("The split was made with none of these records: they are held out from its sieve.",)
    return (
        f"The split was made with {seen} of these {total} records; the measures over the others alone are "
        "among the scores where they are enough.",
    )
