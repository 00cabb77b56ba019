"""Settings of dual-dp and its presets, checked without torch.

A model is planted, split and restored exactly as the kill switch does it, so those settings keep their names
and their checks; what comes on top is noise.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..errors import UnknownNameError
from .kill_switch_config import KillSwitchConfig
from .presets import PRESETS
from .setting_checks import refuse, too_small

WAYS = ("ortho", "product", "all")
SIEVES = ("wiener", "isolated")

# Of the kill switch: what decides the weights that noise is added to.
WEIGHT_SETTINGS = (
    *("model", "train_window", "num_train_windows", "calibration_window", "num_calibration_windows"),
    *("num_calibration", "num_heldout", "num_heldout_other", "num_control", "num_control_other"),
    *("num_wrong_set", "num_look_alike", "repetitions"),
    *("plant_learning_rate", "plant_private_per_step", "plant_public_per_step", "train_reference"),
    *("sieve_groups", "noise_weight", "bits", "group_size", "quantiser"),
    *("scale_fit_steps", "scale_fit_learning_rate", "scale_fit_windows_per_step"),
    *("rank", "sparse_share", "private_share", "factor_bits", "fit_groups", "fit_steps"),
    *("fit_learning_rate", "fit_private_weight", "fit_public_per_step", "fit_private_per_step"),
)
_LOOK_SETTINGS = ("preset", "seeds", "sieves", "alphas", "num_decoys", "num_probed_controls")
_LOOK_SETTINGS += ("test_window", "num_test_windows", "positions_per_batch")


@dataclass(frozen=True, kw_only=True)
class DualDpConfig:
    """Everything that decides the numbers. Each sigma is a multiple of a matrix's root mean square."""

    model: str
    preset: str
    seeds: tuple[int, ...]

    # Whose whole model noise is added to, how, and how much; `alphas` turn the Ortho part down instead.
    sieves: tuple[str, ...]
    ways: tuple[str, ...]
    sigmas_ortho: tuple[float, ...]
    sigmas_product: tuple[float, ...]
    sigmas_all: tuple[float, ...]
    alphas: tuple[float, ...]
    num_draws: int  # of noise, at every sigma
    planted: str | None = None  # a kill switch's run directory whose weights/ stand in for planting here

    # Of the kill switch: canaries, public text, planting, splitting, restoring.
    num_calibration: int
    num_heldout: int
    num_heldout_other: int
    num_control: int
    num_control_other: int
    num_wrong_set: int
    num_look_alike: int
    repetitions: tuple[int, ...]
    train_window: int
    num_train_windows: int | None
    calibration_window: int
    num_calibration_windows: int
    plant_learning_rate: float
    plant_private_per_step: int
    plant_public_per_step: int
    train_reference: bool
    sieve_groups: tuple[str, ...]
    noise_weight: float  # of the Wiener filter; no noise is added by it
    bits: int
    group_size: int
    quantiser: str
    scale_fit_steps: int
    scale_fit_learning_rate: float
    scale_fit_windows_per_step: int
    rank: int
    sparse_share: float
    private_share: float
    factor_bits: int
    fit_groups: tuple[str, ...]
    fit_steps: int
    fit_learning_rate: float
    fit_private_weight: float
    fit_public_per_step: int
    fit_private_per_step: int

    # Looking.
    num_decoys: int
    num_probed_controls: int
    test_window: int
    num_test_windows: int
    positions_per_batch: int

    def __post_init__(self) -> None:
        for key, known in (("sieves", SIEVES), ("ways", WAYS)):
            for name in getattr(self, key):
                if name not in known:
                    raise UnknownNameError(key.removesuffix("s"), name, known)
        refuse([*too_small(self, {"num_draws": 1}), *self._faults()])
        self.kill_switch()  # its own checks

    def _faults(self) -> Iterator[str]:
        for key in ("ways", "sieves"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                yield f"{key} names one more than once: {', '.join(values)}"
        if not {"ortho", "all"} <= set(self.ways):
            yield f"ways must hold ortho and all, which are compared, not {', '.join(self.ways) or 'nothing'}"
        for way in self.ways:
            sigmas = self.sigmas(way)
            rising = all(a < b for a, b in zip((0.0, *sigmas), sigmas, strict=False))
            if len(sigmas) < 2 or not rising or not math.isfinite(sigmas[-1]):
                yield f"sigmas_{way} must be at least two numbers above 0, each larger than the one before"
        if self.planted is not None and not self.planted.strip():
            yield "planted must be the folder of a kill-switch run, or null"

    def sigmas(self, way: str) -> tuple[float, ...]:
        """Of one way; 0 is not among them, since that is the whole model."""
        return getattr(self, f"sigmas_{way}")

    def kill_switch(self) -> KillSwitchConfig:
        """What plants, splits and restores, and nothing that attacks."""
        kept = {key: getattr(self, key) for key in (*WEIGHT_SETTINGS, *_LOOK_SETTINGS)}
        return KillSwitchConfig(
            **kept,
            restored=self.sieves,
            num_probed_controls_plain=self.num_probed_controls,
            relearned=(),
            attacks=(),
            attacked=(),
        )


def from_kill_switch(config: KillSwitchConfig, **changes: Any) -> DualDpConfig:
    """The settings that `config` shares with dual-dp, and `changes`, which must say the others."""
    names = {field.name for field in dataclasses.fields(DualDpConfig)}
    shared = {key: getattr(config, key) for key in (*WEIGHT_SETTINGS, *_LOOK_SETTINGS) if key in names}
    return DualDpConfig(**(shared | changes))


_GRID: dict[str, Any] = {
    "ways": WAYS,
    # Leakage falls from all to nothing within these (seed 0, which no receipt counts: docs/journal.md).
    "sigmas_ortho": (0.5, 0.75, 1.0, 1.2, 1.4, 1.7, 2.2),
    "sigmas_product": (1.0, 2.0, 2.5, 3.0, 3.5, 4.2, 5.5),
    "sigmas_all": (0.05, 0.08, 0.11, 0.14, 0.17, 0.2, 0.25),
    "alphas": (1.0, 0.7, 0.55, 0.4, 0.3, 0.2, 0.0),
}

# Fewer secrets and look-alikes than the kill switch's `cpu` plants: half of this run's time is looks. Eleven
# decoys leave room above 1 bit, where the criteria lie: seven end at 3 bits, 1.9 above chance.
_CPU = from_kill_switch(
    PRESETS["cpu"],
    sieves=("wiener",),
    **_GRID
    | {
        "ways": ("ortho", "all"),
        "sigmas_ortho": (1.0, 2.0),
        "sigmas_all": (0.15, 0.25),
        "alphas": (1.0, 0.0),
    },
    num_draws=1,
    num_calibration=6,
    num_heldout=9,
    num_look_alike=90,
    num_wrong_set=0,
    num_decoys=11,
    num_probed_controls=9,
    fit_steps=16,
    num_test_windows=6,
)

_FULL = from_kill_switch(
    PRESETS["full"],
    sieves=SIEVES,
    **_GRID,
    num_draws=2,
    num_decoys=99,
    num_probed_controls=102,
    num_test_windows=100,
)

_SMALL_CARD = from_kill_switch(
    PRESETS["6g"],
    sieves=("wiener",),
    **_GRID,
    num_draws=2,
    num_decoys=99,
    num_probed_controls=102,
    num_test_windows=50,
)

DUAL_DP_PRESETS: dict[str, DualDpConfig] = {
    "tiny": replace(
        _CPU,
        preset="tiny",
        sigmas_ortho=(1.0, 4.0),
        sigmas_all=(0.15, 0.35),
        num_test_windows=4,
    ),
    "cpu": _CPU,
    "4g": replace(_SMALL_CARD, preset="4g", positions_per_batch=PRESETS["4g"].positions_per_batch),
    "6g": _SMALL_CARD,
    "8g": replace(
        _SMALL_CARD,
        preset="8g",
        seeds=PRESETS["8g"].seeds,
        num_test_windows=100,
        positions_per_batch=PRESETS["8g"].positions_per_batch,
    ),
    "full": _FULL,
}
