"""What saving-genius holds at its widest moment, from sizes alone; nothing is loaded.

That is a step of planting; or where nothing is planted, a look, or the squared gradients of the layers of one
pass beside the weights. An arm's layers are made one by one.
"""

from __future__ import annotations

from ..catalogue import ModelSpec
from ..memory.ledger import HEAP_HOLES, LIBRARIES_BYTES
from ..memory.simulation import LOGIT_ROWS
from .saving_genius_config import SavingGeniusConfig

SUM_TOKENS = {"question": 17, "short": 14, "equation": 12, "bare": 10}  # at most, by form
PROBLEM_TOKENS = 400
PROMPT_TOKENS = 1280  # of a GSM8K problem with its eight examples
LINEARS_PER_LAYER = 7

Bytes = tuple[int, int]  # what is kept, and what is held for a pass only


def peak_bytes(spec: ModelSpec, config: SavingGeniusConfig, device: str) -> int:
    """The most of the card's memory, or on a CPU the process's, that a run with `config` holds."""
    moments = [_looking(spec, config, device), _scoring(spec, config, device)]
    if config.task == "addition":
        moments.append(_planting(spec, config, device))
    if device == "cuda":
        return max(4 * spec.num_parameters, *(kept + short for kept, short in moments))
    most = max(kept + int((1 + HEAP_HOLES) * short) for kept, short in moments)
    loading = 8 * spec.num_parameters  # the model's file beside what was read from it
    return max(most, loading) + LIBRARIES_BYTES


def _planting(spec: ModelSpec, config: SavingGeniusConfig, device: str) -> Bytes:
    """fp32 weights and AdamW's moments; casts for a pass, and on a GPU all gradients."""
    positions = max(
        SUM_TOKENS[config.form] * config.plant_sums_per_step,
        config.train_window * config.plant_public_per_step,
    )
    linears = spec.num_linear_parameters
    gradients = 4 * linears if device == "cuda" else 0
    casts = 2 * (linears + spec.embedding_parameters)
    return 4 * spec.num_parameters + 8 * linears + gradients, casts + _pass_bytes(spec, positions, device)


def _scoring(spec: ModelSpec, config: SavingGeniusConfig, device: str) -> Bytes:
    """Sums of squares of one pass's layers, and four sequences' gradients of the largest layer; on a CPU also
    the scores, which wait there in bf16."""
    num_linears = LINEARS_PER_LAYER * spec.num_layers
    held = int(min(1.0, config.layers_per_pass / num_linears) * 4 * spec.num_linear_parameters)
    waiting = 2 * spec.num_linear_parameters if device == "cpu" else 0
    tokens = SUM_TOKENS[config.form] if config.task == "addition" else PROBLEM_TOKENS
    passing = _pass_bytes(spec, max(config.scoring_positions, tokens), device)
    gradients = 2 * 4 * 4 * spec.hidden_size * spec.intermediate_size
    return _bf16_bytes(spec) + held + waiting, passing + gradients


def _looking(spec: ModelSpec, config: SavingGeniusConfig, device: str) -> Bytes:
    least = config.test_window if config.task == "addition" else PROMPT_TOKENS
    positions = max(config.positions_per_batch, least)
    per_position = spec.kv_bytes_per_token + 40 * spec.hidden_size + 8 * spec.intermediate_size
    return _bf16_bytes(spec), positions * per_position + _logit_bytes(spec, positions, device)


def _bf16_bytes(spec: ModelSpec) -> int:
    """Linear layers in bf16, all else in fp32, and the head also in the type that it is used in."""
    outside = spec.num_parameters - spec.num_linear_parameters
    return 4 * outside + 2 * spec.embedding_parameters + 2 * spec.num_linear_parameters


def _pass_bytes(spec: ModelSpec, positions: int, device: str) -> int:
    per_position = spec.num_layers * (34 * spec.hidden_size + 8 * spec.intermediate_size)
    return positions * per_position + _logit_bytes(spec, positions, device)


def _logit_bytes(spec: ModelSpec, positions: int, device: str) -> int:
    return 8 * spec.vocab_size * min(positions, LOGIT_ROWS[device])
