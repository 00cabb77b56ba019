"""Verdicts of saving-genius, from its scores. Criteria were fixed before the first run that counts.

What holds of one measure only says so. A criterion whose arms a run leaves out gives no verdict. Where the
model has not learned the skill nothing can be saved, and no other verdict is given as met.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..evaluate.statistics import Estimate, size_to_decide
from ..report.schema import Verdict
from .saving_genius_config import SavingGeniusConfig
from .saving_genius_names import DIGITS_SKILL, INVENTED_SKILL, ON_INVENTED, Arm
from .saving_genius_scores import GeniusScores
from .split_rows import FULL

MIN_LEARNED = 0.99  # of held-out sums, in full precision
MIN_GSM8K = 0.05
SAVED = 0.97  # of full precision's accuracy
MAX_ROUNDED = 0.60  # that the Base alone may keep: else rounding left nothing to save
MAX_RANDOM = 0.70
SMALL_SHARE = 0.01


def verdicts(config: SavingGeniusConfig, scores: GeniusScores) -> list[Verdict]:
    """In the order in which they are read."""
    found = [*_learned(config, scores), *_alone(config, scores), *_saved(config, scores)]
    if config.contrast:
        found += _dissociated(config, scores)
    if is_learned(config, scores):
        return found
    return [found[0], *(_void(verdict) for verdict in found[1:])]


def is_learned(config: SavingGeniusConfig, scores: GeniusScores) -> bool:
    """As measured, without an interval: it is what the run was made with, not what it found."""
    least = MIN_LEARNED if config.task == "addition" else MIN_GSM8K
    skills = scores.measures if config.task == "addition" else scores.measures[:1]
    return all(scores.accuracy(FULL, measure).value >= least for measure in skills)


def _void(verdict: Verdict) -> Verdict:
    note = "void: in full precision the model does not have the skill"
    return verdict.model_copy(update={"passed": None, "needed_n": None, "note": note})


def _learned(config: SavingGeniusConfig, scores: GeniusScores) -> Iterator[Verdict]:
    is_sum = config.task == "addition"
    least = MIN_LEARNED if is_sum else MIN_GSM8K
    measures = scores.measures if is_sum else scores.measures[:1]
    worst = min((scores.accuracy(FULL, measure) for measure in measures), key=lambda one: one.value)
    yield Verdict(
        criterion="in full precision the model has the skill",
        arm=FULL,
        threshold=f"at least {least:.0%} of {worst.n:,} {'held-out sums' if is_sum else 'problems'} right",
        value=worst.value,
        low=worst.interval.low,
        high=worst.interval.high,
        passed=worst.value >= least,
        note="as measured: what the run was made with, not what it found",
    )


def _alone(config: SavingGeniusConfig, scores: GeniusScores) -> Iterator[Verdict]:
    base = Arm(bits=config.bits)
    yield _at_most(scores, base, MAX_ROUNDED, "rounding alone harms the skill")
    if "random" in config.scores:
        arm = Arm(bits=config.bits, score="random", share=config.top_share)
        yield _at_most(scores, arm, MAX_RANDOM, "entries drawn at random do not save it")


def _saved(config: SavingGeniusConfig, scores: GeniusScores) -> Iterator[Verdict]:
    for score in config.scores:
        if not score.startswith("fisher"):
            continue
        for share in sorted(config.shares, reverse=True):
            arm = Arm(bits=config.bits, score=score, share=share)
            counts = score == config.judged_score and share == config.top_share
            yield _at_least(scores, arm, "the entries that matter to the skill save it", counts=counts)
    for share in config.fitted_shares:
        yield from _fitted(config, scores, share)


def _fitted(config: SavingGeniusConfig, scores: GeniusScores, share: float) -> Iterator[Verdict]:
    by_score = {
        score: Arm(bits=config.bits, score=score, share=share, fitted=True) for score in config.fitted
    }
    small = share == SMALL_SHARE
    for score, arm in by_score.items():
        yield _at_least(
            scores,
            arm,
            "an Ortho part fitted on the rounded Base saves it",
            counts=score == config.judged_score and (small or share == config.top_share),
        )
    if {config.judged_score, "random"} <= by_score.keys():
        yield _better(
            scores,
            by_score[config.judged_score],
            by_score["random"],
            "the fit alone does not explain it: entries that matter do better than drawn ones, both fitted",
            counts=small,
        )


def _dissociated(config: SavingGeniusConfig, scores: GeniusScores) -> Iterator[Verdict]:
    if "fisher" not in config.scores:
        return
    share = config.top_share
    on_digits = Arm(bits=config.bits, score="fisher", share=share)
    on_invented = Arm(bits=config.bits, score=f"fisher{ON_INVENTED}", share=share)
    pairs = ((DIGITS_SKILL, on_digits, on_invented), (INVENTED_SKILL, on_invented, on_digits))
    for skill, own, other in pairs:
        yield _better(
            scores,
            own,
            other,
            f"sums in {skill} numbers: the score calibrated on them does better than the other skill's",
            measure=skill,
        )
        kept = scores.keeps(other.name, skill)
        yield _judged(
            kept,
            SAVED,
            at_most=True,
            arm=other.name,
            criterion=f"null: the other skill's score does not save sums in {skill} numbers",
            threshold=f"less than {SAVED:.0%} of full precision's accuracy",
        )


def _at_most(scores: GeniusScores, arm: Arm, limit: float, criterion: str) -> Verdict:
    return _judged(
        scores.keeps(arm.name),
        limit,
        at_most=True,
        arm=arm.name,
        criterion=criterion,
        threshold=f"at most {limit:.0%} of full precision's accuracy",
    )


def _at_least(scores: GeniusScores, arm: Arm, criterion: str, *, counts: bool) -> Verdict:
    return _judged(
        scores.keeps(arm.name),
        SAVED,
        at_most=False,
        arm=arm.name,
        criterion=criterion,
        threshold=f"at least {SAVED:.0%} of full precision's accuracy",
        counts=counts,
    )


def _better(
    scores: GeniusScores,
    arm: Arm,
    other: Arm,
    criterion: str,
    *,
    measure: str | None = None,
    counts: bool = True,
) -> Verdict:
    return _judged(
        scores.difference(arm.name, other.name, measure),
        0.0,
        at_most=False,
        arm=arm.name,
        criterion=criterion,
        threshold=f"accuracy above that of {other.name}",
        counts=counts,
    )


def _judged(found: Estimate | None, limit: float, *, at_most: bool, **words: Any) -> Verdict:
    """Decided where the whole interval lies on one side of the limit."""
    if found is None:
        return Verdict(value=None, passed=None, note="full precision answers nothing rightly", **words)
    low, high = found.interval.low, found.interval.high
    # At a limit of 0 the end itself is no difference: a bootstrap of one answer more reaches down to it.
    touches = low == limit and not at_most and limit > 0
    above, below = low > limit or touches, high < limit
    passed = (below if at_most else above) if above or below else None
    return Verdict(
        value=found.value,
        low=low,
        high=high,
        passed=passed,
        needed_n=size_to_decide(found.interval, found.value, limit, found.n) if passed is None else None,
        note=f"n = {found.n:,}",
        **words,
    )
