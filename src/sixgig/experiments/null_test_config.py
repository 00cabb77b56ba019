"""Settings of the null test and its presets, checked without torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .setting_checks import SPLIT_LEAST, not_positive, quantiser_faults, refuse, too_small

if TYPE_CHECKING:
    from ..transform.restore import FitConfig

_LEAST = SPLIT_LEAST | {
    "window_tokens": 2,
    "stride": 1,
    "num_windows": 2,  # intervals are drawn over them
    "num_mmlu": 0,
    "num_mmlu_subjects": 1,
    "fit_window": 2,
    "fit_steps": 0,
    "fit_windows_per_step": 1,
    "compared_tokens": 1,
    "positions_per_batch": 64,
}


@dataclass(frozen=True, kw_only=True)
class NullTestConfig:
    """Everything that decides the numbers. `None` as a count stands for all there is."""

    model: str = "smollm2-135m-instruct"
    preset: str = "cpu"
    seed: int = 0  # draws the questions and the order of the fit

    # What is read. Without overlap (stride null) this is the quantisation papers' protocol.
    window_tokens: int = 2048
    stride: int | None = None
    num_windows: int | None = None
    num_mmlu: int | None = None  # questions; 0 leaves MMLU out
    num_mmlu_subjects: int | None = None
    compared_tokens: int = 256  # whose logits are compared bit by bit

    # The Base, Q(W), and an Ortho part of what rounding took away.
    bits: int = 4
    group_size: int = 64
    quantiser: str = "rtn"
    rank: int = 16
    sparse_share: float = 0.005
    factor_bits: int = 8
    calibration_window: int = 256
    num_calibration_windows: int = 32
    fit_window: int = 256
    fit_steps: int = 80
    fit_learning_rate: float = 5e-4
    fit_windows_per_step: int = 4

    # Machine.
    positions_per_batch: int = 8192

    def __post_init__(self) -> None:
        faults = [*quantiser_faults(self), *too_small(self, _LEAST)]
        faults += not_positive(self, ("fit_learning_rate",))
        if self.stride is not None and self.stride > self.window_tokens:
            faults.append(f"stride must be at most window_tokens, not {self.stride}")
        if self.compared_tokens > self.window_tokens:
            faults.append(f"compared_tokens must be at most window_tokens, not {self.compared_tokens}")
        if self.num_mmlu == 1:
            faults.append("num_mmlu must be 0 or at least 2: one answer has no interval")
        refuse(faults)

    def fit(self) -> FitConfig:
        from ..transform.restore import FitConfig

        return FitConfig(
            num_steps=self.fit_steps, learning_rate=self.fit_learning_rate, factor_bits=self.factor_bits
        )


_CPU = NullTestConfig(
    preset="cpu",
    window_tokens=512,
    num_windows=12,
    num_mmlu=24,
    num_mmlu_subjects=6,
    num_calibration_windows=6,
    fit_steps=16,
    fit_windows_per_step=1,
    positions_per_batch=2048,
)
_CARD = NullTestConfig(preset="8g", num_mmlu=2850)

NULL_TEST_PRESETS: dict[str, NullTestConfig] = {
    "tiny": replace(
        _CPU,
        preset="tiny",
        window_tokens=256,
        num_windows=4,
        num_mmlu=6,
        num_mmlu_subjects=2,
        num_calibration_windows=2,
        fit_steps=2,
        compared_tokens=64,
    ),
    "cpu": _CPU,
    "4g": replace(_CARD, preset="4g", num_mmlu=570, positions_per_batch=4096),
    "6g": replace(_CARD, preset="6g", num_mmlu=1140),
    "8g": _CARD,
    "full": NullTestConfig(preset="full", fit_steps=160, positions_per_batch=32768),
}
