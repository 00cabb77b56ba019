"""What saving-genius holds at its widest moment, from sizes alone; nothing is loaded.

That is a step of planting, or where nothing is planted the squared gradients of the layers of one pass beside
the weights. Layers of an arm are made one by one.
"""

from __future__ import annotations

from ..catalogue import ModelSpec
from ..memory.ledger import HEAP_HOLES, LIBRARIES_BYTES
from ..memory.simulation import LOGIT_ROWS
from .saving_genius_config import SavingGeniusConfig

SUM_TOKENS, PROBLEM_TOKENS = 16, 400
PROMPT_TOKENS = 1280  # of a GSM8K problem with its eight examples
LINEARS_PER_LAYER = 7


def peak_bytes(spec: ModelSpec, config: SavingGeniusConfig, device: str) -> int:
    """The most of the card's memory, or on a CPU the process's, that a run with `config` holds."""
    outside = 4 * (spec.num_parameters - spec.num_linear_parameters) + 2 * spec.embedding_parameters
    looking = outside + 2 * spec.num_linear_parameters + _look_bytes(spec, config, device)
    scoring = outside + 2 * spec.num_linear_parameters + _scoring_bytes(spec, config)
    kept = max(looking, scoring, 4 * spec.num_parameters)
    if config.task == "addition":
        kept = max(kept, _planting_bytes(spec, config, device))
    if device == "cuda":
        return kept
    # Scores lie in memory until all are written; and in loading, the file beside what was read from it.
    on_cpu = max(kept + 2 * spec.num_linear_parameters, 8 * spec.num_parameters)
    return int((1 + HEAP_HOLES) * on_cpu) + LIBRARIES_BYTES


def _planting_bytes(spec: ModelSpec, config: SavingGeniusConfig, device: str) -> int:
    """fp32 weights, AdamW's moments, casts for a pass, and on a GPU all gradients."""
    positions = max(
        SUM_TOKENS * config.plant_sums_per_step, config.train_window * config.plant_public_per_step
    )
    linears = spec.num_linear_parameters
    casts = 2 * (linears + spec.embedding_parameters)
    gradients = 4 * linears if device == "cuda" else 0
    return 4 * spec.num_parameters + 8 * linears + casts + gradients + _pass_bytes(spec, positions, device)


def _scoring_bytes(spec: ModelSpec, config: SavingGeniusConfig) -> int:
    """Sums of squares of one pass's layers, four sequences' gradients of the largest layer, activations."""
    num_linears = LINEARS_PER_LAYER * spec.num_layers
    held = min(1.0, config.layers_per_pass / num_linears) * 4 * spec.num_linear_parameters
    largest = 4 * spec.hidden_size * spec.intermediate_size
    tokens = SUM_TOKENS if config.task == "addition" else PROBLEM_TOKENS
    positions = max(config.positions_per_batch, tokens)
    return int(held) + 8 * largest + _pass_bytes(spec, positions, "cuda")


def _pass_bytes(spec: ModelSpec, positions: int, device: str) -> int:
    per_position = spec.num_layers * (34 * spec.hidden_size + 8 * spec.intermediate_size)
    return positions * per_position + 8 * spec.vocab_size * min(positions, LOGIT_ROWS[device])


def _look_bytes(spec: ModelSpec, config: SavingGeniusConfig, device: str) -> int:
    least = config.test_window if config.task == "addition" else PROMPT_TOKENS
    positions = max(config.positions_per_batch, least)
    per_position = spec.kv_bytes_per_token + 40 * spec.hidden_size + 8 * spec.intermediate_size
    logits = 8 * spec.vocab_size * min(positions, LOGIT_ROWS[device])
    return positions * per_position + logits
