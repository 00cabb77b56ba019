"""The CPU benchmark: a smoke run on a tiny model, and figures from rounds whose answer is known."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_model import tiny_folder

from sixgig.runtime.pack_cpu import why_no_kernel

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")
KEYS = {"schema", "area", "command", "date", "commit", "device", "versions", "config", "figures", "raw"}


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """(cpu_decode, cpu_decode_figures)."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import cpu_decode
    import cpu_decode_figures

    return cpu_decode, cpu_decode_figures


def known_rounds(**ms_per_token: float) -> dict[str, list[dict[str, float]]]:
    """Three rounds on a machine that grows slower; the ratios within a round stay."""
    return {
        name: [{"ms_per_token": ms * slow, "prefill_ms": 10 * slow} for slow in (1, 3, 2)]
        for name, ms in ms_per_token.items()
    }


ALL = {
    "bf16": 20.0,
    "int4_alpha0": 5.0,
    "int4_alpha1": 10.0,
    "int4_alpha0_head16": 8.0,
    "int4_alpha0_head4": 4.0,
    "fp16": 10.0,
    "bf16_modules": 30.0,
    "bf16_generate": 40.0,
}
QUALITY = {
    "num_targets": [10.0, 10.0],
    "reference": [20.0, 30.0],
    "head16": [20.0, 30.0],
    "head8": [21.0, 31.0],
    "head4": [20.0, 34.0],
}


def test_ratios_are_taken_within_rounds(scripts: Any) -> None:
    found = {one["name"]: one for one in scripts[1].figures(known_rounds(**ALL), QUALITY)}
    main = found["cpu_decode_vs_bf16"]
    assert (main["value"], main["low"], main["high"], main["n"], main["met"]) == (4.0, 4.0, 4.0, 3, True)
    assert found["cpu_decode_alpha1_vs_alpha0"]["value"] == 0.5
    assert found["cpu_int4_alpha0_ms_per_token"]["value"] == 10.0
    assert found["cpu_int4_alpha0_tokens_per_s"]["value"] == 100.0
    assert found["cpu_prefill_vs_bf16"]["value"] == 1.0
    assert found["cpu_packed_ppl_ratio"]["value"] == 1.0
    assert found["cpu_head8_ppl_ratio"]["value"] == pytest.approx(1.1052, abs=1e-4)
    assert found["cpu_head4_ppl_ratio"]["low"] < found["cpu_head4_ppl_ratio"]["high"]


def test_a_target_that_is_missed_stays_in(scripts: Any) -> None:
    slow = known_rounds(**{**ALL, "int4_alpha0": 21.0})
    found = {one["name"]: one for one in scripts[1].figures(slow, QUALITY)}
    assert found["cpu_decode_vs_bf16"]["met"] is False


@pytest.mark.skipif(why_no_kernel() is not None, reason=why_no_kernel() or "")
def test_a_smoke_run_writes_a_whole_receipt(
    scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIXGIG_DATA", raising=False)
    model = tiny_folder(tmp_path / "model", hidden_size=64, intermediate_size=96)
    words = ["cpu_decode.py", "--quick", "--model", str(model), "--out", str(tmp_path), "--commit", "c"]
    monkeypatch.setattr(sys, "argv", words)
    scripts[0].main()
    (path,) = tmp_path.glob("cpu-decode-*.json")
    value = json.loads(path.read_text(encoding="utf-8"))
    assert value.keys() == KEYS
    assert value["schema"] == "sixgig.receipt/1"
    found = {one["name"]: one for one in value["figures"]}
    assert found["cpu_decode_vs_bf16"]["n"] == 2
    assert 0.5 < found["cpu_packed_ppl_ratio"]["value"] < 2
