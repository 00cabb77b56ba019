"""Settings of the performance experiment and its presets, checked without torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..environment import require_bitsandbytes
from .setting_checks import SPLIT_LEAST, not_positive, quantiser_faults, refuse, too_small

_LEAST = SPLIT_LEAST | {
    "prompt_tokens": 2,
    "tokens_per_round": 2,
    "num_rounds": 2,  # intervals are drawn over them
    "num_warmup_rounds": 1,
    "num_energy_rounds": 0,
}


@dataclass(frozen=True, kw_only=True)
class PerformanceConfig:
    """Everything that decides what is timed. Sequences are single: this is decoding at batch 1."""

    model: str = "smollm2-135m-instruct"
    preset: str = "cpu"
    seed: int = 0  # of the bootstrap, and of the split

    # What is timed: in every round each arm reads the same prompt and then writes greedily.
    prompt_tokens: int = 512
    tokens_per_round: int = 64
    num_rounds: int = 40
    num_warmup_rounds: int = 3
    num_energy_rounds: int = 3  # 0: energy is not measured
    energy_seconds: float = 2.0  # the least that one reading of a card's energy counter spans
    bandwidth_seconds: float = 0.5

    # The Base, Q(W), and an Ortho part of what rounding took away; its values decide no time, so no fit.
    bits: int = 4
    group_size: int = 64
    quantiser: str = "rtn"
    rank: int = 16
    sparse_share: float = 0.005
    factor_bits: int = 8
    calibration_window: int = 128
    num_calibration_windows: int = 4

    # One more arm: the model as bitsandbytes quantises it, in 4 or 8 bits; 0: none.
    bitsandbytes_bits: int = 0

    def __post_init__(self) -> None:
        faults = [*quantiser_faults(self), *_bitsandbytes_faults(self), *too_small(self, _LEAST)]
        refuse([*faults, *not_positive(self, ("energy_seconds", "bandwidth_seconds"))])

    @property
    def context_tokens(self) -> int:
        """What a cache must hold: the prompt, what is written, and the tokens that open a round."""
        return self.prompt_tokens + self.tokens_per_round + 2


def require_packages(config: PerformanceConfig) -> None:
    """Raises NotAvailableError where `config` asks for a package that is not installed."""
    if config.bitsandbytes_bits:
        require_bitsandbytes()


def _bitsandbytes_faults(config: PerformanceConfig) -> Iterator[str]:
    if config.bitsandbytes_bits not in (0, 4, 8):
        yield f"bitsandbytes_bits must be 0 (none), 4 or 8, not {config.bitsandbytes_bits}"


_CPU = PerformanceConfig(
    preset="cpu",
    prompt_tokens=32,
    tokens_per_round=12,
    num_rounds=20,
    num_warmup_rounds=1,
    num_calibration_windows=2,
)
_CARD = PerformanceConfig(preset="8g")

PERFORMANCE_PRESETS: dict[str, PerformanceConfig] = {
    "tiny": replace(
        _CPU,
        preset="tiny",
        prompt_tokens=8,
        tokens_per_round=3,
        num_rounds=3,
        num_calibration_windows=1,
        calibration_window=64,
        bandwidth_seconds=0.05,
    ),
    "cpu": _CPU,
    "4g": replace(_CARD, preset="4g", prompt_tokens=256),
    "6g": replace(_CARD, preset="6g"),
    "8g": _CARD,
    "full": PerformanceConfig(preset="full", num_rounds=100, tokens_per_round=128),
}
