"""What a program takes of a card beside the allocator: CUDA's context, loaded kernels, the driver's share."""

from __future__ import annotations

from dataclasses import dataclass

from ..cards import Card
from ..units import GIB, KIB, MIB

# An H200 with torch 2.11 (docs/receipts/memory-*.json): the context right after it is made, and what the
# kernels of torch and of its libraries add once they have run. Splitting solves with cuSOLVER.
HOPPER_CONTEXT_BYTES = 618 * MIB
KERNELS_BYTES = {"generate": 76 * MIB, "score": 76 * MIB, "sft": 148 * MIB, "split": 248 * MIB}
# Reported for consumer cards with kernels loaded as they are used; a context grows with the number of
# multiprocessors, of which such a card has a sixth to a half.
OTHER_CONTEXT_BYTES = 324 * MIB
HOPPER_WORKSPACE_BYTES = 32 * MIB
OTHER_WORKSPACE_BYTES = (2 * 4096 + 8 * 16) * KIB  # cuBLAS's own choice below compute capability 9.0
FRAGMENTS_SHARE = 0.03  # of a card: what the allocator cannot use although it is free
MARGIN_STOPS_AT_BYTES = 24 * GIB


@dataclass(frozen=True, kw_only=True)
class Outside:
    """Bytes that tensors cannot have, and cuBLAS's workspace, which the allocator gives."""

    context_bytes: int
    kernels_bytes: int
    margin_bytes: int
    workspace_bytes: int

    def limit_bytes(self, card: Card) -> int:
        """What the allocator may reserve on `card`."""
        taken = self.context_bytes + self.kernels_bytes + self.margin_bytes
        return max(0, card.total_bytes - taken)


def outside(card: Card, task: str) -> Outside:
    """For a task of `workload.TASKS`: what was measured on a card of this kind, else what is reported of
    consumer cards."""
    is_hopper = (card.compute_capability or "").startswith("9.")
    return Outside(
        context_bytes=HOPPER_CONTEXT_BYTES if is_hopper else OTHER_CONTEXT_BYTES,
        kernels_bytes=KERNELS_BYTES[task],
        margin_bytes=int(FRAGMENTS_SHARE * min(card.total_bytes, MARGIN_STOPS_AT_BYTES)),
        workspace_bytes=HOPPER_WORKSPACE_BYTES if is_hopper else OTHER_WORKSPACE_BYTES,
    )
