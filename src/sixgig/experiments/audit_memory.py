"""What an audit holds at its widest moment, from sizes alone; nothing is loaded.

One model stands in memory at a time: the split with its Base in 16 bit beside its codes, or the model from
before as it is loaded. A look adds one pool's values after one question, with their cache.
"""

from __future__ import annotations

from ..catalogue import ModelSpec
from ..memory.ledger import HEAP_HOLES, LIBRARIES_BYTES
from ..memory.simulation import LOGIT_ROWS
from .audit_config import AuditConfig

_CODE_BYTES = 1.1  # a weight of a Base as it is read: its code, scales, zero points


def peak_bytes(spec: ModelSpec, config: AuditConfig, device: str, *, with_before: bool) -> int:
    """The most of the card's memory, or on a CPU the process's, that an audit holds."""
    outside = 4 * (spec.num_parameters - spec.num_linear_parameters) + 2 * spec.embedding_parameters
    split = outside + int((2 + _CODE_BYTES) * spec.num_linear_parameters)
    # Loaded in fp32 with the model's file beside it on a CPU; on a card what was read lies in host memory.
    before = (8 if device == "cpu" else 4) * spec.num_parameters if with_before else 0
    look = _look_bytes(spec, config, device)
    kept = max(split + look, before, 4 * spec.num_parameters + look if with_before else 0)
    if device == "cuda":
        return kept
    return kept + int(HEAP_HOLES * look) + LIBRARIES_BYTES


def _look_bytes(spec: ModelSpec, config: AuditConfig, device: str) -> int:
    """A pool's values after one question: each has a copy of the question's cache."""
    values = config.max_pool * config.max_value_tokens
    cached = config.max_pool * (config.max_question_tokens + config.max_value_tokens)
    positions = max(values, config.positions_per_batch)
    per_position = 40 * spec.hidden_size + 8 * spec.intermediate_size
    logits = 8 * spec.vocab_size * min(positions, LOGIT_ROWS[device])
    return cached * spec.kv_bytes_per_token + positions * per_position + logits
