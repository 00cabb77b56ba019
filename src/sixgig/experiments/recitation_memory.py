"""What the recitation experiment holds at its widest moment, from sizes alone; nothing is loaded.

Looks and the fit are the null test's. What comes on top is the split: every arm's layers wait on the CPU,
and the sieve may gather second moments of gradients (one decoder layer's are counted) in backward passes.
"""

from __future__ import annotations

from ..catalogue import ModelSpec
from ..memory.ledger import HEAP_HOLES, LIBRARIES_BYTES
from ..memory.simulation import LOGIT_ROWS
from .recitation_config import RecitationConfig

_PASS_POSITIONS = 2048  # of a backward pass for a sieve's statistics
_SPLIT_BYTES = 3.3  # a weight of a split in memory: its code, scales, the low-rank part's share


def peak_bytes(spec: ModelSpec, config: RecitationConfig, device: str) -> int:
    """The most of the card's memory, or on a CPU the process's, that a run with `config` holds."""
    look, fit, statistics = (
        part(spec, config, device) for part in (_look_bytes, _fit_bytes, _statistics_bytes)
    )
    dense = 4 * spec.num_parameters + 2 * spec.embedding_parameters
    kept = dense + max(look, 2 * spec.num_linear_parameters + fit, statistics)
    if device == "cuda":
        return kept
    arms = int(_SPLIT_BYTES * spec.num_linear_parameters) * (len(config.shares) + 2)
    kept = max(kept + arms, 8 * spec.num_parameters)  # loading: the file beside what was read from it
    return kept + int(HEAP_HOLES * max(look, fit)) + LIBRARIES_BYTES


def _look_bytes(spec: ModelSpec, config: RecitationConfig, device: str) -> int:
    positions = max(config.positions_per_batch, config.test_window)
    per_position = spec.kv_bytes_per_token + 40 * spec.hidden_size + 8 * spec.intermediate_size
    return positions * per_position + 8 * spec.vocab_size * min(positions, LOGIT_ROWS[device])


def _statistics_bytes(spec: ModelSpec, config: RecitationConfig, device: str) -> int:
    """Inputs' and output gradients' second moments of one decoder layer in fp64, their eigenvectors, and
    activations for a backward pass. On a card passes are cut down to one window where they do not fit."""
    width = max(spec.hidden_size, spec.intermediate_size)
    positions = config.calibration_window * config.num_calibration_windows
    positions = config.calibration_window if device == "cuda" else min(positions, _PASS_POSITIONS)
    return 8 * 6 * width**2 + _pass_bytes(spec, positions)


def _fit_bytes(spec: ModelSpec, config: RecitationConfig, device: str) -> int:
    """U and V with gradients and moments in fp32, and one backward pass."""
    if not config.fit_steps:
        return 0
    sides = spec.num_layers * 14 * (spec.hidden_size + spec.intermediate_size) // 2
    return 16 * config.rank * sides + _pass_bytes(spec, config.train_window * config.fit_windows_per_step)


def _pass_bytes(spec: ModelSpec, positions: int) -> int:
    per_position = spec.num_layers * (34 * spec.hidden_size + 8 * spec.intermediate_size)
    return positions * per_position + 36 * spec.vocab_size * min(positions, 256)
