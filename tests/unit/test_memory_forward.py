"""The simulated passes without gradients, against every allocation of transformers' own code on this CPU.

What remains between the two are tensors smaller than the simulation counts (token numbers, a number a row),
which weigh more in models this small than in any real one, and in 8 bits an integer copy while codes of one
byte are unpacked, of which the simulation takes the GPU's account.
"""

from __future__ import annotations

from typing import Any

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from traced_memory import MODELS, config_of, spec_of, traced_peak_bytes

from sixgig.memory.simulation import LOGIT_ROWS
from sixgig.memory.simulation.programs import simulate
from sixgig.memory.workload import Workload


def ratio(config: Any, work: Workload) -> float:
    simulated = simulate(
        spec_of(config), work, workspace_bytes=0, logit_rows=LOGIT_ROWS["cpu"]
    ).peak_allocated_bytes
    return simulated / traced_peak_bytes(config, work)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_generating_several_sequences(name: str, attention: str) -> None:
    # Longer than Gemma's window, so that both kinds of its layers are there.
    work = Workload(task="generate", bits=16, context=128, batch=4, attention=attention)
    assert ratio(config_of(name), work) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("name", ["llama-whole-heads", "phi", "gemma3"])
def test_scoring_several_sequences(name: str, bits: int, attention: str) -> None:
    work = Workload(task="score", bits=bits, context=128, batch=2, attention=attention)
    # Where bf16 meets fp32 (angles; a mask, which is as wide as the scores), a CPU first makes an fp32 copy,
    # while a GPU widens as it reads.
    tolerance = 0.01 if bits == 16 else 0.03 if attention == "sdpa" else 0.10
    assert ratio(config_of(name), work) == pytest.approx(1, abs=tolerance)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_generating_in_fp32_with_shared_heads_composes_attention(name: str) -> None:
    # A GPU has no fused kernel for it; a CPU has, and must be told to compose it too.
    work = Workload(task="generate", bits=32, context=128, batch=2)
    with sdpa_kernel(SDPBackend.MATH):
        # The composition itself keeps one block of scores less on a CPU: its softmax can be in place.
        assert ratio(config_of(name), work) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("task", ["generate", "score"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_packed_linear_layers(task: str, bits: int) -> None:
    assert ratio(config_of("llama"), Workload(task=task, bits=bits, context=64)) == pytest.approx(1, abs=0.03)


def test_a_packed_head_and_an_embedding_off_the_card() -> None:
    # On a CPU the embedding's own rows are counted too, while a card never sees them: it is left out of both.
    work = Workload(task="generate", bits=4, head_bits=4, embedding_place="cpu", context=64)
    config = config_of("llama-whole-heads", vocab_size=2048)
    assert ratio(config, work) == pytest.approx(1, abs=0.03)
