"""Peers beside ours: rounds in turns with processes that answer, fail, hang or die; what becomes a figure;
and the peers' model: its shape, and that it is read and decoded as transformers itself does."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_peer
import pytest
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
script = importlib.import_module("decode_8b_receipt")
peers = importlib.import_module("decode_8b_peers")
process = importlib.import_module("decode_8b_peer_process")
models = importlib.import_module("decode_8b_peer_models")

SHAPE = {
    "num_layers": 2,
    "hidden": 64,
    "channels": 96,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 16,
    "vocabulary": 97,
    "group_size": 32,
}
TASK = process.Task(kind="fake", shape=SHAPE, device="cpu", prompt_tokens=7, num_tokens=5)


def ours_by_round() -> Callable[[], dict[str, float]]:
    """5 ms a token, then 10, 15 and so on: as much slower in each round as the fake peer is."""
    count = 0

    def ours() -> dict[str, float]:
        nonlocal count
        count += 1
        return {"ms_per_token": 5.0 * count}

    return ours


def test_a_peer_is_compared_round_by_round_without_the_first() -> None:
    found = peers.timed_in_turns(ours_by_round(), TASK, 4, 60.0, fake_peer.steady)
    assert [one["ms_per_token"] for one in found["rounds"]["ours"]] == [10, 15, 20, 25]
    assert [one["ms_per_token"] for one in found["rounds"]["peer"]] == [100, 150, 200, 250]
    assert found["facts"]["versions"] == {"fake": "1"}
    rows = peers.peer_rows({"speed": {"speedup_vs_bnb_nf4": found | {"note": "a peer"}}, "capped": {}})
    name, estimate, unit, note = rows[0]
    assert (name, estimate.value, estimate.n, unit) == ("speedup_vs_bnb_nf4", 10.0, 4, "ratio")
    assert note == "a peer: 175 ms a token"
    assert rows[1][:3] == ("bnb_nf4_peak_allocated_gib", 5.75, "GiB")
    assert script._peer_figure(rows[0])["met"] is True


@pytest.mark.parametrize(
    ("program", "seconds", "words"),
    [
        (fake_peer.without_memory, 60.0, "no room for 1 GiB (while building lm_head)"),
        (fake_peer.dying, 60.0, "its process ended with status 3 (while decoding)"),
        (fake_peer.hanging, 5.0, "took longer than 5 s (while compiling)"),
    ],
)
def test_a_failure_is_words_and_never_a_number(program: Any, seconds: float, words: str) -> None:
    found = peers.timed_in_turns(ours_by_round(), TASK, 2, seconds, program)
    assert "rounds" not in found
    assert found["failed"].endswith(words)
    speed = {"speedup_vs_gemlite": found | {"note": "gemlite"}}
    figure = script._peer_figure(peers.peer_rows({"speed": speed, "capped": {}})[0])
    assert [figure[key] for key in ("value", "low", "high", "met")] == [None] * 4
    assert figure["target"] == "at least 1.2"
    assert figure["note"].endswith(words)


def test_only_memory_that_ran_out_shows_that_a_model_does_not_fit() -> None:
    capped = {
        "bnb_nf4_runs_under_cap": peers.under_cap(TASK, 60.0, fake_peer.without_memory),
        "bnb_nf4_double_runs_under_cap": peers.under_cap(TASK, 60.0, fake_peer.steady),
        "third": {"failed": "no package", "kind": "ModuleNotFoundError", "stage": "importing"},
    }
    rows = [script._peer_figure(row) for row in peers.peer_rows({"speed": {}, "capped": capped})]
    assert [one["value"] for one in rows] == [0.0, 1.0, None]
    assert [one["met"] for one in rows] == [True, None, None]
    assert "no room for 1 GiB (while building lm_head)" in rows[0]["note"]
    assert "at most 5.75 GiB" in rows[1]["note"]


def test_what_stands_in_for_a_failed_peer_has_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(ours: Any, task: Any, num_rounds: int, limit_seconds: float) -> dict[str, Any]:
        if task.kind.endswith("+compiled"):
            return {"failed": "no compiler", "kind": "RuntimeError", "stage": "compiling"}
        times = [{"ms_per_token": 3.0}, {"ms_per_token": 3.0}]
        return {"rounds": {"ours": times, "peer": times}, "seconds_to_build": 1.0}

    monkeypatch.setattr(peers, "timed_in_turns", timed)
    measuring = peers.measure_peers(dict, TASK, ["torchao"], num_rounds=2, limit_seconds=9.0, cap_gib=5.3)
    *before, found = measuring
    assert len(before) == 2
    figures = {row[0]: script._peer_figure(row) for row in peers.peer_rows(found)}
    assert figures["speedup_vs_torchao_int4"]["value"] is None
    assert "no compiler" in figures["speedup_vs_torchao_int4"]["note"]
    captured = figures["speedup_vs_torchao_int4_captured"]
    assert (captured["value"], captured["target"], captured["met"]) == (1.0, None, None)


def test_the_documents_show_a_figure_that_was_not_measured(tmp_path: Path) -> None:
    docs_receipts = importlib.import_module("docs_receipts")
    figure = script._figure("speedup_vs_gemlite", None, None, None, 0, "ratio", "gemlite: no package")
    content = {"schema": "sixgig.receipt/1", "area": "decode-8b", "command": "c", "date": "2026-01-01"}
    content |= {"commit": "0", "device": {"name": "a card"}, "figures": [figure]}
    (tmp_path / "decode-8b-2026-01-01.json").write_text(json.dumps(content), encoding="utf-8")
    told = docs_receipts.every_figure("decode-8b", tmp_path, tmp_path / "runtime.md", 0)
    assert "| `speedup_vs_gemlite` | - |  | at least 1.200 | gemlite: no package |" in told


class Messages:
    """A connection whose other end asks for one round."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self._asked = iter(["round"])

    def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    def recv(self) -> str:
        try:
            return next(self._asked)
        except StopIteration:
            raise EOFError from None


