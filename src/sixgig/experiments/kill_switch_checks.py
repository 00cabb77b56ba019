"""What a kill-switch configuration must hold, checked before anything is loaded: every fault at once.

A wrong word or a size of 0 would else show after minutes of training, a seed or an attack named twice would
count the same canaries twice, and an arm without its Ortho part would be judged with its switch on.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

from ..errors import InputError, UnknownNameError
from ..numerics.bits import SUPPORTED_BITS
from ..transform.sieve import SIEVES

_NAMES: dict[str, Collection[str]] = {
    "restored": tuple(SIEVES),  # the reference is looked at as a Base alone
    "relearned": (*SIEVES, "reference"),
    "attacked": (*SIEVES, "reference"),
}
_ONE_OF: dict[str, Collection[Any]] = {
    "quantiser": ("rtn", "gptq"),
    "bits": SUPPORTED_BITS,
    "factor_bits": (8, 16),
}
_NEVER_TWICE = ("seeds", "sieves", "alphas", "attacks", "relearn_steps", "fit_groups")
_AT_LEAST = {
    **dict.fromkeys(("num_probed_controls", "num_probed_controls_plain"), 6),
    **dict.fromkeys(("train_window", "calibration_window", "test_window"), 2),
    **dict.fromkeys(("plant_private_per_step", "plant_public_per_step", "num_calibration_windows"), 1),
    **dict.fromkeys(("fit_public_per_step", "fit_private_per_step", "relearn_batch", "group_size"), 1),
    "positions_per_batch": 64,
    **dict.fromkeys(("rank", "fit_steps", "scale_fit_steps"), 0),
    "scale_fit_windows_per_step": 1,
}
_OTHER_TEMPLATE = ("num_heldout_other", "num_control_other")
_MIN_OTHER = 6  # two a family: a canary alone in its family has no spread to draw an interval from
# Which list's entry works on which canaries; without any, most would fail once planting is done.
_TEXTS_OF = (
    ("sieves", "wrong-set", "num_wrong_set"),
    ("sieves", "look-alike", "num_look_alike"),
    ("sieve_groups", "look_alike", "num_look_alike"),
    ("attacks", "relearn-benign", "num_look_alike"),
)
_SHARES = ("sparse_share", "hessian_share", "private_share")
_POSITIVE = (
    *("plant_learning_rate", "fit_learning_rate", "scale_fit_learning_rate", "relearn_learning_rate"),
    "noise_weight",
)


def check_settings(config: Any) -> None:
    """Raises UnknownNameError for an arm that is none, else InputError naming every fault."""
    for key, known in _NAMES.items():
        for name in getattr(config, key):
            if name not in known:
                raise UnknownNameError("sieve", name, known, where=key)
    config.canary_plan()  # refuses negative counts and repetitions of 0
    checks = (_words, _lists, _arms, _texts, _ortho_parts, _numbers)
    faults = [fault for check in checks for fault in check(config)]
    if faults:
        raise InputError("settings that cannot be used: " + "; ".join(faults))


def _words(config: Any) -> Iterator[str]:
    for key, allowed in _ONE_OF.items():
        value = getattr(config, key)
        if value not in allowed:
            yield f"{key} must be {' or '.join(map(str, allowed))}, not {value}"


def _lists(config: Any) -> Iterator[str]:
    for key in _NEVER_TWICE:
        values = getattr(config, key)
        twice = sorted({str(value) for value in values if values.count(value) > 1})
        if twice:
            yield f"{key} names {', '.join(twice)} more than once"
    if not {0.0, 1.0} <= set(config.alphas):
        yield f"alphas must hold 0 and 1, not {', '.join(map(str, config.alphas))}"
    if not config.relearn_steps or min(config.relearn_steps) < 1:
        yield "relearn_steps must be counts of 1 or more"
    if any(seed < 0 for seed in config.seeds):
        yield "seeds must be 0 or more"


def _arms(config: Any) -> Iterator[str]:
    """Only arms that are split can be restored, relearned or attacked; others would be left out unsaid."""
    split = (*config.sieves, "reference")
    for key in _NAMES:
        absent = ", ".join(name for name in dict.fromkeys(getattr(config, key)) if name not in split)
        if absent:
            yield (
                f"sieves must hold {absent} while {key} does, not {', '.join(config.sieves)} alone: "
                f"add what is missing, or leave it out of {key}"
            )


def _texts(config: Any) -> Iterator[str]:
    if not config.sieve_groups:
        yield "sieve_groups must hold calibration or look_alike, not nothing: the sieves learn from them"
    for key, name, count in _TEXTS_OF:
        if name in getattr(config, key) and getattr(config, count) < 1:
            yield (
                f"{count} must be at least 1 while {key} holds {name}, not {getattr(config, count)}: "
                f"raise it, or leave {name} out of {key}"
            )


def _ortho_parts(config: Any) -> Iterator[str]:
    """Arms outside `restored` get no Ortho part: alpha above 0 would show their Base under another name."""
    restored = ", ".join(config.restored) or "nothing"
    if "wiener" not in config.restored and max(config.alphas, default=0.0) > 0:
        yield f"restored must hold wiener while alphas go above 0, not {restored}: add it"
    if "isolated" in config.sieves and "isolated" not in config.restored:
        yield (
            f"restored must hold isolated while sieves does, not {restored}: add it, or leave it out of "
            "sieves, as it is looked at with alpha = 1 alone"
        )
    if config.scale_fit_steps and config.restored and (config.sparse_share or not config.fit_steps):
        yield (
            "scale_fit_steps changes the Base that the Ortho part was first made for: set sparse_share to 0 "
            "and fit_steps to 1 or more, so that the Ortho part is fitted anew, or scale_fit_steps to 0"
        )


def _numbers(config: Any) -> Iterator[str]:
    for key, least in _AT_LEAST.items():
        if getattr(config, key) < least:
            yield f"{key} must be at least {least}, not {getattr(config, key)}"
    others = [getattr(config, key) for key in _OTHER_TEMPLATE]
    if any(others) and min(others) < _MIN_OTHER:
        yield (
            f"{' and '.join(_OTHER_TEMPLATE)} must both be 0 or both be at least {_MIN_OTHER}, "
            f"which is two a family, not {others[0]} and {others[1]}"
        )
    if config.num_train_windows is not None and config.num_train_windows < 1:
        yield f"num_train_windows must be at least 1 or null, not {config.num_train_windows}"
    for key in _SHARES:
        if not 0 <= getattr(config, key) <= 1:
            yield f"{key} must be from 0 to 1, not {getattr(config, key)}"
    for key in _POSITIVE:
        if not 0 < getattr(config, key) < math.inf:
            yield f"{key} must be above 0, not {getattr(config, key)}"
    for key in ("noise_share", "fit_private_weight"):
        if not 0 <= getattr(config, key) < math.inf:
            yield f"{key} must be 0 or more, not {getattr(config, key)}"
