"""The experiments that there are: presets, what each needs of memory, and where its work begins.

Nothing here imports torch: a run is planned and checked without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ..catalogue import ModelSpec
from ..errors import UnknownNameError
from . import (
    dual_dp_memory,
    kill_switch_memory,
    null_test_memory,
    performance_memory,
    recitation_memory,
    saving_genius_memory,
)
from .dual_dp_config import DUAL_DP_PRESETS
from .dual_dp_planted import require_planted
from .null_test_config import NULL_TEST_PRESETS
from .performance_config import PERFORMANCE_PRESETS, require_packages
from .presets import PRESETS
from .recitation_config import RECITATION_PRESETS
from .saving_genius_config import SAVING_GENIUS_PRESETS
from .saving_genius_config import require as require_skill


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """`peak_bytes(spec, config, device)` is what a run holds at most, and `holds` says of what.

    `work` is the function's place, "module:name"; it gives the result and the per-example samples. `require`
    raises NotAvailableError where the settings ask for a package that is not installed.
    """

    summary: str
    presets: Mapping[str, Any]
    peak_bytes: Callable[[ModelSpec, Any, str], int]
    task: str  # of the plan: the widest moment
    holds: str
    work: str
    require: Callable[[Any], None] = lambda config: None

    def preset(self, name: str) -> Any:
        """The preset `name`, or an error with the nearest names."""
        if name not in self.presets:
            raise UnknownNameError("preset", name, self.presets)
        return self.presets[name]

    def load(self) -> Callable[..., Any]:
        """The work itself; imports torch."""
        module, _, name = self.work.partition(":")
        return getattr(import_module(f".{module}", __package__), name)


EXPERIMENTS: dict[str, Experiment] = {
    "kill-switch": Experiment(
        summary="Plants secrets, splits the model, and shows what each part still knows.",
        presets=PRESETS,
        peak_bytes=kill_switch_memory.peak_bytes,
        task="planting",
        holds="fp32 weights, AdamW's moments, passes",
        work="kill_switch:run_kill_switch",
    ),
    "null-test": Experiment(
        summary="Splits without removing anything: what does the split itself cost?",
        presets=NULL_TEST_PRESETS,
        peak_bytes=null_test_memory.peak_bytes,
        task="looking",
        holds="the weights in fp32 or split, passes",
        work="null_test:run_null_test",
    ),
    "performance": Experiment(
        summary="Times decoding in full precision, rounded, and split with the switch off and on.",
        presets=PERFORMANCE_PRESETS,
        peak_bytes=performance_memory.peak_bytes,
        task="decoding",
        holds="the model once for each form that is timed, beside one another",
        work="performance:run_performance",
        require=require_packages,
    ),
    "saving-genius": Experiment(
        summary="Rounds hard, and asks whether a few kept weights save a skill.",
        presets=SAVING_GENIUS_PRESETS,
        peak_bytes=saving_genius_memory.peak_bytes,
        task="planting",
        holds="fp32 weights, AdamW's moments, squared gradients, passes",
        work="saving_genius:run_saving_genius",
        require=require_skill,
    ),
    "dual-dp": Experiment(
        summary="Compares noise on the Ortho part alone with noise on all weights, at equal leakage.",
        presets=DUAL_DP_PRESETS,
        peak_bytes=dual_dp_memory.peak_bytes,
        task="planting",
        holds="fp32 weights, AdamW's moments, passes",
        work="dual_dp:run_dual_dp",
        require=require_planted,
    ),
    "recitation": Experiment(
        summary="Splits with a sieve that is told of no secret: what does it do to texts known by heart?",
        presets=RECITATION_PRESETS,
        peak_bytes=recitation_memory.peak_bytes,
        task="looking",
        holds="the weights in fp32, statistics of a layer, passes",
        work="recitation:run_recitation",
    ),
}