def test_a_process_tells_what_is_missing() -> None:
    messages = Messages()
    process.serve(messages, replace(TASK, kind="no-such-peer"))
    assert messages.sent[-2] == {"stage": "importing no-such-peer"}
    told = {"failed": "ValueError: no peer of this name: no-such-peer", "kind": "ValueError"}
    assert messages.sent[-1] == told


def dense(module: nn.Linear, weight_OI: Tensor) -> nn.Module:
    # large, else every token is followed by the same one
    module.weight = nn.Parameter(25 * weight_OI, requires_grad=False)
    return module


def network() -> Any:
    torch.manual_seed(0)
    return models.random_llama(
        SHAPE, torch.device("cpu"), torch.float32, dense, with_head=True, progress=lambda words: None
    )


def test_steps_over_the_static_cache_decode_what_generate_does() -> None:
    llama = network()
    captured = process.Captured(llama, TASK, lambda words: None, is_compiled=False)
    torch.manual_seed(1)
    captured._read_prompt()
    torch.manual_seed(1)
    ids_1T = torch.randint(0, SHAPE["vocabulary"], (1, TASK.prompt_tokens))
    answer_1T = llama.generate(
        input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T), do_sample=False, max_new_tokens=6,
        pad_token_id=0,
    )[:, TASK.prompt_tokens :]  # fmt: skip
    assert len(answer_1T.unique()) > 2
    for _ in range(2):  # a round begins again after the prompt, whatever the one before has written
        assert captured.round()["ms_per_token"] > 0
        assert captured._first_11.item() == answer_1T[0, 0]
        assert captured._token_11.item() == answer_1T[0, TASK.num_tokens]


def test_generate_is_timed_with_its_prompt_apart() -> None:
    generated = process.Generated(network(), TASK, lambda words: None)
    times = generated.round()
    assert times.keys() == {"prefill_ms", "ms_per_token"}
    assert min(times.values()) > 0


def test_the_shape_is_the_published_one() -> None:
    from transformers import LlamaForCausalLM

    from decode_8b_model import Shape
    from sixgig.catalogue import get

    with torch.device("meta"):
        llama = LlamaForCausalLM(models.llama_config(vars(Shape())))
    tensors = {name: tuple(one.shape) for name, one in llama.named_parameters()}
    published = {one.name: tuple(one.shape) for one in get("llama-3-8b").tensors()}
    assert tensors == published


def test_no_weight_is_left_without_memory_and_the_head_stays_where_asked() -> None:
    made: list[str] = []

    def linear(module: nn.Linear, weight_OI: Tensor) -> nn.Module:
        made.append(str(tuple(weight_OI.shape)))
        return dense(module, weight_OI)

    llama = models.random_llama(
        SHAPE, torch.device("cpu"), torch.bfloat16, linear, with_head=False, progress=lambda words: None
    )
    assert len(made) == 7 * SHAPE["num_layers"]
    assert not any(one.is_meta for one in [*llama.parameters(), *llama.buffers()])
    assert llama.lm_head.weight.dtype == torch.bfloat16
