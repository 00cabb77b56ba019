"""torch's CUDA caching allocator, as far as sizes go: what is allocated, reserved, and what for at the peak.

Follows c10/cuda/CUDACachingAllocator.cpp of torch 2.11 with its default settings: sizes in steps of 512
bytes, two pools, segments of 2 MiB, 20 MiB or whole multiples of 2 MiB, best fit, splitting, merging of
neighbours, and under a limit the return of unused segments before giving up. Not modelled: streams,
expandable segments, the rounding options, defragmentation.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter

from ...units import MIB

STEP_BYTES = 512
SMALL_BYTES = 1 * MIB  # requests up to this come from segments of 2 MiB
SMALL_SEGMENT_BYTES = 2 * MIB
LARGE_SEGMENT_BYTES = 20 * MIB  # for requests below 10 MiB
MIN_OWN_SEGMENT_BYTES = 10 * MIB


class SimulatedOutOfMemory(Exception):
    """A request beyond the limit, also after every unused segment went back."""


class Block:
    """A piece of a segment; `count` references keep it, as Python's and autograd's do."""

    __slots__ = ("after", "before", "count", "is_small", "key", "kind", "num_bytes")

    def __init__(self, num_bytes: int, key: int, is_small: bool) -> None:
        self.num_bytes, self.key, self.is_small = num_bytes, key, is_small
        self.kind, self.count = "", 0
        self.before: Block | None = None
        self.after: Block | None = None


WORKSPACE = "matrix product workspace"


class Allocator:
    """Plays requests and releases; peaks are kept, with the sum of each kind at the allocated peak.

    Args:
        limit_bytes: that may be reserved; beyond it SimulatedOutOfMemory is raised.
        workspace_bytes: that cuBLAS asks for, once for each thread that multiplies matrices.
    """

    def __init__(self, limit_bytes: int | None = None, workspace_bytes: int = 0) -> None:
        self.limit_bytes, self._workspace_bytes = limit_bytes, workspace_bytes
        self._threads: set[str] = set()
        self.allocated_bytes = self.reserved_bytes = 0
        self.peak_allocated_bytes = self.peak_reserved_bytes = 0
        self.by_kind: Counter[str] = Counter()
        self.peak_by_kind: dict[str, int] = {}
        self._free: dict[bool, list[tuple[int, int, Block]]] = {True: [], False: []}
        self._next_key = 0

    def hold(self, num_bytes: float, kind: str) -> Block:
        """A block of at least `num_bytes`, with one reference to it."""
        size = max(1, -(-int(num_bytes) // STEP_BYTES)) * STEP_BYTES
        block = self._find(size) or self._grow(size)
        self._split(block, size)
        block.kind, block.count = kind, 1
        self.allocated_bytes += block.num_bytes
        self.by_kind[kind] += block.num_bytes
        if self.allocated_bytes > self.peak_allocated_bytes:
            self.peak_allocated_bytes = self.allocated_bytes
            self.peak_by_kind = dict(self.by_kind)
        return block

    def multiply(self, thread: str) -> None:
        """A matrix product: at its thread's first, cuBLAS's workspace is made, in the midst of what is there.

        When it is made matters: it stays, and a large free segment that it was cut from is never whole again.
        """
        if self._workspace_bytes and thread not in self._threads:
            self._threads.add(thread)
            self.hold(self._workspace_bytes, WORKSPACE)

    def keep(self, block: Block) -> Block:
        """One more reference."""
        block.count += 1
        return block

    def drop(self, *blocks: Block) -> None:
        """One reference less each; the last one frees the block."""
        for block in blocks:
            block.count -= 1
            assert block.count >= 0, block.kind
            if not block.count:
                self.allocated_bytes -= block.num_bytes
                self.by_kind[block.kind] -= block.num_bytes
                self._release(block)

    def empty_cache(self) -> None:
        """Returns every segment that is wholly unused."""
        for pool in self._free.values():
            whole = [entry for entry in pool if entry[2].before is None and entry[2].after is None]
            self.reserved_bytes -= sum(entry[0] for entry in whole)
            pool[:] = [entry for entry in pool if entry[2].before is not None or entry[2].after is not None]

    def _find(self, size: int) -> Block | None:
        pool = self._free[size <= SMALL_BYTES]
        index = bisect_left(pool, (size, -1))
        return pool.pop(index)[2] if index < len(pool) else None

    def _grow(self, size: int) -> Block:
        is_small = size <= SMALL_BYTES
        if is_small:
            segment_bytes = SMALL_SEGMENT_BYTES
        elif size < MIN_OWN_SEGMENT_BYTES:
            segment_bytes = LARGE_SEGMENT_BYTES
        else:
            segment_bytes = -(-size // SMALL_SEGMENT_BYTES) * SMALL_SEGMENT_BYTES
        if self.limit_bytes is not None and self.reserved_bytes + segment_bytes > self.limit_bytes:
            self.empty_cache()
            if self.reserved_bytes + segment_bytes > self.limit_bytes:
                raise SimulatedOutOfMemory(f"{size} bytes beside {self.allocated_bytes}")
        self.reserved_bytes += segment_bytes
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        return self._new(segment_bytes, is_small)

    def _new(self, num_bytes: int, is_small: bool) -> Block:
        self._next_key += 1
        return Block(num_bytes, self._next_key, is_small)

    def _split(self, block: Block, size: int) -> None:
        rest_bytes = block.num_bytes - size
        if rest_bytes < STEP_BYTES if block.is_small else rest_bytes <= SMALL_BYTES:
            return
        rest = self._new(rest_bytes, block.is_small)
        block.num_bytes = size
        rest.before, rest.after = block, block.after
        if block.after is not None:
            block.after.before = rest
        block.after = rest
        self._add_free(rest)

    def _release(self, block: Block) -> None:
        if (after := block.after) is not None and not after.count:
            self._remove_free(after)
            block.num_bytes += after.num_bytes
            block.after = after.after
            if after.after is not None:
                after.after.before = block
        if (before := block.before) is not None and not before.count:
            self._remove_free(before)
            before.num_bytes += block.num_bytes
            before.after = block.after
            if block.after is not None:
                block.after.before = before
            block = before
        self._add_free(block)

    def _add_free(self, block: Block) -> None:
        insort(self._free[block.is_small], (block.num_bytes, block.key, block))

    def _remove_free(self, block: Block) -> None:
        pool = self._free[block.is_small]
        pool.pop(bisect_left(pool, (block.num_bytes, block.key)))
