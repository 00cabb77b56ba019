"""What dual-dp holds at its widest moment, from sizes alone; nothing is loaded."""

from __future__ import annotations

from ..catalogue import ModelSpec
from . import kill_switch_memory
from .dual_dp_config import DualDpConfig


def peak_bytes(spec: ModelSpec, config: DualDpConfig, device: str) -> int:
    """The kill switch's: a step of planting, with AdamW's moments, is wider than a look at noisy weights,
    which holds a whole and a rounded copy of one layer at a time beside the network. Where planted weights
    are taken from another run this is too much."""
    return kill_switch_memory.peak_bytes(spec, config.kill_switch(), device)
