"""Making one seed's splits: all arms in one walk, then for each its scales and its Ortho part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data.batches import TokenBatch, TokenSequence, batches
from ..load.loaded import LoadedModel
from ..memory.ladder import Fallbacks, Move
from ..transform.distil import Lesson, prepare_lessons
from ..transform.fit_scales import fit_scales
from ..transform.restore import fit_ortho
from ..transform.sieve import make_sieve
from ..transform.split import PUBLIC, SplitTimes, split_layers_of
from ..transform.split_layer import Arm, OrthoConfig
from .kill_switch_config import KillSwitchConfig
from .kill_switch_facts import base_facts, ortho_facts
from .kill_switch_pools import ORIGINAL, REFERENCE
from .kill_switch_texts import Texts
from .kill_switch_weights import Layers, SeedWeights
from .setting_checks import quantize_config
from .sieve_settings import sieve_settings

FILTERS = ("wiener", "random", "wrong-set", "look-alike")  # arms whose M is a Wiener filter's
PRIVATE = "private"  # what a sieve is calibrated on; two arms have a set of their own, under their names
OWN_SET = ("wrong-set", "look-alike")
# Sieves that ask the loss what the model has learnt are shown the trained canaries alone: look-alikes, which
# it has not learnt, would have by far the larger gradients.
CALIBRATION = "calibration"
LOSS_GUIDED = ("fisher-contrast", "natural-gradient", "subnet")
SETS_LEVEL = ("natural-gradient", "subnet")
PRIVATE_BATCH = 64  # texts


@dataclass
class Splits:
    """The splits of one seed; each method is a stage's work and returns what the stage keeps of it."""

    seed: int
    config: KillSwitchConfig
    loaded: LoadedModel
    texts: Texts
    weights: SeedWeights
    after_step: Callable[[int, int, float], None]
    fallbacks: Fallbacks
    _lessons: list[Lesson] = field(default_factory=list)

    @property
    def arms(self) -> list[str]:
        """The reference's Base is Q(W_reference), which is what `isolated` makes, in every quantiser."""
        return list(dict.fromkeys([*self.config.sieves, "isolated"]))

    def split(
        self, texts: Mapping[str, Sequence[TokenSequence]], after_layer: Callable[[int, int], None]
    ) -> dict[str, Any]:
        """Every arm. `texts` by the arms' sets: PRIVATE, CALIBRATION, and those of OWN_SET that there are.

        The facts hold each arm's own seconds, `split_seconds`, without the walk that all arms share.
        """
        config = self.config
        self.weights.install_planted()
        arms = {name: self._arm(name, texts) for name in self.arms}
        used = {arm.private_set for arm in arms.values()} | {arm.control_set for arm in arms.values()}
        times = SplitTimes()
        before = {ORIGINAL: self.weights.original, REFERENCE: self.weights.reference()}

        def walk(positions: int) -> dict[str, Layers]:
            private_batch = max(1, PRIVATE_BATCH * positions // config.positions_per_batch)
            text_sets = {
                name: list(batches(texts[name], private_batch))
                for name in texts
                if name in used and texts[name]
            }
            public_batch = max(1, positions // config.calibration_window)
            text_sets[PUBLIC] = list(batches(self.texts.calibration, public_batch))
            return split_layers_of(
                self.loaded,
                arms,
                text_sets,
                before,
                seed=self.seed,
                after_layer=after_layer,
                times=times,
                fallbacks=self.fallbacks,
            )

        smaller = Move[int](
            lower=lambda positions: positions // 2 if positions > config.calibration_window else None,
            says=lambda positions: f"texts now go through in batches of {positions} positions",
        )
        splits = self.fallbacks.ladder("splitting", config.positions_per_batch, [smaller]).run(walk)
        facts = {}
        for arm, layers in splits.items():
            self.weights.save_rounded(arm, layers)
            facts[arm] = base_facts(layers, self.weights.bias_bytes())
            facts[arm] |= {"split_seconds": times.arm_seconds[arm]}
            if arm == "hessian" and arm in config.restored:  # its Ortho part is what the sieve chose
                facts[arm] |= ortho_facts(layers, config.factor_bits)
        return {"facts": facts, "walk_seconds": times.walk_seconds}

    def _arm(self, name: str, texts: Mapping[str, Sequence[TokenSequence]]) -> Arm:
        private = name if name in OWN_SET else CALIBRATION if name in LOSS_GUIDED else PRIVATE
        # Never the controls that are measured. Texts of the planted templates, or else of the other kind.
        control = next((own for own in reversed(OWN_SET) if texts.get(own)), None)
        return Arm(
            sieve=make_sieve(name, **_settings(self.config, name)),
            private_set=private,
            control_set=control if name in SETS_LEVEL else None,
            before_set=REFERENCE if name == "isolated" else ORIGINAL,
            quantize=quantize_config(self.config),
            # What nobody will look at with alpha = 1 gets no Ortho part.
            ortho=self.config.ortho(name) if name in self.config.restored else OrthoConfig(rank=0),
            keep_unrounded=self.config.scale_fit_steps > 0,
        )

    def fit_scales(self, arm: str) -> dict[str, Any]:
        """Every arm alike. `hessian` itself stays plain INT4, which the others are held against; with its
        scales fitted it is looked at as an arm of its own."""
        config = self.config
        fitted = fit_scales(
            self.loaded,
            self.weights.rounded(arm),
            self.weights.unrounded(arm),
            self._public(config.scale_fit_steps, config.scale_fit_windows_per_step, 0x5CA1),
            config.scale_fit(),
            seed=self.seed,
            after_step=self.after_step,
            fallbacks=self.fallbacks,
        )
        self.weights.save_fitted(arm, fitted)
        return {}

    def restore(self, arm: str, private: Sequence[TokenSequence]) -> dict[str, Any]:
        """Fits the Ortho part on all of `private`: who keeps it has all private data; only the sieve is held
        to the calibration half."""
        config = self.config
        lessons = self._prepared_lessons()
        size = config.fit_private_per_step
        fitted = fit_ortho(
            self.loaded,
            self.weights.layers(arm),
            lessons,
            [private[start : start + size] for start in range(0, len(private), size)],
            config.fit(),
            seed=self.seed,
            after_step=self.after_step,
            fallbacks=self.fallbacks,
        )
        self.weights.save_restored(arm, fitted)
        return {"facts": {arm: ortho_facts(fitted, config.factor_bits)}}

    def _prepared_lessons(self) -> list[Lesson]:
        """The planted model's answers; the same for every arm, so taken once a process."""
        if not self._lessons:
            self.weights.install_planted()
            public = self._public(self.config.fit_steps, self.config.fit_public_per_step, 0x1E55)
            self._lessons = prepare_lessons(self.loaded, public)
        return self._lessons

    def _public(self, num_steps: int, windows_per_step: int, purpose: int) -> list[TokenBatch]:
        """Batches of training windows drawn at random, no more than `num_steps` need."""
        generator = np.random.default_rng(np.random.SeedSequence([self.seed, purpose]))
        chosen = generator.permutation(len(self.texts.train))[: num_steps * windows_per_step]
        return list(batches([self.texts.train[i] for i in chosen], windows_per_step))


def _settings(config: KillSwitchConfig, name: str) -> dict[str, Any]:
    """Wiener's settings hold for what it is held against too, but for what that is given itself."""
    given = sieve_settings(config.sieve_settings)
    shared = {"noise_weight": config.noise_weight} | given.get("wiener", {}) if name in FILTERS else {}
    return shared | given.get(name, {})
