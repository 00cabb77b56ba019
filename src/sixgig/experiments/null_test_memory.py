"""What the null test holds at its widest moment, from sizes alone; nothing is loaded.

That is the beginning of the Ortho part's fit, when the layers to be trained are made beside the fp32 ones
that they replace, or one of its steps, or a look at the split model; on a CPU it may be the loading, when the
model's file lies in memory beside what is read from it.
"""

from __future__ import annotations

from ..catalogue import ModelSpec
from ..memory.ledger import HEAP_HOLES, LIBRARIES_BYTES
from ..memory.simulation import LOGIT_ROWS
from .null_test_config import NullTestConfig
from .pass_memory import looked_layer_bytes, trained_layer_bytes

_UNPACKED_BYTES = 1.1  # a weight of a split as it is read: its code, scales, zero points
_SPARSE_BYTES = 8  # a kept entry: position and value, 4 bytes each


def peak_bytes(spec: ModelSpec, config: NullTestConfig, device: str) -> int:
    """The most of the card's memory, or on a CPU the process's, that a run with `config` holds."""
    outside = 4 * (spec.num_parameters - spec.num_linear_parameters) + 2 * spec.embedding_parameters
    per_weight = 2 + (_UNPACKED_BYTES if device == "cpu" else config.bits / 8)
    split = int(spec.num_linear_parameters * (per_weight + _SPARSE_BYTES * config.sparse_share))
    look, fit = _look_bytes(spec, config, device), _fit_bytes(spec, config, device)
    fitting = 4 * spec.num_parameters + 2 * spec.embedding_parameters + split + fit
    kept = max(outside + split + look, fitting, 4 * spec.num_parameters)
    if device == "cuda":
        return kept
    kept = max(kept, 8 * spec.num_parameters)  # loading: the model's file beside what was read from it
    return kept + int(HEAP_HOLES * max(look, fit)) + LIBRARIES_BYTES


def _look_bytes(spec: ModelSpec, config: NullTestConfig, device: str) -> int:
    positions = max(config.positions_per_batch, config.window_tokens)
    per_position = spec.kv_bytes_per_token + looked_layer_bytes(spec)
    return positions * per_position + 8 * spec.vocab_size * min(positions, LOGIT_ROWS[device])


def _fit_bytes(spec: ModelSpec, config: NullTestConfig, device: str) -> int:
    """Activations of all layers for one backward pass, and U and V with gradients and moments in fp32."""
    if not config.fit_steps:
        return 0
    positions = config.fit_window * config.fit_windows_per_step
    per_position = spec.num_layers * trained_layer_bytes(spec)
    sides = spec.num_layers * 14 * (spec.hidden_size + spec.intermediate_size) // 2
    factors = 16 * config.rank * sides
    logits = 36 * spec.vocab_size * min(positions, 256)
    return positions * per_position + factors + logits
