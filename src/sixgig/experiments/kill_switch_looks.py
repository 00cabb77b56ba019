"""Which canaries a look at a model takes in, and their exposure probes, made once a seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..data.canaries import Canary
from ..evaluate.memorization import exposure_probes
from ..evaluate.observation import Look
from ..evaluate.scoring import Continuations
from ..load.loaded import LoadedModel
from .kill_switch_config import KillSwitchConfig

NEVER_LOOKED_AT = ("wrong_set", "look_alike")


class Looks:
    """The looks of one seed: `plain` takes in every canary, `quick` as many controls as are probed there."""

    def __init__(
        self,
        config: KillSwitchConfig,
        loaded: LoadedModel,
        canaries: Sequence[Canary],
        windows: Sequence[Sequence[int]],
        seed: int,
    ) -> None:
        self._config, self._loaded, self._windows, self._seed = config, loaded, windows, seed
        self._canaries = [canary for canary in canaries if canary.group not in NEVER_LOOKED_AT]
        self._in_turn = families_in_turn(self._canaries)
        self._probes: dict[str, Continuations] = {}

    def plain(self, *, probes: bool = True) -> Look:
        """All canaries and all windows."""
        chosen = self._probed(self._config.num_probed_controls_plain) if probes else []
        return Look(canaries=self._canaries, probes=self._probes_of(chosen), windows=self._windows)

    def quick(self, *, windows: bool = True, wording: Callable[[Canary], str] | None = None) -> Look:
        """The trained canaries and a few controls; `wording` asks for them with another prefix."""
        chosen = self._probed(self._config.num_probed_controls)
        ids = {canary.id for canary in chosen}
        probes = self._probes_of(chosen)
        if wording is not None:
            asked = {canary.id: tuple(self._loaded.encode(wording(canary))) for canary in chosen}
            probes = {name: replace(probe, prefix_ids=asked[name]) for name, probe in probes.items()}
        return Look(
            canaries=[c for c in self._canaries if c.id in ids or c.group == "calibration"],
            probes=probes,
            windows=self._windows if windows else (),
            prefix_of=wording or (lambda canary: canary.prefix),
        )

    def num_tokens(self, *, plain: bool, probes: bool = True) -> int:
        """About how many tokens a look takes, known without making its probes."""
        config = self._config
        controls = config.num_probed_controls_plain if plain else config.num_probed_controls
        probed = config.num_heldout + config.num_heldout_other + controls if probes else 0
        own = 30 * (len(self._canaries) if plain else config.num_calibration + config.num_heldout + controls)
        return 16 * probed * (config.num_decoys + 1) + config.num_test_windows * config.test_window + own

    def _probed(self, num_controls: int) -> list[Canary]:
        limits = {
            "heldout": None,
            "heldout_other": None,
            "control": num_controls,
            "control_other": num_controls,
        }
        return [
            canary
            for group, limit in limits.items()
            for canary in [one for one in self._in_turn if one.group == group][:limit]
        ]

    def _probes_of(self, chosen: Sequence[Canary]) -> dict[str, Continuations]:
        new = [canary for canary in chosen if canary.id not in self._probes]
        made = exposure_probes(self._loaded, new, num_decoys=self._config.num_decoys, seed=self._seed)
        self._probes |= dict(zip([canary.id for canary in new], made, strict=True))
        return {canary.id: self._probes[canary.id] for canary in chosen}


def families_in_turn(canaries: Sequence[Canary]) -> list[Canary]:
    """Every group's families by turns, so that its first few canaries are no single family's."""
    seen: Counter[tuple[str, str]] = Counter()
    turns: list[tuple[int, Canary]] = []
    for canary in canaries:
        turns.append((seen[canary.group, canary.family], canary))
        seen[canary.group, canary.family] += 1
    return [canary for _, canary in sorted(turns, key=lambda turn: turn[0])]
