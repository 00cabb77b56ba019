"""The planner's verdicts: which settings are chosen, what the ledger says, the sizes of known models."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sixgig.cards import Card, find_card
from sixgig.catalogue import ModelSpec, all_models, get
from sixgig.memory import TASKS, DoesNotFit, MemoryPlan, Wishes, estimate, outside, plan, usable_ram_bytes
from sixgig.memory.choices import candidates, described
from sixgig.memory.plan import first_that_fits
from sixgig.memory.simulation.programs import simulate
from sixgig.memory.simulation.weights import EMBEDDING, EXPERTS, experts_bytes, least_device_bytes
from sixgig.units import GIB, MIB

RAM_BYTES = 32 * GIB
SMALL = ["smollm2-135m-instruct", "qwen3-0.6b", "gemma-3-1b-it", "granite-3.1-1b-a400m-instruct"]


def card_of(size_bytes: int) -> Card:
    return Card(name="", total_bytes=size_bytes)


def short(name: str) -> ModelSpec:
    """Two layers of a model: cheap to simulate."""
    spec = get(name)
    return replace(spec, num_layers=2, num_sliding_layers=min(1, spec.num_sliding_layers))


def rank(spec: ModelSpec, wishes: Wishes, size_bytes: int) -> int:
    """The place in the order of preference of what fits; beyond the list where nothing does."""
    found = first_that_fits(spec, wishes, card=card_of(size_bytes), ram_bytes=RAM_BYTES)
    order = candidates(spec, wishes)
    return order.index(found.workload) if found.fits else len(order)


def device_bytes(result: MemoryPlan) -> int:
    return sum(line.num_bytes for line in result.lines if line.place == "device")


@pytest.mark.parametrize("gib", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize(("name", "task"), [("llama-3.2-1b", "generate"), ("smollm2-360m", "sft")])
def test_the_first_settings_that_fit_are_chosen(name: str, task: str, gib: int) -> None:
    spec, wishes, card = get(name), Wishes(task=task), card_of(gib * GIB)
    result = estimate(spec, wishes, card=card, ram_bytes=RAM_BYTES)
    order = [described(spec, work) for work in candidates(spec, wishes)]
    assert [look.settings for look in result.tried] == order[: len(result.tried)]
    assert [look.fits for look in result.tried] == [False] * (len(result.tried) - 1) + [result.fits]
    for look in result.tried:
        assert look.fits == (look.device_bytes <= card.total_bytes)
    if result.fits:
        assert result.settings == result.tried[-1].settings
        assert not result.would_fit
    else:
        assert len(result.tried) == len(order)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "tinyllama-1.1b-chat"])
def test_the_lines_of_a_plan_add_up_within_the_card(name: str, task: str) -> None:
    for gib in (1, 4, 24):
        card = card_of(gib * GIB)
        result = estimate(get(name), Wishes(task=task), card=card, ram_bytes=RAM_BYTES)
        total = device_bytes(result)
        assert result.device_peak_bytes == total
        if result.fits:
            assert total <= card.total_bytes
            assert result.ram_peak_bytes <= RAM_BYTES
        around = outside(card, task)
        of_torch = total - around.context_bytes - around.kernels_bytes - around.margin_bytes
        assert of_torch == result.reserved_peak_bytes >= result.allocated_peak_bytes
        table = result.table()
        assert all(line.what in table for line in result.lines)


def test_what_does_not_fit_is_marked_in_the_ledger() -> None:
    with pytest.raises(DoesNotFit) as caught:
        plan(get("llama-3-8b"), Wishes(task="generate", bits=16), card=card_of(8 * GIB), ram_bytes=RAM_BYTES)
    message = str(caught.value)
    assert caught.value.exit_status == 1
    assert "too much" in message
    assert all(line.what in message for line in caught.value.plan.lines)
    assert all(answer in message for answer in caught.value.plan.would_fit)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(SMALL),
    task=st.sampled_from(["generate", "score", "sft"]),
    sizes_mib=st.tuples(st.integers(500, 6000), st.integers(500, 6000)),
)
def test_a_larger_card_never_fits_worse(name: str, task: str, sizes_mib: tuple[int, int]) -> None:
    spec, wishes = short(name), Wishes(task=task)
    if task == "sft" and spec.num_experts:
        return
    small, large = sorted(sizes_mib)
    assert rank(spec, wishes, large * MIB) <= rank(spec, wishes, small * MIB)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(SMALL),
    task=st.sampled_from(["generate", "score", "sft"]),
    contexts=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    which=st.integers(0, 8),
)
def test_more_context_never_needs_less(name: str, task: str, contexts: tuple[int, int], which: int) -> None:
    spec = short(name)
    if task == "sft" and spec.num_experts:
        return
    found = candidates(spec, Wishes(task=task))
    work = found[which % len(found)]
    less, more = (
        simulate(spec, replace(work, context=context), workspace_bytes=0).peak_allocated_bytes
        for context in sorted(contexts)
    )
    # Up to 1 MiB of a block is not split off, more of it by chance where sizes are smaller.
    assert more >= 0.99 * less


@pytest.mark.parametrize("task", ["generate", "score"])
def test_more_bits_never_need_less(task: str) -> None:
    for name in ("llama-3.2-1b", "phi-2"):
        needed = [
            least_device_bytes(get(name), candidates(get(name), Wishes(task=task, bits=bits))[0])
            for bits in (2, 3, 4, 8, 16, 32)
        ]
        assert needed == sorted(set(needed))


def test_llama_3_8b_is_for_an_rtx_4050_in_4_bits_with_the_embedding_off_the_card() -> None:
    card = find_card("RTX 4050")
    result = plan(get("llama-3-8b"), Wishes(task="generate"), card=card, ram_bytes=16 * GIB)
    assert (result.workload.bits, result.workload.embedding_place) == (4, "cpu")
    place = {line.what: line.place for line in result.lines}
    assert place[EMBEDDING] == "ram"
    assert place["linear layers"] == "device"
    sizes = {line.what: line.num_bytes for line in result.lines if line.place == "device"}
    spec = get("llama-3-8b")
    # 4 bits, and per 64 weights a 16-bit scale and an 8-bit zero point; a little is not split off blocks.
    assert sizes["linear layers"] == pytest.approx(spec.num_linear_parameters * (4 + 24 / 64) / 8, rel=0.01)
    assert any("4 bits" in look.settings and not look.fits for look in result.tried)


@pytest.mark.parametrize(
    ("name", "task"), [*(("llama-3-70b", task) for task in TASKS), ("llama-3.1-405b", "generate")]
)
def test_what_clearly_cannot_fit_is_refused(name: str, task: str) -> None:
    with pytest.raises(DoesNotFit) as caught:
        plan(get(name), Wishes(task=task), card=card_of(8 * GIB), ram_bytes=RAM_BYTES)
    assert device_bytes(caught.value.plan) > 8 * GIB
    assert any(answer.startswith("model ") for answer in caught.value.plan.would_fit)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("card", [None, card_of(4 * GIB)], ids=["no card", "4 GiB"])
def test_the_embedded_model_fits_everywhere(task: str, card: Card | None) -> None:
    result = plan(get("smollm2-135m-instruct"), Wishes(task=task), card=card, ram_bytes=8 * GIB)
    assert result.fits
    assert (result.device_peak_bytes == 0) == (card is None)
    assert result.device_bytes == (None if card is None else 4 * GIB)
    if card is None:
        assert result.ram_peak_bytes <= 8 * GIB


def test_a_mixtures_experts_go_to_memory_where_the_card_is_small() -> None:
    spec = get("qwen1.5-moe-a2.7b")
    assert round(spec.num_parameters / 1e9, 1) == 14.3
    wishes = Wishes(task="generate", bits=4)
    small = plan(spec, wishes, card=card_of(6 * GIB), ram_bytes=RAM_BYTES)
    assert small.workload.experts_place == "cpu"
    assert {line.what: line.place for line in small.lines}[EXPERTS] == "ram"
    together = replace(small.workload, experts_place="device", embedding_place="device")
    stored_bytes = [least_device_bytes(spec, replace(together, head_bits=bits)) for bits in (4, 16)]
    # The head and the embedding have 0.31 B weights each.
    assert stored_bytes == pytest.approx([8.3e9, 8.8e9], rel=0.01)
    assert any("14.3 B parameters" in note and "8.8 GB" in note for note in small.notes)
    held = next(line.num_bytes for line in small.lines if line.what == EXPERTS)
    assert held == experts_bytes(spec, small.workload) == pytest.approx(6.8e9, rel=0.02)
    large = plan(spec, wishes, card=card_of(24 * GIB), ram_bytes=RAM_BYTES)
    assert large.workload.experts_place == "device"
    assert any("slower" in note for note in small.notes)
    assert not any("slower" in note for note in large.notes)


@pytest.mark.parametrize("place", [None, "cpu", "device"])
@pytest.mark.parametrize("spec", [s for s in all_models() if s.tied_embeddings], ids=lambda spec: spec.name)
def test_a_tied_embedding_leaves_the_card_only_beside_a_packed_head(
    spec: ModelSpec, place: str | None
) -> None:
    found = candidates(spec, Wishes(task="generate", embedding_place=place))
    assert all(work.head_bits < 16 for work in found if work.embedding_place == "cpu")
    assert {work.embedding_place for work in found} == ({"cpu", "device"} if place is None else {place})


def test_a_context_beyond_the_models_own_is_noted() -> None:
    wishes = Wishes(task="score", context=4096)
    result = estimate(get("tinyllama-1.1b-chat"), wishes, card=None, ram_bytes=RAM_BYTES)
    assert any("4096" in note and "2048" in note for note in result.notes)


def test_bf16_on_a_card_without_it_is_noted() -> None:
    notes = {
        name: plan(
            get("smollm2-135m-base"), Wishes(task="generate"), card=find_card(name), ram_bytes=RAM_BYTES
        ).notes
        for name in ("T4", "RTX 4050")
    }
    assert any("no bf16" in note for note in notes["T4"])
    assert not any("no bf16" in note for note in notes["RTX 4050"])


@pytest.mark.parametrize(
    ("total_gib", "low_gib", "high_gib"), [(6, 5.3, 5.5), (4, 3.4, 3.6), (8, 7.2, 7.5), (0, 0, 0)]
)
def test_what_a_card_and_a_machine_give_to_tensors(total_gib: int, low_gib: float, high_gib: float) -> None:
    card = card_of(total_gib * GIB)
    assert low_gib * GIB <= outside(card, "sft").limit_bytes(card) <= high_gib * GIB
    assert 0 <= usable_ram_bytes(total_gib * GIB) <= total_gib * GIB
    assert outside(card, "score").limit_bytes(card) >= outside(card, "sft").limit_bytes(card)
