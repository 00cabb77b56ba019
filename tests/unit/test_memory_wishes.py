"""What may be asked of the planner, what it refuses, and what it offers instead."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from sixgig.cards import Card, find_card
from sixgig.catalogue import get
from sixgig.errors import InputError, UnknownNameError
from sixgig.memory import Training, Wishes, Workload, estimate, first_that_fits
from sixgig.memory.choices import candidates
from sixgig.memory.speed import BUS_BYTES_PER_SECOND, max_tokens_per_second
from sixgig.units import GIB, parse_bytes

RAM_BYTES = 32 * GIB
CARD = Card(name="", total_bytes=4 * GIB)


def test_every_fault_is_named_at_once() -> None:
    wishes = Wishes(task="score", bits=5, context=0, batch=-1, group_size=0, attention="flash")
    with pytest.raises(InputError) as caught:
        estimate(get("llama-3-8b"), wishes, card=CARD, ram_bytes=RAM_BYTES)
    for fault in ("bits is 5", "context is 0", "batch is -1", "group_size is 0", "attention is 'flash'"):
        assert fault in str(caught.value)
    assert caught.value.exit_status == 2


def test_every_fault_of_training_is_named_at_once() -> None:
    training = Training(loss="sparse", optimizer="sgd", accumulation=0)
    with pytest.raises(InputError) as caught:
        Workload(task="sft", embedding_place="disk", experts_place="disk", training=training)
    for name in ("loss", "optimizer", "accumulation", "embedding_place", "experts_place"):
        assert f"{name} is" in str(caught.value)


@pytest.mark.parametrize(("task", "meant"), [("generat", "generate"), ("SFT", "sft"), ("splitt", "split")])
def test_an_unknown_task_is_answered_with_the_nearest(task: str, meant: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        estimate(get("llama-3-8b"), Wishes(task=task), card=CARD, ram_bytes=RAM_BYTES)
    assert meant in caught.value.suggestions


@pytest.mark.parametrize(
    ("name", "wishes", "said"),
    [
        ("smollm2-360m", Wishes(task="sft", bits=4), "--bits 4"),
        ("smollm2-360m", Wishes(task="sft", optimizer="in-backward", accumulation=2), "one micro-batch"),
        ("olmoe-1b-7b-0924", Wishes(task="sft"), "mixture of experts"),
        ("smollm2-360m", Wishes(task="score", embedding_place="cpu"), "embedding_place=cpu"),
        ("llama-3-8b", Wishes(task="score", head_bits=4), "head_bits=4"),
    ],
)
def test_what_nothing_here_can_do_is_refused(name: str, wishes: Wishes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        candidates(get(name), wishes)


@pytest.mark.parametrize(
    ("field", "value"),
    [("checkpointing", True), ("checkpointing", False), ("loss", "chunked"), ("optimizer", "foreach")],
)
def test_what_is_asked_of_training_is_kept(field: str, value: object) -> None:
    found = candidates(get("smollm2-360m"), replace(Wishes(task="sft"), **{field: value}))
    assert {getattr(work.training, field) for work in found} == {value}
    assert {work.bits for work in found} == {16, 32}


def test_gradients_that_wait_allow_no_step_within_the_backward_pass() -> None:
    found = candidates(get("smollm2-360m"), Wishes(task="sft", accumulation=2))
    assert {work.training.optimizer for work in found} == {"fused"}
    assert {work.training.accumulation for work in found} == {2}


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16, 32])
def test_asked_bits_are_kept_and_a_head_never_has_fewer(bits: int) -> None:
    found = candidates(get("llama-3-8b"), Wishes(task="generate", bits=bits))
    assert {work.bits for work in found} == {bits}
    assert all(work.head_bits >= min(bits, 16) for work in found)
    assert len(set(found)) == len(found)


ASKED = [
    ("llama-3-8b", Wishes(task="generate", bits=16), 6 * GIB, RAM_BYTES),
    ("smollm2-1.7b", Wishes(task="generate", bits=4, context=8192, batch=16), 3 * GIB, RAM_BYTES),
    ("llama-3.2-1b", Wishes(task="score", bits=16, context=4096, batch=8), 3 * GIB, RAM_BYTES),
    ("llama-3.2-1b", Wishes(task="sft", bits=16, context=4096, batch=8), 12 * GIB, RAM_BYTES),
    ("smollm2-360m", Wishes(task="sft", context=512, accumulation=4), 2 * GIB, RAM_BYTES),
    ("mixtral-8x7b-instruct", Wishes(task="generate", bits=4), 4 * GIB, 16 * GIB),
    ("qwen1.5-moe-a2.7b", Wishes(task="generate"), 6 * GIB, 4 * GIB),
    ("llama-3-8b", Wishes(task="split", layers_from="memory"), 8 * GIB, RAM_BYTES),
    ("llama-3-8b", Wishes(task="split"), 4 * GIB, RAM_BYTES),
    ("smollm2-1.7b", Wishes(task="generate", bits=16), None, 2 * GIB),
]


@cache
def answers(index: int) -> tuple[str, ...]:
    """What the planner offers instead of `ASKED[index]`, which must not fit."""
    name, wishes, card_bytes, ram_bytes = ASKED[index]
    card = None if card_bytes is None else Card(name="", total_bytes=card_bytes)
    result = estimate(get(name), wishes, card=card, ram_bytes=ram_bytes)
    assert not result.fits
    return result.would_fit


@pytest.mark.parametrize("index", range(len(ASKED)), ids=[asked[0] for asked in ASKED])
def test_every_answer_to_what_would_fit_is_true(index: int) -> None:
    name, wishes, card_bytes, ram_bytes = ASKED[index]
    card = None if card_bytes is None else Card(name="", total_bytes=card_bytes)
    assert answers(index)
    for answer in answers(index):
        spec, asked, on, memory = get(name), wishes, card, ram_bytes
        if answer.startswith("--"):
            option, value = answer.removeprefix("--").split()
            asked = replace(wishes, **{option: int(value)})
            if option == "bits":
                asked = replace(asked, head_bits=None)
        elif answer.startswith("a card of "):
            on = Card(name="", total_bytes=parse_bytes(answer.removeprefix("a card of ")))
        elif answer.endswith(" of memory"):
            memory = parse_bytes(answer.removesuffix(" of memory"))
        else:
            assert answer.startswith("model "), answer
            spec = get(answer.split()[1])
        assert estimate(spec, asked, card=on, ram_bytes=memory).fits, answer


@pytest.mark.parametrize("index", [0, 1], ids=[ASKED[0][0], ASKED[1][0]])
def test_the_card_that_is_offered_is_about_the_smallest(index: int) -> None:
    name, wishes, card_bytes, ram_bytes = ASKED[index]
    (answer,) = (answer for answer in answers(index) if answer.startswith("a card of "))
    size_bytes = parse_bytes(answer.removeprefix("a card of "))
    assert card_bytes is not None
    assert size_bytes > card_bytes
    # Half a GiB less would not do: a quarter is the step in which sizes are named. Where activations rule, a
    # smaller card can do too, since under a limit the allocator returns what it does not use.
    smaller = Card(name="", total_bytes=size_bytes - GIB // 2)
    assert not first_that_fits(get(name), wishes, card=smaller, ram_bytes=ram_bytes).fits


def test_the_answers_name_each_kind_of_change() -> None:
    offered = [answer for index in range(len(ASKED)) for answer in answers(index)]
    kinds = {"memory" if answer.endswith(" of memory") else answer.split()[0] for answer in offered}
    assert kinds == {"--bits", "--context", "--batch", "a", "memory", "model"}


def test_a_token_costs_one_reading_of_all_that_it_needs() -> None:
    spec, card = get("llama-3-8b"), find_card("RTX 4050")
    work = Workload(task="generate", bits=4, embedding_place="cpu", context=512)
    head_bytes = 2 * 128256 * 4096
    num_bytes = spec.num_linear_parameters * (4 + 24 / 64) / 8 + head_bytes + 512 * 131072
    assert card.bandwidth_bytes_per_second == 192 * 10**9
    assert max_tokens_per_second(spec, work, card) == pytest.approx(192e9 / num_bytes, rel=1e-6)
    packed_head = replace(work, head_bits=4)
    ratio = max_tokens_per_second(spec, packed_head, card), max_tokens_per_second(spec, work, card)
    assert ratio[0] is not None
    assert ratio[1] is not None
    assert ratio[0] > ratio[1]


def test_of_a_mixture_a_token_reads_the_active_experts() -> None:
    spec, card = get("qwen1.5-moe-a2.7b"), find_card("RTX 4090")
    here = Workload(task="generate", bits=4)
    speeds = [max_tokens_per_second(spec, work, card) for work in (here, replace(here, experts_place="cpu"))]
    active_bytes = 24 * 4 * spec.expert_parameters * here.bytes_per_linear_weight
    assert card.bandwidth_bytes_per_second is not None
    assert speeds[0] is not None
    assert speeds[1] is not None
    # From the processor's memory those come over the bus instead of the card's own memory.
    slower = active_bytes / BUS_BYTES_PER_SECOND - active_bytes / card.bandwidth_bytes_per_second
    assert 1 / speeds[1] - 1 / speeds[0] == pytest.approx(slower, rel=1e-6)


@pytest.mark.parametrize(("task", "card"), [("generate", None), ("generate", CARD), ("score", "RTX 4050")])
def test_without_bandwidth_or_generation_there_is_no_speed(task: str, card: Card | str | None) -> None:
    where = find_card(card) if isinstance(card, str) else card
    assert max_tokens_per_second(get("smollm2-360m"), Workload(task=task, bits=16), where) is None
