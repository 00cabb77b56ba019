"""The quality benchmark on a tiny model: rows, what is refused, what a receipt says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import tiny_folder

from sixgig.errors import InputError

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import quality
import quality_peers
import quality_receipt

ROWS = ["int3-g64-gptq-searched-scales-sparse-before", "int4-g64-gptq-searched-codes-head8", "hqq-int4"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("quality")
    model, work = tiny_folder(folder / "model"), folder / "rows.json"
    return model, work, quality.measure(str(model), "cpu", None, quality.TINY, ROWS, work)


def test_each_row_is_scored_on_the_same_windows(measured: tuple[Path, Path, dict[str, Any]]) -> None:
    rows = measured[2]["rows"]
    assert set(rows) >= {quality.FULL, *ROWS[:2]}
    for name in (quality.FULL, *ROWS[:2]):
        assert len(rows[name]["test_nll"]) == quality.TINY.num_windows
        mean = np.mean(rows[name]["test_nll"]) / (quality.TINY.window_tokens - 1)
        assert rows[name]["test_ppl"] == pytest.approx(np.exp(mean))
        assert name == quality.FULL or rows[name]["test_nll"] != rows[quality.FULL]["test_nll"]
    kept = rows[ROWS[0]]
    assert kept["test_nll"] != kept["alpha0_test_nll"]


def test_a_peer_that_is_missing_is_named_with_the_reason(measured: tuple[Path, Path, dict[str, Any]]) -> None:
    row = measured[2]["rows"]["peer-hqq-int4"]
    assert row["failed"]
    assert "test_ppl" not in row


def test_a_second_run_measures_nothing_again(
    measured: tuple[Path, Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, work, done = measured
    monkeypatch.setattr(quality, "_row", lambda *arguments: pytest.fail("measured again"))
    assert quality.measure(str(model), "cpu", None, quality.TINY, ROWS, work) == done


def test_rows_of_another_configuration_are_refused(measured: tuple[Path, Path, dict[str, Any]]) -> None:
    model, work, _ = measured
    kept = work.read_bytes()
    with pytest.raises(InputError, match="another configuration"):
        quality.measure(str(model), "cpu", None, quality.Sizes(), ROWS, work)
    assert work.read_bytes() == kept


def test_a_peer_that_leaves_the_weight_as_it_was_is_found_out() -> None:
    lazy = quality_peers.Peer(package="lazy", weigh=lambda weight, moment: weight, bits_per_weight=4)
    with pytest.raises(quality_peers.PeerChangedNothing):
        quality_peers.checked(lazy, torch.randn(4, 64), torch.eye(64))


def row(test: float, choice: float, kind: str = "ours", **more: Any) -> dict[str, Any]:
    """Of 20 windows with 11 tokens, `test` nats a token."""
    noise = np.random.default_rng(0).normal(0, 0.01, 20)
    return {
        "kind": kind,
        "bits_per_weight": 4.3,
        "test_nll": (10 * (test + noise)).tolist(),
        "choice_ppl": choice,
        "test_ppl": float(np.exp(test)),
        **more,
    }


def test_figures_choose_by_validation_text_and_tell_the_tests_ratio() -> None:
    rows = {
        quality.FULL: row(3.0, 1.0, "full"),
        "int4-a": row(3.05, 1.2),
        "int4-b": row(3.02, 1.3),  # better on the test, but not chosen
        "int4-c-head8": row(3.0, 1.0),
        "int3-a": row(3.4, 1.5),
        "int3-a-sparse-before": row(3.2, 1.4),
        "peer-x": row(3.1, 1.0, "peer"),
        "peer-y": {"kind": "peer", "bits_per_weight": 4.5, "failed": "no"},
    }
    found = {one["name"]: one for one in quality_receipt.figures(rows, {"window_tokens": 11})}
    assert found["int4_ppl_ratio"]["value"] == pytest.approx(np.exp(0.05))
    assert found["int4_ppl_ratio"]["met"] is True
    assert found["int3_sparse_ppl_ratio"]["value"] == pytest.approx(np.exp(0.2))
    assert found["int3_sparse_to_int3_ppl_ratio"]["met"] is True
    assert found["int3_sparse_gap_closed"]["value"] == pytest.approx(0.5)
    assert found["int4_to_best_peer_ppl_ratio"]["value"] == pytest.approx(np.exp(-0.05))
    assert "ppl_ratio_peer-y" not in found
    json.dumps(list(found.values()))


def test_what_squeezellm_reports_is_what_is_asked_for() -> None:
    assert pytest.approx(0.030, abs=5e-4) == quality_receipt.FALL
    assert pytest.approx(0.286, abs=5e-3) == quality_receipt.CLOSED
