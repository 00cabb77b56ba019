"""Measured memory against the planner: a prediction that drifts from its receipt fails here."""

from __future__ import annotations

import importlib
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest

from sixgig.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))  # where the scripts find each other
cards = importlib.import_module("memory_cards")
configs = importlib.import_module("memory_configs")
measured = importlib.import_module("memory_measured")
writer = importlib.import_module("memory_receipt")

PATH = max((ROOT / "docs" / "receipts").glob("memory-[0-9]*.json"))
RECEIPT = json.loads(PATH.read_text(encoding="utf-8"))
ROWS = RECEIPT["raw"]["configurations"]
KNOWN = {one.label: one for one in configs.all_configurations()}
AGAIN = (
    f"the planner's prediction is not the one in {PATH.name}; where the change is meant: "
    f"python benchmarks/memory.py --from docs/receipts/{PATH.name}, then make docs"
)


# ---- the receipt that is there ---------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["label"])
def test_the_prediction_is_the_receipts_and_near_the_measured_peak(row: dict[str, Any]) -> None:
    assert writer.predicted(KNOWN[row["label"]], RECEIPT["device"]) == row["predicted"], AGAIN
    assert row["held_out"] == KNOWN[row["label"]].held_out
    assert abs(writer.error(row, "peak_allocated_bytes")) <= 0.05


def test_half_of_the_predictions_are_within_a_fiftieth() -> None:
    assert len(ROWS) >= 30
    assert statistics.median(abs(writer.error(row, "peak_allocated_bytes")) for row in ROWS) <= 0.02


def test_the_figures_follow_from_the_raw_measurements() -> None:
    again = {one["name"]: one for one in [*writer.accuracy_figures(ROWS), *writer.peer_figures(ROWS)]}
    kept = {one["name"]: one for one in RECEIPT["figures"]}
    assert {name: kept[name] for name in again} == again


def test_what_was_decided_about_small_cards_still_holds() -> None:
    runs = {KNOWN[row["label"]]: row["measured"] for row in ROWS}
    found = writer.fit_figures(list(cards.pairs(runs, RECEIPT["raw"]["capped"])))
    kept = {one["name"]: one for one in RECEIPT["figures"]}
    assert [kept[one["name"]] for one in found] == found, AGAIN
    assert kept["plan_false_fits"]["value"] == 0


# ---- the writer ------------------------------------------------------------------------------------------

ONE = KNOWN["llama-3-8b, generate, 4 bits, context 512"]
LARGE = KNOWN["llama-3-8b, generate, 16 bits, context 512"]


def run(allocated: int, reserved: int) -> dict[str, int]:
    return {"peak_allocated_bytes": allocated, "peak_reserved_bytes": reserved}


def test_a_run_without_a_limit_decides_but_for_what_lies_between_its_peaks() -> None:
    limit = cards.cap_bytes(ONE, 6)
    assert cards.runs_without_asking(ONE, 6, run(limit - 9, limit)) is True
    assert cards.runs_without_asking(ONE, 6, run(limit, limit + 1)) is None
    assert cards.runs_without_asking(ONE, 6, run(limit + 1, limit + 1)) is False


def test_runs_under_a_limit_begin_with_what_only_they_decide_and_go_on_with_the_tightest_that_fit() -> None:
    fitting, tight, other = ONE, KNOWN["llama-3-8b, generate, 4 bits, context 4096"], LARGE
    limit = cards.cap_bytes(ONE, 8)
    runs = {
        fitting.label: run(limit - 9, limit - 9),
        tight.label: run(limit, limit + 1),
        other.label: {"error": "the process died"},
    }
    assert cards.to_run_capped([fitting, tight, other], runs) == [(tight, 8), (fitting, 8)]
    assert cards.to_run_capped([fitting], {fitting.label: {"seconds": 1.0}}) == []  # no GPU, no peaks


@pytest.mark.parametrize(
    ("capped", "runs"),
    [
        ({}, None),
        ({"error": None}, True),
        ({"error": "OutOfMemoryError: CUDA out of memory."}, False),
        ({"error": "RuntimeError: something else"}, None),
        ({"error": None, "limit_bytes": 1}, None),  # of another limit
    ],
)
def test_a_run_under_a_limit_decides_the_rest(capped: dict[str, Any], runs: bool | None) -> None:
    limit = cards.cap_bytes(ONE, 6)
    under = {cards.capped_name(ONE, 6): {"limit_bytes": limit, **capped}} if capped else {}
    [pair] = [one for one in cards.pairs({ONE: run(limit, limit + 1)}, under) if one.card_gib == 6]
    assert pair.runs is runs


def test_false_fits_and_refusals_are_counted_over_what_is_decided() -> None:
    said = [(True, True)] * 3 + [(False, True), (True, False), (False, False), (True, None)]
    found = [
        cards.Pair(label="x", card_gib=6, predicted=yes, runs=runs, held_out=number < 2, is_shown=number > 0)
        for number, (yes, runs) in enumerate(said)
    ]
    fits, refusals, held_out_fits, held_out_refusals = writer.fit_figures(found)
    assert (fits["value"], fits["n"], fits["met"]) == (1, 6, False)
    assert (refusals["value"], refusals["n"], refusals["met"]) == (0.25, 4, False)
    assert "of 5 that are said to fit, 4 were run" in fits["note"]
    assert fits["note"].endswith("1 more need such a run and are left out")
    assert (held_out_fits["value"], held_out_fits["n"], held_out_refusals["n"]) == (0, 2, 2)
    assert held_out_fits["name"] == "plan_false_fits_heldout"
    assert writer.fit_figures([pair for pair in found if pair.runs is None]) == []


def test_the_first_file_counts_and_each_run_keeps_its_commit(tmp_path: Path) -> None:
    device = {"name": "card", "total_bytes": 1, "versions": {"torch": "2"}}

    def write(name: str, runs: dict[str, int], **more: Any) -> Path:
        path = tmp_path / name
        content = {"device": device, "runs": {key: {"n": value} for key, value in runs.items()}, "capped": {}}
        path.write_text(json.dumps(content | more), encoding="utf-8")
        return path

    first, second = write("a.json", {"x": 1}), write("b.json", {"x": 2, "y": 2})
    content = json.loads(second.read_text(encoding="utf-8"))
    content["runs"]["y"]["commit"] = "bbb"
    second.write_text(json.dumps(content), encoding="utf-8")
    merged = measured.read_measured([first, second], "aaa")["runs"]
    assert merged == {"x": {"n": 1, "commit": "aaa"}, "y": {"n": 2, "commit": "bbb"}}
    assert measured.read_measured([second], "aaa")["runs"]["x"]["commit"] == "aaa"
    with pytest.raises(InputError, match=r"a\.json"):
        measured.read_measured([first], None)
    other = write("c.json", {}, device={**device, "name": "another"})
    with pytest.raises(InputError, match="different devices"):
        measured.read_measured([first, other], "aaa")


def test_a_receipt_is_read_as_the_measurements_it_was_written_from() -> None:
    again = measured.read_measured([PATH], None)
    rows = [
        writer._row(KNOWN[label], run, again["device"], again["peers"][label])
        for label, run in again["runs"].items()
        if "error" not in run
    ]
    assert rows == ROWS
    assert again["capped"] == RECEIPT["raw"]["capped"]
    assert measured.read_peers(PATH) == {key: again[key] for key in ("peers", "peer_versions")}
