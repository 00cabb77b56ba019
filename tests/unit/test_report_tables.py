from __future__ import annotations

import io

import pytest
from fake_result import fake_result, score
from rich.console import Console

from sixgig.report.labels import format_interval, format_value, sorted_arms, visible
from sixgig.report.schema import Result, Verdict
from sixgig.report.story import tell
from sixgig.report.table import Cell, Table
from sixgig.report.tables import (
    attack_table,
    score_table,
    sieve_table,
    terminal_tables,
    verdict_mark,
    verdict_table,
)


def _row(table: Table | None, name: str, detail: str = "") -> dict[str, Cell]:
    assert table is not None
    rows = [row for row in table.rows if (row[0].text, row[0].detail) == (name, detail)]
    assert len(rows) == 1
    return dict(zip(table.columns, rows[0], strict=True))


def _printed(result: Result, width: int) -> str:
    target = io.StringIO()
    console = Console(file=target, width=width, legacy_windows=False)
    for table in terminal_tables(result):
        console.print(table)
    return target.getvalue()


def test_the_main_table_has_each_number_in_its_place() -> None:
    row = _row(sieve_table(fake_result()), "Wiener sieve", "alpha 0")
    assert (row["Extracted"].text, row["Extracted"].detail) == ("0%", "[0, 2]%")
    assert (row["Exposure planted"].text, row["Exposure planted"].detail) == ("1.50", "[1.15, 1.85]")
    assert row["Exposure never planted"].text == "1.45"
    assert row["AUC"].text == "0.52"
    assert (row["PPL (ratio)"].text, row["PPL (ratio)"].detail) == ("19.40", "×1.021")
    assert row["Ortho"].text == "-"


def test_alpha_1_is_measured_against_full_precision_and_shows_what_ortho_costs() -> None:
    row = _row(sieve_table(fake_result()), "Wiener sieve", "alpha 1")
    assert row["PPL (ratio)"].detail == "×1.080"
    assert (row["Ortho"].text, row["Ortho"].detail) == ("0.90 bpw", "11.77 MiB")


def test_an_arm_whose_sizes_have_no_alpha_gets_no_row_of_its_own_for_them() -> None:
    scores = [
        score("exposure_heldout", "wiener", 0.0, 1.5),
        score("base_codes_changed", "wiener", None, 0.1, unit="share", n=0),
    ]
    table = sieve_table(fake_result(scores=scores))
    assert table is not None
    assert [row[0].detail for row in table.rows] == ["alpha 0"]


def test_an_arm_of_which_only_sizes_are_known_has_no_row() -> None:
    scores = [
        score("exposure_heldout", "wiener", 0.0, 1.5),
        score("base_bytes", "isolated", None, 1e6, unit="bytes", n=0),
    ]
    table = sieve_table(fake_result(scores=scores))
    assert table is not None
    assert [row[0].text for row in table.rows] == ["Wiener sieve"]
    assert sieve_table(fake_result(scores=scores[1:])) is None


def test_columns_without_a_number_are_left_out() -> None:
    table = sieve_table(fake_result(scores=[score("perplexity", "wiener", 0.0, 19.0, unit="")]))
    assert table is not None
    assert table.columns == ("Model", "PPL (ratio)")


def test_unknown_measures_arms_and_conditions_are_shown_by_their_names() -> None:
    scores = [score("strangeness", "sieve-of-2030", 0.0, 3.25, unit="nats", condition="fire")]
    result = fake_result(scores=scores)
    assert [cell.text for cell in score_table(result).rows[0]][:5] == [
        "strangeness",
        "sieve-of-2030",
        "0",
        "fire",
        "3.25 nats",
    ]
    assert "sieve-of-2030" in _printed(result, 120)
    attacked = attack_table(result)
    assert attacked is not None
    assert [cell.text for cell in attacked.rows[0]] == ["fire", "sieve-of-2030", "3.25 nats"]


def test_under_attack_every_arm_stands_beside_the_others() -> None:
    table = attack_table(fake_result())
    assert table is not None
    assert table.columns == ("Attack", "Model", "Exposure, planted secrets")
    attacks = [row[0].text for row in table.rows]
    assert attacks == ["no attack"] * 5 + ["relearning, 20 steps"] * 5 + ["requantised to INT3"] * 4
    assert [cell.text for cell in table.rows[7]][1:] == ["Wiener sieve", "1.90"]


def test_a_value_that_is_not_known_shows_its_reason() -> None:
    row = score_table(fake_result()).rows[-1]
    assert (row[4].text, row[4].detail) == ("not known", "fewer than 100 controls")


def test_verdicts_that_decide_come_first_and_the_size_needed_is_said() -> None:
    table = verdict_table(fake_result())
    assert table is not None
    assert [row[1].text for row in table.rows] == ["pass", "too small to tell", "pass", "fail"]
    assert table.rows[1][1].detail == "needs n = 200"
    assert "comparison" in table.rows[-1][0].detail


