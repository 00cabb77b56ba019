"""Numbers that one program of a launch leaves for another, which as a rule comes when they are there.

A place holds EMPTY until its number is there, so that the number is its own signal: who needs it reads until
it is not EMPTY, which is one trip to the L2 cache, where a counter and a fence beside the numbers take three.
(Where somebody has to wait as a rule, the last of several programs to finish, found by a counter, is quicker:
docs/journal.md.)
EMPTY has the bits of a NaN, but not of the one that a GPU's arithmetic makes (0x7FFFFFFF). Places are 32-bit
integers; whoever reads one last empties it again, unless the host does so.
"""

# Triton's functions are compiled from source: no postponed annotations and no type hints beyond constexpr.
import triton
import triton.language as tl

EMPTY = -1
_EMPTY = tl.constexpr(EMPTY)


@triton.jit
def leave(at, numbers, mask):
    """Writes fp32 numbers for others."""
    tl.store(at, numbers.to(tl.int32, bitcast=True), mask=mask)


@triton.jit
def look(at, mask):
    """(fp32 numbers, 1 where one is still missing); outside the mask 0 and 0.

    Every number must have one thread: of several that read it one may find it and another not yet, and the
    sum might be made of the one's and `missing` of the other's. So a tile has an element a thread at least.
    """
    bits = tl.load(at, mask=mask, other=0, volatile=True)
    return bits.to(tl.float32, bitcast=True), (bits == _EMPTY).to(tl.int32)


@triton.jit
def empty(at, mask):
    tl.store(at, tl.full(mask.shape, _EMPTY, tl.int32), mask=mask)
