"""What the kill switch holds at its widest moment, from sizes alone; nothing is loaded.

That moment is a step of planting, or where looks are large a look in the midst of relearning. Not counted:
the second moments of the split, and the fit of the Ortho part, whose steps are cut into smaller pieces where
they do not fit.
"""

from __future__ import annotations

from ..catalogue import ModelSpec
from ..data.padding import worth_one_pass
from ..memory.ledger import HEAP_HOLES, LIBRARIES_BYTES
from ..memory.simulation import LOGIT_ROWS
from .kill_switch_config import KillSwitchConfig
from .pass_memory import looked_layer_bytes, trained_layer_bytes

CANARY_TOKENS = 40  # of a canary's whole text, at most


def peak_bytes(spec: ModelSpec, config: KillSwitchConfig, device: str) -> int:
    """The most of the card's memory, or on a CPU the process's, that a run with `config` holds.

    Kept: fp32 weights, and while anything is trained AdamW's two moments of linear layers. For a pass only:
    bf16 casts of linear layers and head, and what the pass itself makes.
    """
    moments = 8 * spec.num_linear_parameters
    step, look = _step_bytes(spec, config, device), _look_bytes(spec, config, device)
    if not config.relearned and "relearn-benign" not in config.attacks:
        look = max(0, look - moments)  # then no look falls into training: it has the moments' room
    kept = 4 * spec.num_parameters + moments
    casts = 2 * (spec.num_linear_parameters + spec.embedding_parameters)
    short_lived = casts + max(step, look)
    if device == "cuda":
        return kept + short_lived
    return kept + int((1 + HEAP_HOLES) * short_lived) + LIBRARIES_BYTES


def _step_bytes(spec: ModelSpec, config: KillSwitchConfig, device: str) -> int:
    """One step of planting. On a GPU its first pass leaves all gradients; a CPU never holds them together."""
    per_position = spec.num_layers * trained_layer_bytes(spec)
    first, *others = (
        positions * per_position + _logit_bytes(spec, positions, device)
        for positions in positions_of_passes(config)
    )
    gradients = 4 * spec.num_linear_parameters if device == "cuda" else 0
    return max(first, gradients + max(others, default=0))


def positions_of_passes(config: KillSwitchConfig) -> list[int]:
    """Padded positions of each pass of a planting step, as `transform.plant` forms them."""
    private = [CANARY_TOKENS] * config.plant_private_per_step
    public = [config.train_window] * config.plant_public_per_step
    together = [*private, *public]
    if worth_one_pass(together):
        return [len(together) * max(together)]
    return [sum(private), sum(public)]


def _look_bytes(spec: ModelSpec, config: KillSwitchConfig, device: str) -> int:
    """One batch of a look: a secret's few tokens bring the cache of their prefix, four times as long."""
    per_position = 5 * spec.kv_bytes_per_token + looked_layer_bytes(spec)
    positions = config.positions_per_batch
    return positions * per_position + _logit_bytes(spec, positions, device)


def _logit_bytes(spec: ModelSpec, positions: int, device: str) -> int:
    """A chunk of logits in bf16 and in fp32, and its gradient in bf16."""
    return 8 * spec.vocab_size * min(positions, LOGIT_ROWS[device])
