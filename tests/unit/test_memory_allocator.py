"""The model of torch's caching allocator: sizes, pools, splitting, merging, the limit, and its invariants."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sixgig.memory.simulation.allocator import Allocator, SimulatedOutOfMemory
from sixgig.units import KIB, MIB


@pytest.mark.parametrize(
    ("asked", "given_bytes"), [(0, 512), (1, 512), (512, 512), (513, 1024), (1000.0, 1024), (MIB, MIB)]
)
def test_sizes_come_in_steps_of_512(asked: float, given_bytes: int) -> None:
    memory = Allocator()
    assert memory.hold(asked, "a").num_bytes == given_bytes == memory.allocated_bytes


@pytest.mark.parametrize(
    ("asked", "segment_bytes"),
    [
        (1, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 1, 12 * MIB),
        (33 * MIB, 34 * MIB),
    ],
)
def test_segments_are_2_mib_20_mib_or_the_requests_own(asked: int, segment_bytes: int) -> None:
    memory = Allocator()
    memory.hold(asked, "a")
    assert memory.reserved_bytes == memory.peak_reserved_bytes == segment_bytes


def test_small_and_large_requests_never_share_a_segment() -> None:
    memory = Allocator()
    memory.hold(2 * MIB, "large")
    memory.hold(MIB, "small")
    assert memory.reserved_bytes == 22 * MIB
    memory.hold(MIB, "small")  # the other half of the small segment
    memory.hold(18 * MIB, "large")  # the rest of the large one
    assert memory.reserved_bytes == memory.allocated_bytes == 22 * MIB


def test_a_small_segment_is_split_down_to_512_bytes() -> None:
    memory = Allocator()
    memory.hold(MIB, "a")
    memory.hold(MIB - 512, "b")
    assert memory.hold(512, "c").num_bytes == 512
    assert memory.reserved_bytes == memory.allocated_bytes == 2 * MIB


def test_a_large_rest_up_to_1_mib_stays_with_its_block() -> None:
    memory = Allocator()
    assert memory.hold(33 * MIB, "rest of 1 MiB").num_bytes == 34 * MIB
    assert memory.allocated_bytes == memory.by_kind["rest of 1 MiB"] == 34 * MIB
    other = Allocator()
    assert other.hold(33 * MIB - 512, "rest above 1 MiB").num_bytes == 33 * MIB - 512
    assert other.reserved_bytes == 34 * MIB


def test_the_smallest_free_block_that_suffices_is_taken() -> None:
    memory = Allocator()
    blocks = [memory.hold(size * MIB, "a") for size in (40, 20, 30)]
    memory.drop(*blocks)
    assert memory.hold(19 * MIB, "b") is blocks[1]
    assert memory.hold(29 * MIB, "b") is blocks[2]
    assert memory.hold(31 * MIB, "b") is blocks[0]
    assert memory.reserved_bytes == 90 * MIB


def test_freed_neighbours_become_one_block() -> None:
    memory = Allocator()
    left, middle, right = (memory.hold(6 * MIB, "a") for _ in range(3))  # and 2 MiB of the 20 are left
    memory.drop(left, right)
    memory.hold(9 * MIB, "needs more than 6 + 2")
    assert memory.reserved_bytes == 40 * MIB
    memory.drop(middle)
    assert memory.hold(20 * MIB - 512, "b").num_bytes == 20 * MIB
    assert memory.reserved_bytes == 40 * MIB


def test_only_wholly_unused_segments_go_back() -> None:
    memory = Allocator()
    left, right, alone = memory.hold(6 * MIB, "a"), memory.hold(6 * MIB, "a"), memory.hold(12 * MIB, "a")
    memory.drop(left, alone)
    memory.empty_cache()
    assert memory.reserved_bytes == 20 * MIB
    memory.drop(right)
    memory.empty_cache()
    assert memory.reserved_bytes == 0
    assert memory.peak_reserved_bytes == 32 * MIB


def test_under_a_limit_unused_segments_go_back_first() -> None:
    memory = Allocator(limit_bytes=40 * MIB)
    memory.drop(memory.hold(20 * MIB, "a"))
    memory.hold(30 * MIB, "b")
    assert memory.reserved_bytes == 30 * MIB
    assert memory.peak_reserved_bytes == 30 * MIB
    with pytest.raises(SimulatedOutOfMemory, match=str(12 * MIB)):
        memory.hold(12 * MIB, "c")
    assert memory.allocated_bytes == 30 * MIB
    memory.hold(10 * MIB, "exactly what is left")


def test_fragments_can_run_out_of_memory_that_is_free() -> None:
    memory = Allocator(limit_bytes=40 * MIB)
    blocks = [memory.hold(5 * MIB, "a") for _ in range(8)]
    memory.drop(*blocks[::2])
    assert memory.allocated_bytes == 20 * MIB
    with pytest.raises(SimulatedOutOfMemory):
        memory.hold(6 * MIB, "b")


def test_the_last_reference_frees() -> None:
    memory = Allocator()
    block = memory.keep(memory.hold(KIB, "a"))
    memory.drop(block)
    assert memory.allocated_bytes == KIB
    memory.drop(block)
    assert memory.allocated_bytes == memory.by_kind["a"] == 0
    with pytest.raises(AssertionError):
        memory.drop(block)


def test_kinds_are_those_of_the_peak() -> None:
    memory = Allocator()
    memory.hold(KIB, "stays")
    memory.drop(memory.hold(4 * KIB, "goes"))
    memory.hold(2 * KIB, "comes")
    assert memory.peak_by_kind == {"stays": KIB, "goes": 4 * KIB}
    assert memory.peak_allocated_bytes == 5 * KIB
    assert +memory.by_kind == {"stays": KIB, "comes": 2 * KIB}


SIZES = st.one_of(st.integers(1, 3 * KIB), st.integers(MIB // 2, 2 * MIB), st.integers(5 * MIB, 40 * MIB))
# A size to hold, or which of the living blocks to drop.
STEPS = st.lists(st.one_of(SIZES, st.floats(0, 1, exclude_max=True)), max_size=60)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_any_order_of_requests_keeps_the_books(steps: list[int | float]) -> None:
    memory = Allocator()
    live = []
    before = (0, 0)
    for step in steps:
        if isinstance(step, int):
            live.append(memory.hold(step, "even" if step % 2 == 0 else "odd"))
            assert live[-1].num_bytes >= step
        elif live:
            memory.drop(live.pop(int(step * len(live))))
        assert memory.allocated_bytes == sum(block.num_bytes for block in live)
        assert memory.allocated_bytes == memory.by_kind.total()
        assert memory.reserved_bytes >= memory.allocated_bytes
        assert memory.reserved_bytes % (2 * MIB) == 0
        peaks = (memory.peak_allocated_bytes, memory.peak_reserved_bytes)
        assert peaks >= before
        assert peaks[0] >= memory.allocated_bytes
        assert peaks[1] >= memory.reserved_bytes
        assert sum(memory.peak_by_kind.values()) == peaks[0]
        before = peaks
    memory.drop(*live)
    memory.empty_cache()
    assert memory.reserved_bytes == memory.allocated_bytes == 0


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, limit_mib=st.integers(0, 200))
def test_a_limit_is_never_passed(steps: list[int | float], limit_mib: int) -> None:
    memory = Allocator(limit_bytes=limit_mib * MIB)
    live = []
    for step in steps:
        if isinstance(step, float):
            if live:
                memory.drop(live.pop(int(step * len(live))))
            continue
        try:
            live.append(memory.hold(step, "a"))
        except SimulatedOutOfMemory:
            assert live or step + 20 * MIB > limit_mib * MIB
        assert memory.peak_reserved_bytes <= limit_mib * MIB
