"""What the performance experiment holds at its widest moment, from sizes alone; nothing is loaded.

Rounds are interleaved, so that full precision, the rounded model and the split one stand beside one another.
The split is made before, from fp32 weights that are gone by then.
"""

from __future__ import annotations

from ..catalogue import ModelSpec
from ..memory.ledger import HEAP_HOLES, LIBRARIES_BYTES
from .performance_config import PerformanceConfig

_NUM_NETWORKS, _NUM_SPLIT = 3, 2
# A parameter, while bitsandbytes' model is made on a CPU: the mapped file, and what quantising leaves in the
# heap of the loader's threads until it is given back; measured on the embedded model.
_QUANTISING_BYTES = 10
_SPARSE_BYTES = 8  # a kept entry: position and value, 4 bytes each


def peak_bytes(spec: ModelSpec, config: PerformanceConfig, device: str) -> int:
    """The most of the card's memory, or on a CPU the process's, that a run with `config` holds."""
    dense = 2 * _NUM_NETWORKS * spec.num_parameters
    packed = _NUM_SPLIT * spec.num_linear_parameters * config.bits // 8
    ortho = int(_SPARSE_BYTES * config.sparse_share * spec.num_linear_parameters)
    caches = (_NUM_NETWORKS + 1) * spec.kv_bytes(config.context_tokens)
    one_layer = 8 * spec.num_linear_parameters // spec.num_layers
    splitting = 4 * spec.num_parameters + spec.num_linear_parameters + ortho + 2 * one_layer
    more = _bitsandbytes_bytes(spec, config)
    kept = max(dense + packed + ortho + caches + more, splitting)
    if device == "cuda":
        return kept
    # The last network is loaded while the others and the unpacked split are there, its file mapped beside it.
    loading = dense + packed + spec.num_linear_parameters + ortho + 4 * spec.num_parameters
    kept = max(kept, loading)
    if more:  # after it full precision is loaded, its file mapped beside all others
        loading = max(_QUANTISING_BYTES * spec.num_parameters, more + 4 * spec.num_parameters)
        kept = max(kept, dense + packed + ortho + caches + loading)
    return kept + int(HEAP_HOLES * one_layer) + LIBRARIES_BYTES


def _bitsandbytes_bytes(spec: ModelSpec, config: PerformanceConfig) -> int:
    """Of the model that bitsandbytes makes, full precision in the modules beside it, and both caches."""
    if not config.bitsandbytes_bits:
        return 0
    linear = spec.num_linear_parameters
    quantised = 2 * (spec.num_parameters - linear) + linear * config.bitsandbytes_bits // 8
    scales = linear // 60  # a byte for 64 weights in 4 bits, and theirs; in 8 bits less
    return quantised + scales + 2 * spec.num_parameters + 2 * spec.kv_bytes(config.context_tokens)
