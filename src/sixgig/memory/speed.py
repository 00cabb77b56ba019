"""How fast a card could generate at best: every weight that a token needs is read once."""

from __future__ import annotations

from ..cards import Card
from ..catalogue import ModelSpec
from .workload import Workload

# PCIe 4.0 with the 8 lanes of a laptop card, one direction; experts in the processor's memory come over it.
BUS_BYTES_PER_SECOND = 16 * 10**9


def max_tokens_per_second(spec: ModelSpec, work: Workload, card: Card | None) -> float | None:
    """Tokens a second of one sequence at the end of its context; None where the bandwidth is not known.

    The roofline of decoding: bytes of weights and cache that a token reads, over bytes a second. Kernels,
    launches and unpacking come on top, so no program is this fast.
    """
    if work.task != "generate" or card is None or card.bandwidth_bytes_per_second is None:
        return None
    experts = spec.num_layers * spec.num_experts_per_token * spec.expert_parameters
    per_weight = work.bytes_per_linear_weight
    dense = (spec.num_linear_parameters - spec.num_expert_parameters) * per_weight
    head = spec.embedding_parameters * _head_bytes(work)
    cache = spec.kv_bytes(work.context, 4 if work.bits == 32 else 2)
    seconds = (dense + head + cache) / card.bandwidth_bytes_per_second
    source = BUS_BYTES_PER_SECOND if work.experts_place == "cpu" else card.bandwidth_bytes_per_second
    return 1 / (seconds + experts * per_weight / source)


def _head_bytes(work: Workload) -> float:
    if work.head_bits >= 16:
        return 4 if work.bits == 32 else 2
    return (work.head_bits + 24 / work.group_size) / 8
