"""The planner from sizes: against measured training peaks, known cards, and the mathematics of its sums."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sixgig.catalogue import all_models, get
from sixgig.errors import InputError, UnknownNameError
from sixgig.memory import (
    TASKS,
    DoesNotFit,
    MemoryPlan,
    estimate,
    plan,
    usable_device_bytes,
    usable_ram_bytes,
)
from sixgig.memory.estimate import num_adapter_parameters
from sixgig.units import GIB, MIB

MODELS = st.sampled_from(all_models())
BITS = st.sampled_from((2, 3, 4, 8, 16, 32))


def tensors_mib(result: MemoryPlan) -> float:
    return sum(line.num_bytes for line in result.lines if line.what != "margin") / MIB


@pytest.mark.parametrize(
    ("total_gib", "low_gib", "high_gib"), [(6, 5.3, 5.5), (4, 3.4, 3.6), (8, 7.2, 7.5), (0, 0, 0)]
)
def test_what_a_card_gives_to_tensors(total_gib: int, low_gib: float, high_gib: float) -> None:
    assert low_gib * GIB <= usable_device_bytes(total_gib * GIB) <= high_gib * GIB
    assert 0 <= usable_ram_bytes(total_gib * GIB) <= total_gib * GIB


@pytest.mark.parametrize(("bits", "measured_mib"), [(16, 1642), (32, 2866)])
def test_training_is_within_a_tenth_of_the_allocators_peak(bits: int, measured_mib: int) -> None:
    # SmolLM2-135M, sequence 1,024, batch 1, AdamW, checkpointing, dense loss: pure bf16; fp32 under autocast.
    result = estimate(
        get("smollm2-135m-instruct"),
        "sft",
        bits=bits,
        context=1024,
        device_bytes=24 * GIB,
        ram_bytes=16 * GIB,
    )
    assert tensors_mib(result) == pytest.approx(measured_mib, rel=0.1)


def test_llama_3_8b_in_4_bit_is_for_6_gib_not_for_4() -> None:
    spec = get("llama-3-8b")
    result = plan(spec, "generate", device_bytes=6 * GIB, ram_bytes=16 * GIB)
    sizes = {line.what: line.num_bytes for line in result.lines}
    assert sizes["linear layers"] == spec.num_linear_parameters * 4.5 / 8
    assert sizes["key/value cache"] == 64 * MIB
    with pytest.raises(DoesNotFit):
        plan(spec, "generate", device_bytes=4 * GIB, ram_bytes=16 * GIB)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["llama-3-70b", "llama-3.1-405b"])
def test_what_clearly_cannot_fit_is_refused_with_the_whole_ledger(name: str, task: str) -> None:
    with pytest.raises(DoesNotFit) as caught:
        plan(get(name), task, device_bytes=8 * GIB, ram_bytes=32 * GIB)
    message, result = str(caught.value), caught.value.plan
    assert caught.value.exit_status == 1
    assert all(line.what in message for line in result.lines)
    assert "too much" in message
    assert "a card of" in message


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("device_bytes", [None, 4 * GIB])
def test_the_embedded_model_fits_everywhere(task: str, device_bytes: int | None) -> None:
    result = plan(get("smollm2-135m-instruct"), task, device_bytes=device_bytes, ram_bytes=8 * GIB)
    assert result.fits
    assert (result.device_peak_bytes == 0) == (device_bytes is None)


def test_experts_move_to_memory_where_the_card_is_small() -> None:
    spec = get("qwen1.5-moe-a2.7b-chat")
    small = plan(spec, "generate", device_bytes=6 * GIB, ram_bytes=16 * GIB)
    large = plan(spec, "generate", device_bytes=24 * GIB, ram_bytes=16 * GIB)
    place = {line.what: line.place for line in small.lines}
    assert place["routed experts"] == "ram"
    assert small.notes
    assert {line.what: line.place for line in large.lines}["routed experts"] == "device"
    experts = next(line.num_bytes for line in small.lines if line.what == "routed experts")
    assert experts == pytest.approx(7.0e9, rel=0.02)  # 4.5 bits a weight


@settings(max_examples=60, deadline=None)
@given(spec=MODELS, task=st.sampled_from(TASKS), bits=BITS, card_gib=st.none() | st.integers(1, 80))
def test_what_is_said_to_fit_fits(spec, task: str, bits: int, card_gib: int | None) -> None:
    card = None if card_gib is None else card_gib * GIB
    fixed = {"device_bytes": card, "ram_bytes": 32 * GIB}
    result = estimate(spec, task, bits=bits, context=512, batch=4, **fixed)
    assert not (result.fits and result.would_fit)
    for answer in result.would_fit:
        changed = {"bits": bits, "context": 512, "batch": 4}
        other = spec
        if answer.startswith("--"):
            name, value = answer.removeprefix("--").split()
            changed[name] = int(value)
        elif answer.startswith("model "):
            other = get(answer.split()[1])
        else:
            continue
        assert estimate(other, task, **changed, **fixed).fits


@settings(max_examples=60, deadline=None)
@given(spec=MODELS, task=st.sampled_from(TASKS), bits=BITS, context=st.integers(1, 8192))
def test_more_context_batch_or_bits_never_needs_less(spec, task: str, bits: int, context: int) -> None:
    def needs(bits: int, context: int, batch: int) -> float:
        result = estimate(
            spec, task, bits=bits, context=context, batch=batch, device_bytes=None, ram_bytes=GIB
        )
        return tensors_mib(result)

    base = needs(bits, context, 2)
    assert needs(bits, context + 64, 2) >= base
    assert needs(bits, context, 3) >= base
    if bits < 8 or (bits == 8 and task != "sft"):
        assert needs(bits * 2 if bits != 3 else 4, context, 2) > base


@pytest.mark.parametrize("spec", all_models(), ids=lambda spec: spec.name)
def test_a_suggested_card_and_memory_are_enough(spec) -> None:
    failed = estimate(spec, "split", device_bytes=1 * GIB, ram_bytes=1 * GIB)
    sizes = [float(a.removeprefix("a card of").split()[0]) for a in failed.would_fit if " GiB" in a]
    card_bytes, memory_bytes = (int((size + 0.01) * GIB) for size in sizes)
    assert estimate(spec, "split", device_bytes=card_bytes, ram_bytes=memory_bytes).fits
    assert not estimate(spec, "split", device_bytes=card_bytes - GIB // 4, ram_bytes=memory_bytes).fits


def test_adapters_of_llama_2_7b() -> None:
    # rank 16 on q, k, v, o, gate, up and down of 32 layers: the 40.0 M that peft reports.
    assert num_adapter_parameters(get("llama-2-7b"), 16) == 39_976_960


def test_a_context_beyond_the_models_own_is_noted() -> None:
    result = estimate(
        get("tinyllama-1.1b-chat"), "score", context=4096, device_bytes=None, ram_bytes=32 * GIB
    )
    assert "4096" in result.notes[0]


def test_every_fault_of_a_workload_is_named_at_once() -> None:
    fixed = {"device_bytes": None, "ram_bytes": GIB}
    with pytest.raises(InputError) as caught:
        estimate(get("llama-3-8b"), "score", bits=5, context=0, batch=-1, **fixed)
    assert all(text in str(caught.value) for text in ("bits is 5", "context is 0", "batch is -1"))
    with pytest.raises(UnknownNameError, match="generate"):
        estimate(get("llama-3-8b"), "generat", **fixed)
