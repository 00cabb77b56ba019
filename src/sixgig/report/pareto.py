"""Sieves side by side: what each leaks, costs in words, in size and in time, and which none other beats.

Everything is read from the result's scores. A sieve whose Base is looked at under another arm's name (what
`isolated` publishes is the reference's) takes that arm's scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..transform.sieve import SIEVES
from .cells import score_cell
from .labels import arm_label, condition_label, score_label, sorted_arms
from .schema import Result, Score
from .table import Cell, Table

BASE_OF = {"isolated": "reference"}
PLAIN_INT4 = "hessian"  # its Base is what every perplexity is divided by
LEAST_SIEVES = 4  # fewer are no comparison: the tables of arms and attacks say it all


@dataclass(frozen=True, kw_only=True)
class ComparedSieve:
    """One sieve's scores; None where the run did not measure one. `optimal`: see `pareto_optimal`."""

    arm: str
    claim: str
    gap: Score | None
    relearned: Score | None
    ppl_ratio: Score | None
    ppl_full_ratio: Score | None
    extraction: Score | None
    ortho_bits: Score | None
    seconds: Score | None
    optimal: bool = False

    @property
    def ratio(self) -> float | None:
        """Perplexity over plain INT4's, which is 1 for plain INT4 itself."""
        return 1.0 if self.arm == PLAIN_INT4 else _value(self.ppl_ratio)

    @property
    def leakage_bits(self) -> float | None:
        """The larger distance of the exposure gap from 0, before and after relearning: below 0 secrets are
        told from the others just as well."""
        gaps = [abs(gap) for score in (self.gap, self.relearned) if (gap := _value(score)) is not None]
        return max(gaps) if self.gap is not None and gaps else None


def pareto_optimal(costs: Sequence[Sequence[float]]) -> list[bool]:
    """Which rows no other row beats: as low in every column, and lower in one. Equal rows are all kept.

    >>> pareto_optimal([(1, 3), (2, 2), (3, 3), (2, 2)])
    [True, True, False, True]
    """

    def beats(other: Sequence[float], one: Sequence[float]) -> bool:
        pairs = list(zip(other, one, strict=True))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    return [not any(beats(other, one) for other in costs) for one in costs]


def relearn_condition(result: Result) -> str | None:
    """The longest relearning attack that was measured."""
    steps = [
        int(score.condition.removeprefix("relearn-"))
        for score in result.scores
        if score.condition.startswith("relearn-") and score.condition[8:].isdecimal()
    ]
    return f"relearn-{max(steps)}" if steps else None


def compared_sieves(result: Result) -> list[ComparedSieve]:
    """The sieves of the run's settings that were looked at, optimal ones by leakage and perplexity marked."""
    attack = relearn_condition(result)
    named = [str(name) for name in result.config.get("sieves", ())]
    found = [_compared(result, arm, attack) for arm in sorted_arms(named)]
    found = [one for one in found if one.gap is not None]
    if attack is not None and any(one.relearned is None for one in found):
        # What only some were attacked with says nothing of the others.
        found = [replace(one, relearned=None) for one in found]
    measured = [
        (one, (leakage, ratio))
        for one in found
        if (leakage := one.leakage_bits) is not None and (ratio := one.ratio) is not None
    ]
    marks = pareto_optimal([costs for _, costs in measured])
    optimal = {one.arm for (one, _), mark in zip(measured, marks, strict=True) if mark}
    return [replace(one, optimal=one.arm in optimal) for one in found]


def _compared(result: Result, arm: str, attack: str | None) -> ComparedSieve:
    base = BASE_OF.get(arm, arm)
    return ComparedSieve(
        arm=arm,
        claim=SIEVES[arm].claim if arm in SIEVES else "",
        gap=_known(result.score("exposure_gap", base, 0.0)),
        relearned=_known(result.score("exposure_gap", base, 0.0, attack)) if attack else None,
        ppl_ratio=_known(result.score("ppl_ratio_int4", base, 0.0)),
        ppl_full_ratio=_known(result.score("ppl_ratio_full", arm, 1.0)),
        extraction=_known(result.score("extraction_heldout", arm, 1.0)),
        ortho_bits=_known(result.score("ortho_bits_per_weight", arm, None)),
        seconds=_known(result.score("making_seconds", arm, None)),
    )


def _known(score: Score | None) -> Score | None:
    return score if score is not None and score.value is not None else None


def _value(score: Score | None) -> float | None:
    return None if score is None else score.value


def pareto_table(result: Result) -> Table | None:
    """One row a sieve; None where fewer than LEAST_SIEVES were looked at."""
    sieves = compared_sieves(result)
    if len(sieves) < LEAST_SIEVES:
        return None
    attack = relearn_condition(result)
    columns = (
        ("Sieve", [Cell(text=arm_label(one.arm), detail=one.claim) for one in sieves]),
        ("Best", [Cell(text="★" if one.optimal else "") for one in sieves]),
        ("Gap, bits", [score_cell(one.gap) for one in sieves]),
        (f"Gap, {condition_label(attack or '')}", [score_cell(one.relearned) for one in sieves]),
        (score_label("ppl_ratio_int4"), [_ratio_cell(one, score_cell(one.ppl_ratio)) for one in sieves]),
        ("Alpha 1: perplexity / full", [score_cell(one.ppl_full_ratio) for one in sieves]),
        ("Alpha 1: extracted", [score_cell(one.extraction) for one in sieves]),
        ("Ortho, bits a weight", [score_cell(one.ortho_bits) for one in sieves]),
        ("Made in, s", [_seconds_cell(one.seconds) for one in sieves]),
    )
    kept = [column for column in columns if any(cell.text not in ("-", "") for cell in column[1])]
    counts = sorted({one.gap.n for one in sieves if one.gap is not None})
    return Table(
        title="The sieves side by side",
        columns=tuple(header for header, _ in kept),
        rows=tuple(zip(*(cells for _, cells in kept), strict=True)),
        num_labels=2 if any(one.optimal for one in sieves) else 1,
        caption="Gap: held-out exposure above the controls', of the Base alone, with its 90% interval, "
        f"n = {' or '.join(map(str, counts))} secrets and controls; other intervals 95%. ★: no other sieve "
        f"has both a gap nearer to 0 ({_gap_judged(sieves, attack)}) and a lower perplexity; "
        "decided from the values, so that neighbours whose intervals overlap may change places. Made in: "
        "search and split, fit of the scales, fit of Ortho. Small under a name: what the sieve claims.",
    )


def _gap_judged(sieves: Sequence[ComparedSieve], attack: str | None) -> str:
    """Which gap decides, in words: `compared_sieves` leaves relearning out where only some were attacked."""
    if any(one.relearned is not None for one in sieves):
        return "the worse of before and after relearning"
    return "before relearning, which " + ("not all were attacked with" if attack else "was not tried")


def _ratio_cell(one: ComparedSieve, cell: Cell) -> Cell:
    return Cell(text="1", detail="by definition") if one.arm == PLAIN_INT4 else cell


def _seconds_cell(score: Score | None) -> Cell:
    value = _value(score)
    return Cell(text="-" if value is None else f"{value:.0f}")
