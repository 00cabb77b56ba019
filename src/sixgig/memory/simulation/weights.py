"""A model's weights on the simulated device, tensor by tensor, in the type they are stored in."""

from __future__ import annotations

from dataclasses import replace

from ...catalogue import ModelSpec
from ...catalogue.tensors import layer_tensors
from ..workload import Workload
from .allocator import Allocator, Block

LINEAR, EXPERTS = "linear layers", "routed experts"
EMBEDDING, HEAD, SMALL = "embedding", "output head", "norms, biases, routers"


def hold_weights(spec: ModelSpec, work: Workload, memory: Allocator) -> list[Block]:
    """Every tensor of the model that lives on the device. Gives the linear layers' that are not packed."""
    linears = []
    if work.task == "split":
        work = replace(work, bits=32)  # the model is whole while it is split; the Base leaves the device
    width = 4 if work.bits == 32 else 2
    for tensor in spec.tensors():
        num_values = 1
        for size in tensor.shape:
            num_values *= size
        kind = {"linear": LINEAR, "expert": EXPERTS, "embedding": EMBEDDING, "head": HEAD}.get(
            tensor.part, SMALL
        )
        if tensor.part == "embedding" and work.embedding_place == "cpu":
            continue
        if tensor.part == "expert" and work.experts_place == "cpu":
            continue
        bits = {"linear": work.bits, "expert": work.bits, "head": work.head_bits}.get(tensor.part, 16)
        if bits < 16:
            _hold_packed(tensor.shape, bits, work.group_size, kind, memory)
        else:
            block = memory.hold(num_values * width, kind)
            linears += [block] if tensor.part == "linear" else []
    if spec.num_experts and work.experts_place == "cpu":
        memory.hold(resident_expert_bytes(spec, work), "active experts of two layers")
    if spec.tied_embeddings and work.head_bits < 16:
        _hold_packed((spec.vocab_size, spec.hidden_size), work.head_bits, work.group_size, HEAD, memory)
    return linears


def least_device_bytes(spec: ModelSpec, work: Workload) -> int:
    """What no run can do without: `hold_weights`, and in training AdamW's two moments of each weight; one
    layer where a split reads them from disk."""
    memory = Allocator()
    if work.task == "split" and work.splitting.layers_from == "disk":
        return sum(2 * tensor.num_elements for tensor in layer_tensors(spec, 0))
    hold_weights(spec, work, memory)
    return memory.allocated_bytes * (3 if work.task == "sft" else 1)


def experts_bytes(spec: ModelSpec, work: Workload) -> int:
    """All routed experts as they are stored."""
    return int(spec.num_expert_parameters * work.bytes_per_linear_weight)


def resident_expert_bytes(spec: ModelSpec, work: Workload) -> int:
    """Where experts travel: one layer computes with its own while the next one's arrive."""
    num_resident = 2 * min(spec.num_experts, spec.num_experts_per_token * work.batch)
    return int(num_resident * spec.expert_parameters * work.bytes_per_linear_weight)


def _hold_packed(shape: tuple[int, ...], bits: int, group_size: int, kind: str, memory: Allocator) -> None:
    """Codes, 16-bit scales and 8-bit zero points of a matrix or a stack of matrices."""
    *rows, num_in = shape
    num_rows = 1
    for size in rows:
        num_rows *= size
    codes_per_chunk, bytes_per_chunk = _CHUNKS[bits]
    memory.hold(num_rows * -(-num_in // codes_per_chunk) * bytes_per_chunk, kind)
    num_groups = num_rows * -(-num_in // group_size)
    memory.hold(num_groups * 2, kind)
    memory.hold(num_groups, kind)


_CHUNKS = {2: (4, 1), 3: (8, 3), 4: (2, 1), 8: (1, 1)}  # numerics.pack
