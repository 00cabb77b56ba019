"""What the performance experiment holds at its widest moment, from sizes alone; nothing is loaded.

Rounds are interleaved, so that full precision, the rounded model and the split one stand beside one another.
The split is made before, from fp32 weights that are gone by then.
"""

from __future__ import annotations

from ..catalogue import ModelSpec
from ..memory.ledger import HEAP_HOLES, LIBRARIES_BYTES
from .performance_config import PerformanceConfig

_NUM_NETWORKS, _NUM_SPLIT = 3, 2
_SPARSE_BYTES = 8  # a kept entry: position and value, 4 bytes each


def peak_bytes(spec: ModelSpec, config: PerformanceConfig, device: str) -> int:
    """The most of the card's memory, or on a CPU the process's, that a run with `config` holds."""
    dense = 2 * _NUM_NETWORKS * spec.num_parameters
    packed = _NUM_SPLIT * spec.num_linear_parameters * config.bits // 8
    ortho = int(_SPARSE_BYTES * config.sparse_share * spec.num_linear_parameters)
    caches = (_NUM_NETWORKS + 1) * spec.kv_bytes(config.context_tokens)
    one_layer = 8 * spec.num_linear_parameters // spec.num_layers
    splitting = 4 * spec.num_parameters + spec.num_linear_parameters + ortho + 2 * one_layer
    kept = max(dense + packed + ortho + caches, splitting)
    if device == "cuda":
        return kept
    # The last network is loaded while the others and the unpacked split are there, its file mapped beside it.
    loading = dense + packed + spec.num_linear_parameters + ortho + 4 * spec.num_parameters
    kept = max(kept, loading)
    return kept + int(HEAP_HOLES * one_layer) + LIBRARIES_BYTES