@pytest.mark.parametrize(
    ("threshold", "shown"),
    [
        ("one-sided 95% upper bound at most 1.5%", "2%"),
        ("within 0.5 bit (TOST, 90% interval)", "0.020"),
        ("at least 2 bits", "0.020"),
    ],
)
def test_only_a_threshold_in_per_cent_turns_the_measure_to_per_cent(threshold: str, shown: str) -> None:
    verdict = Verdict(criterion="c", arm="a", threshold=threshold, value=0.02, passed=True)
    table = verdict_table(fake_result(verdicts=[verdict]))
    assert table is not None
    assert table.rows[0][-2].text == shown


def test_a_verdict_without_a_size_does_not_invent_one() -> None:
    verdict = Verdict(criterion="c", arm="a", threshold="t", value=0.7, passed=None)
    assert verdict_mark(verdict) == Cell(text="too small to tell", tone="unknown")


def test_what_was_not_measured_is_not_called_too_small() -> None:
    verdict = Verdict(criterion="c", arm="a", threshold="at most 1; missing: x", value=None, passed=None)
    assert verdict_mark(verdict) == Cell(text="not measured", tone="unknown")
    table = verdict_table(fake_result(verdicts=[verdict]))
    assert table is not None
    assert [cell.text for cell in table.rows[0]][-3:] == ["at most 1; missing: x", "-", "not measured"]


def test_a_terminal_of_80_columns_breaks_no_number() -> None:
    printed = _printed(fake_result(), 80)
    for number in ("1.15..1.85", "1.33..1.57", "0.47..0.57", "96..100%", "11.77 MiB", "×1.021"):
        assert number in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_a_hostile_name_neither_styles_nor_moves_the_terminal() -> None:
    scores = [score("exposure_heldout", "[red]x[/red]\x1b[2J", 0.0, 1.0, 0.1)]
    printed = _printed(fake_result(scores=scores, verdicts=[], curves=[]), 120)
    assert "[red]x[/red]\\x1b" in printed
    assert "\x1b" not in printed


def test_markdown_has_one_cell_a_column_whatever_the_cells_hold() -> None:
    cells = (Cell(text="a|b\nc", detail="<script>"), Cell(text="1"))
    text = Table(title="t", columns=("x", "y"), rows=(cells,)).to_markdown()
    assert text == "| x | y |\n| --- | ---: |\n| a\\|b c &lt;script> | 1 |\n"


def test_a_result_without_anything_still_prints() -> None:
    empty = fake_result(scores=[], verdicts=[], curves=[], examples=[])
    assert sieve_table(empty) is None
    assert attack_table(empty) is None
    assert verdict_table(empty) is None
    assert "All scores" in _printed(empty, 80)


def test_numbers_are_written_as_people_read_them() -> None:
    assert format_value(0.98, "extraction_heldout", "share") == "98%"
    assert format_value(0.0123, "tpr_at_1pct_fpr", "") == "1.23%"
    assert format_value(0.52, "auc_loss", "AUC") == "0.52"
    assert format_value(2**20, "base_bytes", "bytes") == "1.00 MiB"
    assert format_value(1e-9, "ks_reference_p", "p-value") == "1.00e-09"
    assert format_interval(None, 0.015, "extraction_heldout", "share") == "at most 1.5%"
    assert format_interval(2.64, 3.64, "x", "nats") == "[2.64, 3.64]"
    assert format_interval(None, None, "x", "") == ""


def test_known_arms_come_in_their_own_order_and_others_after() -> None:
    assert sorted_arms(["new", "wiener", "full_precision", "new"]) == ["full_precision", "wiener", "new"]


def test_invisible_characters_are_spelled_out_and_letters_are_not() -> None:
    assert visible("a\x1b\u202eb\n秘密 é\t") == "a\\x1b\\u202eb\n秘密 é\t"


def test_a_verdict_shows_what_it_could_have_seen_in_its_own_unit() -> None:
    shares = Verdict(
        criterion="c",
        arm="a",
        threshold="at most 1.5%",
        value=0.0,
        high=0.18,
        passed=None,
        visible_difference=0.102,
    )
    bits = Verdict(
        criterion="c", arm="a", threshold="0.5 bit", value=0.0, passed=True, visible_difference=0.61
    )
    table = verdict_table(fake_result(verdicts=[shares, bits]))
    assert table is not None
    assert table.columns[-1] == "Could have seen"
    assert [row[-1].text for row in table.rows] == ["10.2%", "0.610"]
    assert "may be there unseen" in table.caption
    findings = tell(fake_result(verdicts=[shares, bits])).findings
    assert any("c, 10.2%; c, 0.610" in finding for finding in findings)


@pytest.mark.parametrize("width", [60, 72, 80, 100])
def test_on_a_narrow_terminal_the_last_column_is_whole(width: int) -> None:
    """Six columns, one of them an interval that cannot be broken: Rich alone makes these too wide."""
    verdicts = [
        Verdict(
            criterion="relearning brings back no more than it gives the reference",
            arm="wiener",
            threshold="within 0.75 bit (TOST, 90% interval)",
            value=0.027,
            low=-0.577,
            high=0.654,
            passed=None,
            needed_n=60,
            visible_difference=0.9301,
        ),
        Verdict(criterion="leakage rises", arm="wiener", threshold="no step", value=0.0, passed=True),
    ]
    printed = _printed(fake_result(verdicts=verdicts), width)
    assert "0.930" in printed
    assert "-0.577..0.654" in printed
    assert max(map(len, printed.splitlines())) <= width
