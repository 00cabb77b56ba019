"""Settings of the recitation experiment and its presets, checked without torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .setting_checks import SPLIT_LEAST, not_positive, quantiser_faults, refuse, too_small

if TYPE_CHECKING:
    from ..transform.restore import FitConfig

_LEAST = SPLIT_LEAST | {
    "prefix_tokens": 1,
    "continuation_tokens": 4,
    "num_fresh": 2,
    "num_known": 2,
    "test_window": 2,
    "num_test_windows": 2,  # intervals are drawn over them
    "train_window": 2,
    "fit_steps": 0,
    "fit_windows_per_step": 1,
    "positions_per_batch": 64,
}


@dataclass(frozen=True, kw_only=True)
class RecitationConfig:
    """Everything that decides the numbers. `None` as a count stands for all there is."""

    model: str = "smollm2-135m-instruct"
    preset: str = "cpu"
    seed: int = 0  # draws the null's noise and the order of the fit

    # The sieve, and the shares of curvature that it keeps; one of them decides, as the paper's own does.
    sieve: str = "kfac"
    shares: tuple[float, ...] = (0.9, 0.8, 0.6)
    judged_share: float = 0.6

    # Passages. What counts as memorised is chosen on the first half of the continuation and judged on the
    # second, or chance alone would make the chosen ones fall back.
    prefix_tokens: int = 20
    continuation_tokens: int = 32
    memorised_share: float = 0.75  # of the first half's tokens, in full precision
    num_known: int | None = None
    num_fresh: int | None = None

    # The Base, and an Ortho part of what the sieve and rounding took away.
    bits: int = 4
    group_size: int = 64
    quantiser: str = "rtn"
    rank: int = 16
    sparse_share: float = 0.0
    factor_bits: int = 8
    calibration_window: int = 256
    num_calibration_windows: int = 64
    fit_steps: int = 80
    fit_learning_rate: float = 5e-4
    fit_windows_per_step: int = 4

    # Public text.
    train_window: int = 256
    num_train_windows: int | None = None
    test_window: int = 512
    num_test_windows: int = 128

    # Machine.
    positions_per_batch: int = 8192

    def __post_init__(self) -> None:
        faults = [*quantiser_faults(self), *too_small(self, _LEAST)]
        faults += not_positive(self, ("fit_learning_rate",))
        if not self.shares or any(not 0 < share <= 1 for share in self.shares):
            faults.append(f"shares must be above 0 and at most 1, not {', '.join(map(str, self.shares))}")
        if len(set(self.shares)) < len(self.shares):
            faults.append("shares names one more than once")
        if self.judged_share not in self.shares:
            faults.append(f"judged_share must be one of shares, not {self.judged_share}")
        if not 0 < self.memorised_share <= 1:
            faults.append(f"memorised_share must be above 0 and at most 1, not {self.memorised_share}")
        if self.continuation_tokens % 2:
            faults.append(f"continuation_tokens must be even, for two halves, not {self.continuation_tokens}")
        refuse(faults)

    def fit(self) -> FitConfig:
        from ..transform.restore import FitConfig

        return FitConfig(
            num_steps=self.fit_steps, learning_rate=self.fit_learning_rate, factor_bits=self.factor_bits
        )


_CPU = RecitationConfig(
    preset="cpu",
    shares=(0.6,),
    num_known=100,
    num_fresh=30,
    num_calibration_windows=8,
    fit_steps=0,
    test_window=128,
    num_test_windows=16,
    positions_per_batch=2048,
)
_CARD = RecitationConfig(preset="8g")

RECITATION_PRESETS: dict[str, RecitationConfig] = {
    "tiny": replace(
        _CPU,
        preset="tiny",
        num_known=40,
        num_fresh=12,
        num_calibration_windows=2,
        num_test_windows=8,
    ),
    "cpu": _CPU,
    "4g": replace(_CARD, preset="4g", positions_per_batch=4096),
    "6g": replace(_CARD, preset="6g"),
    "8g": _CARD,
    "full": replace(
        _CARD,
        preset="full",
        shares=(0.95, 0.9, 0.8, 0.7, 0.6, 0.5),
        num_calibration_windows=256,
        positions_per_batch=32768,
    ),
}
