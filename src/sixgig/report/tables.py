"""The tables of a result: what leaks, what an attack brings back, which criteria were met, every score."""

from __future__ import annotations

import re

from rich.console import RenderableType

from .arm_tables import ARM_TABLES
from .cells import NOT_KNOWN, score_cell
from .chance import chance_bits
from .could_see import SHARE_SEEN, why_unknown
from .labels import (
    alpha_label,
    arm_label,
    condition_label,
    format_interval,
    format_value,
    score_label,
    sorted_arms,
)
from .pareto import pareto_table
from .schema import Result, Verdict
from .table import Cell, Table


def sieve_table(result: Result) -> Table | None:
    """One row an arm and end of the switch: what leaks, how well it speaks, how large Ortho is.

    An arm with none of these scores has no row. None where no arm has any (another experiment's result).
    """
    rows = [_sieve_row(result, arm, alpha) for arm, alpha in _ends_of_the_switch(result)]
    rows = [row for row in rows if any(cell.text != "-" for cell in row[1:])]
    columns = [
        place for place in range(1, len(_SIEVE_COLUMNS)) if any(row[place].text != "-" for row in rows)
    ]
    if not columns:
        return None
    kept = [0, *columns]
    return Table(
        title="What leaks, and how well the model speaks",
        columns=tuple(_SIEVE_COLUMNS[place] for place in kept),
        rows=tuple(tuple(row[place] for place in kept) for row in rows),
        caption=f"Of held-out secrets, which the sieve has not seen. Exposure in bits: "
        f"{chance_bits(result):.2f} is chance. Small: "
        "95% intervals; perplexity as a multiple of INT4's (alpha 0) or full precision's (alpha 1). "
        "bpw: Ortho's bits per weight of the whole model.",
    )


_SIEVE_COLUMNS = (
    "Model",
    "Extracted",
    "Exposure planted",
    "Exposure never planted",
    "AUC",
    "PPL (ratio)",
    "Ortho",
)


def arm_table(result: Result) -> Table | None:
    """One row an arm and setting of the switch, one column a measure, as `ARM_TABLES` has them for the
    experiment; measures of which the result has no value have no column. None where it has none of them."""
    layout = ARM_TABLES[result.experiment]
    found = [(arm, alpha) for arm, alpha in _settings(result) if arm not in layout.without]
    columns = [
        (header, [score_cell(result.score(name, arm, alpha)) for arm, alpha in found])
        for header, name in layout.columns
    ]
    columns = [(header, cells) for header, cells in columns if any(_has_number(cell) for cell in cells)]
    rows = [
        (_arm_cell(arm, alpha), *(cells[place] for _, cells in columns))
        for place, (arm, alpha) in enumerate(found)
    ]
    rows = [row for row in rows if any(cell.text != "-" for cell in row[1:])]
    if not rows:
        return None
    headers = tuple(header for header, _ in columns)
    return Table(title=layout.title, columns=("Model", *headers), rows=tuple(rows), caption=layout.caption)


def _has_number(cell: Cell) -> bool:
    return cell.text not in ("-", NOT_KNOWN)


def _settings(result: Result) -> list[tuple[str, float | None]]:
    found = {(score.arm, score.alpha) for score in result.scores if score.condition == "plain"}
    arms = sorted_arms(result.arms())
    return sorted(found, key=lambda pair: (arms.index(pair[0]), pair[1] is not None, pair[1] or 0.0))


_AUC_NAMES = ("auc_loss", "auc_reference", "auc_minkpp", "auc_zlib")


def _ends_of_the_switch(result: Result) -> list[tuple[str, float | None]]:
    """(arm, alpha) with a plain score at alpha 0 or 1, or at None where the arm has no switch."""
    found = {(score.arm, score.alpha) for score in result.scores if score.condition == "plain"}
    switched = {arm for arm, alpha in found if alpha is not None}
    shown = [(arm, alpha) for arm, alpha in found if alpha in (0.0, 1.0) or arm not in switched]
    arms = sorted_arms(result.arms())
    return sorted(shown, key=lambda pair: (arms.index(pair[0]), pair[1] or 0.0))


def _sieve_row(result: Result, arm: str, alpha: float | None) -> list[Cell]:
    def cell(*names: str) -> Cell:
        found = (result.score(name, arm, alpha) for name in names)
        return score_cell(next((score for score in found if score is not None), None))

    return [
        _arm_cell(arm, alpha),
        cell("extraction_heldout"),
        cell("exposure_heldout"),
        cell("exposure_control"),
        cell(*_AUC_NAMES),
        _perplexity_cell(result, arm, alpha),
        _ortho_cell(result, arm) if alpha == 1.0 else Cell(text="-"),
    ]


def _perplexity_cell(result: Result, arm: str, alpha: float | None) -> Cell:
    """Perplexity over its ratio: at alpha 0 the fair comparison is plain INT4, at alpha 1 full precision."""
    cell = score_cell(result.score("perplexity", arm, alpha))
    names = ["ppl_ratio_int4", "ppl_ratio_full"]
    for name in reversed(names) if alpha == 1.0 else names:
        score = result.score(name, arm, alpha)
        if score is not None and score.value is not None:
            return Cell(text=cell.text, detail=f"×{score.value:.3f}")
    return cell


def _ortho_cell(result: Result, arm: str) -> Cell:
    sizes = {score.name: score for score in result.scores if score.arm == arm and score.condition == "plain"}
    bits, num_bytes = sizes.get("ortho_bits_per_weight"), sizes.get("ortho_bytes")
    detail = score_cell(num_bytes).text if num_bytes is not None else ""
    if bits is None or bits.value is None:
        return Cell(text=detail or "-")
    return Cell(text=f"{bits.value:.2f} bpw", detail=detail)


