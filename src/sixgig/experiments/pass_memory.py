"""What one position takes in a pass through one decoder layer: bytes from sizes alone, for every family.

The figures of a plain layer (as many numbers in all queries as in the hidden state, two norms, none on q and
k) were set by measured peaks of the embedded model and have room to spare; what other families hold beside
it was measured on small models of their structure (tests/unit/test_pass_memory.py). Not counted: the masks of
windows shorter than the text, 2 bytes a pair of positions in each such layer.
"""

from __future__ import annotations

from ..catalogue import ModelSpec

_SAVED = 4  # a number of q, its attention's output beside it, or a number of k and of v: 16 bits each
_NORMED = 4.2  # fp32 input of a norm on q or k
_MORE_NORMS = 5  # a further norm's input in fp32, and a number a row


def trained_layer_bytes(spec: ModelSpec) -> int:
    """Kept of one position by one layer for the backward pass, under bf16 autocast."""
    query, key = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    plain = 34 * spec.hidden_size + 8 * spec.intermediate_size
    wider = _SAVED * max(0, query - spec.hidden_size)
    normed = _NORMED * (query + key) if spec.qk_norm != "none" else 0
    norms = _MORE_NORMS * spec.hidden_size * max(0, spec.norms_per_layer - 2)
    return int(plain + wider + normed + norms)


def looked_layer_bytes(spec: ModelSpec) -> int:
    """Held of one position at once by a pass without a way back."""
    widest = max(spec.hidden_size, spec.num_heads * spec.head_dim)
    return 40 * widest + 8 * spec.intermediate_size
