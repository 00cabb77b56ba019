"""The lines of each task's ledger, from shapes alone.

Counted: weights by part, key/value cache, logits, activations, curvature, gradients and optimizer, margins.
Not counted yet: the allocator's temporary copies while loading, attention scores where a GPU has no fused
attention kernel, the desktop's share of a card, and peaks inside fused kernels.
"""

from __future__ import annotations

from ..catalogue import ModelSpec
from .ledger import Line, Place
from .workload import Workload

LORA_RANK = 16


def inference_lines(
    spec: ModelSpec, work: Workload, device: Place, *, experts_in_ram: bool = False
) -> list[Line]:
    """`generate` and `score`: stored weights, cache, activations of one layer, logits."""
    return [
        *weight_lines(spec, work, device, experts_in_ram=experts_in_ram),
        _cache_line(spec, work, device),
        _activation_line(spec, work, device, num_layers=1),
        _logits_line(spec, work, device),
    ]


def weight_lines(
    spec: ModelSpec, work: Workload, device: Place, *, experts_in_ram: bool = False
) -> list[Line]:
    """Linear layers at the stored bits; head in at least 16 bit; an untied embedding stays in memory.

    An embedding is only looked up, a few rows a token, so that it costs nothing to leave it off the card.
    """
    stored = f"{work.bytes_per_linear_weight * 8:g} bits a weight with scales"
    wide_bytes = max(2, work.bits // 8)
    dense = spec.num_linear_parameters - spec.num_expert_parameters
    lines = [
        Line(what="linear layers", place=device, num_bytes=_bytes(dense, work), because=stored),
        Line(
            what="embedding, also the output head" if spec.tied_embeddings else "embedding",
            place=device if spec.tied_embeddings else "ram",
            num_bytes=spec.embedding_parameters * wide_bytes,
            because=f"{wide_bytes * 8} bits a weight",
        ),
        Line(
            what="norms, biases, routers",
            place=device,
            num_bytes=(spec.num_layers * spec.small_parameters_per_layer + spec.hidden_size) * wide_bytes,
        ),
    ]
    if not spec.tied_embeddings:
        head = spec.head_parameters * wide_bytes
        lines.append(Line(what="output head", place=device, num_bytes=head, because=f"{wide_bytes * 8} bits"))
    return lines + _expert_lines(spec, work, device, experts_in_ram)


def _expert_lines(spec: ModelSpec, work: Workload, device: Place, in_ram: bool) -> list[Line]:
    if not spec.num_experts:
        return []
    whole = Line(
        what="routed experts",
        place="ram" if in_ram else device,
        num_bytes=_bytes(spec.num_expert_parameters, work),
        because=f"{spec.num_experts} a layer, {spec.num_experts_per_token} active",
    )
    if not in_ram:
        return [whole]
    # One layer computes while the next one's experts arrive.
    num_resident = 2 * min(spec.num_experts, spec.num_experts_per_token * work.batch)
    resident = _bytes(num_resident * spec.expert_parameters, work)
    return [whole, Line(what="active experts of two layers", place=device, num_bytes=resident)]


def _cache_line(spec: ModelSpec, work: Workload, device: Place) -> Line:
    return Line(
        what="key/value cache",
        place=device,
        num_bytes=spec.kv_bytes_per_token * work.num_tokens,
        because=f"{work.num_tokens} tokens in 16 bit",
    )


def _logits_line(spec: ModelSpec, work: Workload, device: Place) -> Line:
    """16-bit logits and their fp32 copy: of the last position when generating, of every one when scoring."""
    num_positions = work.batch if work.task == "generate" else work.num_tokens
    num_bytes = num_positions * spec.vocab_size * 6
    return Line(what="logits", place=device, num_bytes=num_bytes, because=f"{num_positions} positions")


def _activation_line(spec: ModelSpec, work: Workload, device: Place, *, num_layers: int) -> Line:
    """Per layer the residual stream that is kept; once, the widest layer's inputs and outputs. 16 bit."""
    width = max(spec.intermediate_size, spec.expert_intermediate_size * max(1, spec.num_experts_per_token))
    kept = num_layers * spec.hidden_size
    working = 4 * spec.hidden_size + 3 * width
    return Line(what="activations", place=device, num_bytes=2 * work.num_tokens * (kept + working))


def split_lines(spec: ModelSpec, work: Workload, device: Place) -> list[Line]:
    """`split`: the model and its earlier checkpoint in fp32, one layer's curvature, the stored Base.

    Curvature of a layer with n inputs: two n x n second moments and two matrices to solve with, in fp32.
    """
    widest = max(spec.hidden_size, spec.intermediate_size, spec.num_heads * spec.head_dim)
    base = _bytes(spec.num_linear_parameters, work)
    return [
        Line(what="model", place=device, num_bytes=4 * spec.num_parameters, because="32 bits a weight"),
        Line(what="earlier checkpoint", place="ram", num_bytes=4 * spec.num_parameters, because="32 bits"),
        Line(what="curvature of one layer", place=device, num_bytes=4 * 4 * widest**2, because="4 matrices"),
        Line(what="Base as stored", place="ram", num_bytes=base),
        _activation_line(spec, work, device, num_layers=1),
        _logits_line(spec, work, device),
    ]


def sft_lines(spec: ModelSpec, work: Workload, device: Place) -> list[Line]:
    """`sft` with activation checkpointing and a dense loss.

    bits 32: fp32 weights under bf16 autocast, AdamW. bits 16: pure bf16 with AdamW. Below: low-rank adapters
    of rank 16 on frozen weights of those bits. The logits exist four times: bf16, fp32, log-softmax and
    gradient.
    """
    return [
        *_trained_lines(spec, work, device),
        _activation_line(spec, work, device, num_layers=spec.num_layers),
        Line(
            what="logits and their gradient",
            place=device,
            num_bytes=work.num_tokens * spec.vocab_size * (2 + 4 + 4 + 4),
            because=f"{work.num_tokens} positions",
        ),
    ]


def _trained_lines(spec: ModelSpec, work: Workload, device: Place) -> list[Line]:
    if work.bits < 16:
        trained = num_adapter_parameters(spec, LORA_RANK)
        frozen = weight_lines(spec, work, device)
        return [
            *frozen,
            Line(what="adapters", place=device, num_bytes=4 * trained, because="fp32, rank 16"),
            _training_line("gradients", device, 4 * trained),
            _training_line("optimizer", device, 8 * trained),
        ]
    width, count = work.bits // 8, spec.num_parameters
    lines = [
        Line(what="weights", place=device, num_bytes=width * count, because=f"{work.bits} bits"),
        _training_line("gradients", device, width * count),
        _training_line("optimizer", device, 2 * width * count),
    ]
    if work.bits == 32:
        lines.append(Line(what="autocast's copy of the weights", place=device, num_bytes=2 * count))
    return lines


def _training_line(what: str, device: Place, num_bytes: int) -> Line:
    because = "two moments a weight (AdamW)" if what == "optimizer" else "kept for accumulation"
    return Line(what=what, place=device, num_bytes=num_bytes, because=because)


def num_adapter_parameters(spec: ModelSpec, rank: int) -> int:
    """Low-rank pairs on every attention and dense MLP matrix: rank x (inputs + outputs) each; no experts."""
    hidden, query, key = (
        spec.hidden_size,
        spec.num_heads * spec.head_dim,
        spec.num_kv_heads * spec.head_dim,
    )
    mlp = spec.shared_expert_intermediate_size if spec.num_experts else spec.intermediate_size
    attention = 2 * (hidden + query) + 2 * (hidden + key)
    return spec.num_layers * rank * (attention + 3 * (hidden + mlp))


def _bytes(num_weights: int, work: Workload) -> int:
    return int(num_weights * work.bytes_per_linear_weight)
