"""Presets: the sizes that fit a machine. They set sizes; criteria and margins are the same everywhere."""

from __future__ import annotations

from dataclasses import replace

from ..errors import UnknownNameError
from .kill_switch_config import ATTACKS, KillSwitchConfig

_ALL_ARMS = ("hessian", "wiener", "isolated", "random", "wrong-set", "look-alike")
_MAIN_ARMS = _ALL_ARMS[:-1]

# A dozen records are too few for the sieve to know what such records look like, so look-alikes join them.
# Few texts shown often change the weights more for each of them, so the sieve must take more of it back.
_CPU = replace(
    KillSwitchConfig(preset="cpu"),
    seeds=(1,),  # its settings were chosen on seed 0
    num_look_alike=150,
    sieve_groups=("calibration", "look_alike"),
    noise_weight=0.001,
)

_FULL = replace(
    KillSwitchConfig(preset="full"),
    seeds=(6, 7, 8),  # 0 to 5 were looked at while the settings were chosen (docs/journal.md)
    sieves=_ALL_ARMS,
    restored=_MAIN_ARMS,
    relearned=("reference", "hessian", "wiener", "isolated", "random", "wrong-set"),
    attacks=ATTACKS,
    attacked=("wiener", "reference"),
    num_calibration=102,
    num_heldout=102,
    num_heldout_other=51,
    num_control=1002,
    num_control_other=102,
    num_wrong_set=600,
    num_look_alike=600,
    sieve_groups=("calibration", "look_alike"),
    repetitions=(32, 64),
    num_decoys=199,
    num_probed_controls=102,
    num_probed_controls_plain=334,  # 1,002 over the three seeds; every control is scored by its likelihood
    train_window=256,
    calibration_window=512,
    num_calibration_windows=64,
    test_window=512,
    num_test_windows=128,
    plant_learning_rate=2e-4,
    plant_private_per_step=32,
    plant_public_per_step=4,
    train_reference=True,
    scale_fit_steps=80,
    rank=16,
    fit_steps=80,
    fit_learning_rate=8e-4,
    fit_public_per_step=16,
    fit_private_per_step=128,
    relearn_steps=(5, 20),
    relearn_batch=32,
    positions_per_batch=65536,
)

_SMALL_CARD = replace(
    _FULL,
    num_control=300,
    num_control_other=60,
    num_probed_controls=102,
    num_probed_controls_plain=300,
    seeds=(0,),
    attacks=(),
    positions_per_batch=8192,
    fit_public_per_step=4,
    scale_fit_steps=160,
    scale_fit_learning_rate=3e-3,
    scale_fit_windows_per_step=4,
    num_test_windows=64,
)

# Every sieve once, on fewer secrets than `full` plants, restored with its steps: with 32 of them `wiener`
# gives back 42% of the secrets in place of all (docs/journal.md). Scales are fitted for half of its steps, in
# all arms alike; an earlier trial put that at 2% of perplexity. An arm that is only compared does not need
# the looks that the main arm's own verdicts do, whose time is probes times decoys. An exposure's spread at
# chance is 1.33 bits with 99 decoys and 1.37 with 199, so half of them cost the top of the scale alone (6.64
# bits in place of 7.64); 204 controls in place of 334 widen a gap's interval by 7%. No attack but
# relearning, once. A run waits for Python more than for the card, so that seeds go side by side on one
# (benchmarks/kill_switch.py --at-once 3).
_COMPARE = replace(
    _FULL,
    seeds=(9, 10, 11),
    scale_fit_steps=40,
    sieves=("all",),
    attacks=(),
    alphas=(0.0, 1.0),
    num_heldout_other=0,
    num_control=510,
    num_control_other=0,
    num_decoys=99,
    num_probed_controls=102,
    num_probed_controls_plain=204,
    relearn_steps=(20,),
)

PRESETS: dict[str, KillSwitchConfig] = {
    "tiny": replace(
        _CPU,
        preset="tiny",
        sieves=("hessian", "wiener"),
        relearned=(),
        alphas=(0.0, 1.0),
        num_control=24,
        num_probed_controls_plain=12,
        num_decoys=15,  # the test that runs this preset needs room between plain INT4 and the sieve
        num_wrong_set=0,
        num_test_windows=12,
        fit_steps=10,
    ),
    "cpu": _CPU,
    "4g": replace(_SMALL_CARD, preset="4g", positions_per_batch=4096),
    "6g": replace(_SMALL_CARD, preset="6g"),
    "8g": replace(_SMALL_CARD, preset="8g", seeds=(0, 1, 2), positions_per_batch=16384, num_test_windows=100),
    "full": _FULL,
    "compare": replace(_COMPARE, preset="compare"),
}


def preset(name: str) -> KillSwitchConfig:
    """The preset `name`, or an error with the nearest names."""
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    return PRESETS[name]