_ATTACK_MEASURES = ("exposure_heldout", "extraction_heldout")


def attack_table(result: Result) -> Table | None:
    """One row an attack and arm, the attacked arms side by side; None where nothing was attacked.

    Exposure and extraction where they were measured (the rest is under all scores), else every measure.
    """
    attacked = [score for score in result.scores if score.condition != "plain"]
    attacked = [score for score in attacked if not score.condition.startswith("sigma-")]  # no attack
    attacked = [score for score in attacked if score.name in _ATTACK_MEASURES] or attacked
    if not attacked:
        return None
    names = list(dict.fromkeys(score.name for score in attacked))
    conditions = ["plain", *dict.fromkeys(score.condition for score in attacked)]
    arms = sorted_arms([score.arm for score in attacked])
    targets = sorted({(arms.index(score.arm), score.alpha or 0.0, score.alpha) for score in attacked})
    rows = []
    for condition in conditions:
        for place, _, alpha in targets:
            cells = [score_cell(result.score(name, arms[place], alpha, condition)) for name in names]
            if any(cell.text != "-" for cell in cells):
                rows.append((Cell(text=condition_label(condition)), _arm_cell(arms[place], alpha), *cells))
    return Table(
        title="Under attack",
        columns=("Attack", "Model", *(score_label(name) for name in names)),
        rows=tuple(rows),
        num_labels=2,
        caption="Far above the never-planted model under the same attack: the secrets were still there.",
    )


def _arm_cell(arm: str, alpha: float | None) -> Cell:
    return Cell(text=arm_label(arm), detail="" if alpha is None else f"alpha {alpha_label(alpha)}")


def verdict_mark(verdict: Verdict) -> Cell:
    """pass, fail, not measured, or too small to tell with the number needed."""
    if verdict.passed is not None:
        return Cell(text="pass", tone="good") if verdict.passed else Cell(text="fail", tone="bad")
    if verdict.value is None:
        return Cell(text="not measured", tone="unknown")
    needed = f"needs n = {verdict.needed_n:,}" if verdict.needed_n is not None else ""
    return Cell(text="too small to tell", detail=needed, tone="unknown")


def verdict_table(result: Result) -> Table | None:
    """One row a criterion, those that decide the answer first; None where there are none."""
    if not result.verdicts:
        return None
    return Table(
        title="Criteria, fixed before the run",
        # The verdict comes early so that it shows on a phone too.
        columns=("Criterion", "Verdict", "Model", "Asked", "Measured", "Could have seen"),
        rows=tuple(_verdict_row(item) for item in sorted(result.verdicts, key=lambda item: not item.counts)),
        num_labels=4,
        caption="Could have seen: the smallest true difference from the limit, or for an upper bound the "
        f"smallest rate, that a sample like this one shows in {SHARE_SEEN} repetitions, at 5%. What is "
        "smaller may be there unseen. Where there is no interval, the value alone decides.",
    )


_ASKS_FOR_A_SHARE = re.compile(r"at (most|least) [\d.]+ ?%")


def _verdict_row(verdict: Verdict) -> tuple[Cell, ...]:
    comparison = "" if verdict.counts else "for comparison only"
    detail = "; ".join(part for part in (comparison, verdict.note) if part)
    unit = verdict_unit(verdict)
    measured = Cell(
        text="-" if verdict.value is None else format_value(verdict.value, "", unit),
        detail=format_interval(verdict.low, verdict.high, "", unit),
    )
    words = Cell(text=arm_label(verdict.arm)), Cell(text=verdict.threshold)
    criterion = Cell(text=verdict.criterion, detail=detail)
    return criterion, verdict_mark(verdict), *words, measured, _visible_cell(verdict, unit)


def verdict_unit(verdict: Verdict) -> str:
    """ "share" where the criterion asks for per cents and the numbers are shares, else none."""
    parts = [part for part in (verdict.value, verdict.low, verdict.high) if part is not None]
    is_share = _ASKS_FOR_A_SHARE.search(verdict.threshold) and all(-1 <= part <= 1 for part in parts)
    return "share" if is_share else ""


def _visible_cell(verdict: Verdict, unit: str) -> Cell:
    if verdict.visible_difference is not None:
        return Cell(text=format_value(verdict.visible_difference, "", unit))
    return Cell(text=why_unknown(verdict))


def score_table(result: Result) -> Table:
    """Every score, one row each, in the order in which the experiment gave them."""
    rows = []
    for score in result.scores:
        words = (
            score_label(score.name),
            arm_label(score.arm),
            alpha_label(score.alpha),
            condition_label(score.condition),
        )
        note = Cell(text=score.note if score.value is not None else "")
        count = Cell(text=str(score.n) if score.n else "-")
        rows.append((*(Cell(text=word) for word in words), score_cell(score), count, note))
    return Table(
        title="All scores",
        columns=("Measure", "Model", "alpha", "Condition", "Value", "n", "Note"),
        rows=tuple(rows),
        num_labels=4,
    )


def result_tables(result: Result) -> list[Table]:
    """The tables people read first; all scores where the result has none of the known ones."""
    main = arm_table(result) if result.experiment in ARM_TABLES else sieve_table(result)
    main = main or score_table(result)
    found = (verdict_table(result), pareto_table(result), main, attack_table(result))
    return [table for table in found if table is not None]


def terminal_tables(result: Result) -> list[RenderableType]:
    """`result_tables` for a terminal, the verdicts last: what stands above the prompt is read first."""
    return [table.to_rich() for table in reversed(result_tables(result))]
