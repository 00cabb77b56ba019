"""One seed of dual-dp: the kill switch's planting, splitting and restoring, then looks through noise.

plant -> split -> fit scales -> for each sieve: restore, turn alpha down, add noise
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..evaluate.noise import install_noisy
from ..evaluate.observation import Look, Observation
from ..layers.split_linear import set_alpha
from ..transform.network import install_split
from .dual_dp_config import DualDpConfig
from .dual_dp_planted import adopt
from .kill_switch_seed import SeedRun

SHOWN = ("heldout", "control")  # what a look takes in: both have the same templates

Stages = dict[str, tuple[float, Callable[[], dict[str, Any]]]]


def noise_arm(sieve: str, way: str) -> str:
    """The arm's name in observations and scores; the sieve's own is the model without noise."""
    return f"{sieve}-noise-{way}"


def noise_condition(sigma: float, draw: int | None = None) -> str:
    """A sigma's name, of all draws or of one."""
    return f"sigma-{sigma:g}" if draw is None else f"sigma-{sigma:g}-draw-{draw}"


class DualDpSeed:
    """Stages of its own on top of a `SeedRun`, which does what the kill switch does and keeps all stages."""

    def __init__(self, config: DualDpConfig, seed: SeedRun) -> None:
        self.config, self.seed = config, seed

    def stages(self) -> Stages:
        """name -> (weight in tokens through the model, what to do)."""
        config = self.config
        probes = 16 * (config.num_heldout + config.num_probed_controls) * (config.num_decoys + 1)
        look = probes + config.num_test_windows * config.test_window
        stages = self._restored_stages()
        for sieve in config.sieves:
            stages[f"alpha-{sieve}"] = (len(config.alphas) * look, partial(self._turn_down, sieve))
            for way in config.ways:
                cost = len(config.sigmas(way)) * config.num_draws * look
                stages[f"noise-{way}-{sieve}"] = (cost, partial(self._add_noise, sieve, way))
        return stages

    def _restored_stages(self) -> Stages:
        """Those of the kill switch that make weights; or in their place another run's are taken over."""
        sieves = self.config.sieves
        if self.config.planted is not None:
            folder = Path(self.config.planted)
            return {
                f"restore-{sieve}": (0.0, partial(adopt, folder, self.seed.seed, sieve, self.seed.files))
                for sieve in sieves
            }
        making = ("plant", "train-reference", "split")
        making += tuple(f"{step}-{sieve}" for sieve in sieves for step in ("fit-scales", "restore"))
        return {name: stage for name, stage in self.seed.stages().items() if name in making}

    # ---- looking -------------------------------------------------------------------------------------

    def _turn_down(self, sieve: str) -> dict[str, Any]:
        """Without noise: from the whole model to the Base alone."""
        install_split(self.seed.loaded, self.seed.weights.layers(sieve, restored=True), with_ortho=True)
        seen = []
        for number, alpha in enumerate(self.config.alphas):
            set_alpha(self.seed.loaded.network, alpha)
            seen.append(self._observed(sieve, alpha, "plain", (number, len(self.config.alphas))))
        return _kept(seen)

    def _add_noise(self, sieve: str, way: str) -> dict[str, Any]:
        layers = self.seed.weights.layers(sieve, restored=True)
        sigmas, num_draws = self.config.sigmas(way), self.config.num_draws
        points = [(sigma, draw) for sigma in sigmas for draw in range(num_draws)]
        seen = []
        for number, (sigma, draw) in enumerate(points):
            install_noisy(self.seed.loaded, layers, way, sigma, seed=self.seed.seed, draw=draw)
            condition = noise_condition(sigma, draw)
            seen.append(self._observed(noise_arm(sieve, way), 1.0, condition, (number, len(points))))
        return _kept(seen)

    def _look(self) -> Look:
        """As the kill switch looks at alpha above 0, at the two groups that are compared."""
        look = self.seed.looks.quick()
        canaries = [canary for canary in look.canaries if canary.group in SHOWN]
        ids = {canary.id for canary in canaries}
        return replace(
            look,
            canaries=canaries,
            probes={name: probe for name, probe in look.probes.items() if name in ids},
        )

    def _observed(self, arm: str, alpha: float, condition: str, part: tuple[int, int]) -> Observation:
        number, of = part
        return self.seed.observer.observe(
            self.seed.loaded,
            self._look(),
            seed=self.seed.seed,
            arm=arm,
            alpha=alpha,
            condition=condition,
            progress=lambda share: self.seed.progress.at((number + share) / of),
        )


def _kept(seen: list[Observation]) -> dict[str, Any]:
    return {"observations": [one.to_json_value() for one in seen]}
