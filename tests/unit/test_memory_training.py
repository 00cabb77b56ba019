"""The simulated training step, against every allocation of the real code, autograd and AdamW on this CPU.

Each comparison is of a whole step twice: forward, backward, optimizer. Where activations are wide their peak
is in the backward pass, where the vocabulary is wide and the text short it is in gradients and moments.
"""

from __future__ import annotations

from typing import Any

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from traced_memory import config_of, spec_of, traced_peak_bytes

from sixgig.memory.simulation.backward import LOGITS
from sixgig.memory.simulation.programs import simulate
from sixgig.memory.workload import Training, Workload

# The name that transformers 5.17 knows is deprecated in 5.23.
pytestmark = pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")

PRECISIONS = {"fp32": (32, False), "autocast": (32, True), "bf16": (16, False)}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two-micro-batches": {"accumulation": 2},
    "checkpointing": {"checkpointing": True, "accumulation": 2},
    "chunked": {"checkpointing": True, "loss": "chunked", "accumulation": 2},
    "foreach": {"optimizer": "foreach"},
    "in-backward": {"checkpointing": True, "loss": "chunked", "optimizer": "in-backward"},
}


def training(precision: str, way: str, *, context: int, batch: int, attention: str = "sdpa") -> Workload:
    bits, autocast = PRECISIONS[precision]
    how = Training(autocast=autocast, **WAYS[way])
    return Workload(task="sft", bits=bits, context=context, batch=batch, attention=attention, training=how)


def compare(config: Any, work: Workload, tolerance: float) -> None:
    simulated = simulate(spec_of(config), work, workspace_bytes=0).peak_allocated_bytes
    assert simulated == pytest.approx(traced_peak_bytes(config, work), rel=tolerance)


@pytest.mark.parametrize("way", ["plain", "two-micro-batches", "checkpointing", "chunked"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_wide_activations(precision: str, way: str) -> None:
    # Heads of their own, so that a GPU too would use its fused attention in fp32.
    compare(config_of("llama-whole-heads"), training(precision, way, context=128, batch=4), 0.01)


@pytest.mark.parametrize("way", ["two-micro-batches", "chunked", "foreach", "in-backward"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_wide_vocabulary(precision: str, way: str) -> None:
    # Tied, so that the head's gradient and the embedding's meet. The tolerance is for small tensors.
    compare(config_of("llama", vocab_size=4096), training(precision, way, context=16, batch=1), 0.01)


@pytest.mark.parametrize(("attention", "way"), [("sdpa", "plain"), ("eager", "checkpointing")])
@pytest.mark.parametrize("name", ["llama", "qwen3", "phi", "gemma3", "gemma3-one-head"])
def test_families_in_bf16(name: str, attention: str, way: str) -> None:
    work = training("bf16", way, context=128, batch=4, attention=attention)
    # With checkpointing the peak is within a layer, where the sums of a norm's gradient take a scratch on a
    # GPU, which the simulation has, but not on a CPU; without, it is in the loss, on top of all that is kept.
    compare(config_of(name), work, 0.01 if way == "plain" else 0.03)


@pytest.mark.parametrize("name", ["llama", "qwen3", "phi", "gemma3"])
def test_families_under_autocast(name: str) -> None:
    compare(config_of(name), training("autocast", "plain", context=128, batch=4), 0.01)


@pytest.mark.parametrize("precision", ["fp32", "autocast"])
@pytest.mark.parametrize("name", ["llama", "phi"])
def test_eager_attention_keeps_every_score(name: str, precision: str) -> None:
    compare(config_of(name), training(precision, "plain", context=128, batch=4, attention="eager"), 0.03)


def test_attention_composed_in_fp32_where_heads_share_keys() -> None:
    # No fused kernel of a GPU does it; a CPU's does, and must be told to compose attention.
    with sdpa_kernel(SDPBackend.MATH):
        compare(config_of("llama"), training("fp32", "plain", context=128, batch=4), 0.05)


@pytest.mark.parametrize("precision", ["fp32", "autocast"])
def test_a_chunked_loss_sums_the_heads_gradient_over_several_chunks(precision: str) -> None:
    # 4 x 127 positions are two chunks; 3 x 127, 1.5 of them.
    for batch in (3, 4):
        work = training(precision, "in-backward", context=128, batch=batch)
        compare(config_of("llama-whole-heads", vocab_size=2048), work, 0.02)


def test_a_chunked_loss_never_has_all_logits() -> None:
    config = config_of("llama", vocab_size=8192)
    dense, chunked = (
        simulate(spec_of(config), training("bf16", way, context=128, batch=4), workspace_bytes=0)
        for way in ("checkpointing", "chunked")
    )
    assert chunked.peak_by_kind[LOGITS] < 0.6 * dense.peak_by_kind[LOGITS]
