"""One seed of the kill-switch experiment, stage by stage; every finished stage is kept and never done twice.

original -> plant -> reference -> full precision -> split -> fit scales -> for each arm: restore, look, attack
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..data.batches import TokenSequence, whole_text
from ..data.canaries import Canary, make_canaries, paraphrased_prefix
from ..evaluate.attacks import disturbed_prefix, relearn, requantised, shaken
from ..evaluate.observation import Look, Observation, Observer
from ..hardware import peak_rss_bytes
from ..layers.split_linear import set_alpha
from ..load.loaded import LoadedModel
from ..memory.ladder import Fallbacks
from ..memory.readings import used_share
from ..memory.spill import SpillWatch, spills_silently
from ..report.store import RunDirectory
from ..transform.network import install_dense, install_split
from ..transform.plant import plant
from .kill_switch_config import KillSwitchConfig
from .kill_switch_facts import with_making_seconds
from .kill_switch_files import WorkFiles
from .kill_switch_looks import Looks, families_in_turn
from .kill_switch_pools import FULL, INT4_FITTED, ORIGINAL, REFERENCE
from .kill_switch_splits import CALIBRATION, PRIVATE, Splits
from .kill_switch_texts import Texts
from .kill_switch_weights import SeedWeights
from .progress import RunProgress

# For the progress bar: what a token in a training step, and one arm's split, cost in tokens of a look on two
# CPU cores; the time left is mended as the run goes.
TRAINING, SPLITTING = 4, 8000


@dataclass
class SeedRun:
    """The work of one seed. `observations` collects every look, from this process or an earlier one."""

    seed: int
    config: KillSwitchConfig
    run: RunDirectory
    loaded: LoadedModel
    texts: Texts
    progress: RunProgress
    observer: Observer
    layer_names: tuple[str, ...]
    observations: list[Observation] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)  # per arm: sizes, codes changed
    seconds: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=lambda: {"peak_rss_bytes": 0, "peak_device_bytes": 0})

    def __post_init__(self) -> None:
        self.canaries = make_canaries(self.config.canary_plan(), self.seed)
        self.groups: dict[str, list[Canary]] = {}
        for canary in families_in_turn(self.canaries):
            self.groups.setdefault(canary.group, []).append(canary)
        self.fallbacks = Fallbacks(
            self._announce, self.run.log, device=self.loaded.device, folder=self.run.path
        )
        self.observer.fallbacks = self.fallbacks
        device = self.loaded.device
        self._spill_watch = SpillWatch(
            self._announce,
            lambda: used_share(device),
            may_spill=device.type == "cuda" and spills_silently(),
        )
        self.looks = Looks(self.config, self.loaded, self.canaries, self.texts.test, self.seed)
        self.files = WorkFiles(self.run.work_path / f"seed{self.seed}")
        self.weights = SeedWeights(self.config, self.loaded, self.files, self.layer_names)
        self._splits = Splits(
            seed=self.seed,
            config=self.config,
            loaded=self.loaded,
            texts=self.texts,
            weights=self.weights,
            after_step=self._step_progress,
            fallbacks=self.fallbacks,
        )

    # ---- the stages, in order ------------------------------------------------------------------------

    def stages(self) -> dict[str, tuple[float, Callable[[], Any]]]:
        """name -> (weight in tokens through the model, what to do)."""
        config = self.config
        plain, quick = self.looks.num_tokens(plain=True), self.looks.num_tokens(plain=False)
        steps = self._plant_steps()
        public_tokens = config.train_window * config.plant_public_per_step
        step_tokens = TRAINING * (30 * config.plant_private_per_step + public_tokens)
        public_tokens = config.train_window * config.fit_public_per_step
        fit_tokens = TRAINING * (30 * config.fit_private_per_step + public_tokens)
        relearn_tokens = TRAINING * 30 * config.relearn_batch * max(config.relearn_steps)
        split_tokens = config.num_calibration_windows * config.calibration_window
        split_tokens += SPLITTING * len(self._splits.arms)
        stages: dict[str, tuple[float, Callable[[], Any]]] = {
            "original": (self.looks.num_tokens(plain=True, probes=False), self._observe_original),
            "plant": (steps * step_tokens, self._plant),
        }
        if config.train_reference:
            stages["train-reference"] = (steps * step_tokens, self._train_reference)
        stages["look-full_precision"] = (plain, self._observe_full_precision)
        stages["split"] = (split_tokens, self._split)
        scale_tokens = TRAINING * config.train_window * config.scale_fit_windows_per_step
        for arm in self._splits.arms if config.scale_fit_steps else ():
            cost = config.scale_fit_steps * scale_tokens
            stages[f"fit-scales-{arm}"] = (cost, lambda arm=arm: self._splits.fit_scales(arm))
        if config.scale_fit_steps and "hessian" in config.sieves:
            stages[f"look-{INT4_FITTED}"] = (plain, self._observe_int4_fitted)
        for arm in (REFERENCE, *config.sieves):
            restored = arm in config.restored
            if restored and arm != "hessian":
                stages[f"restore-{arm}"] = (config.fit_steps * fit_tokens, lambda arm=arm: self._restore(arm))
            if arm == "isolated":
                alphas = [1.0]  # its alpha = 0 is the reference's Base, looked at there
            elif arm == "wiener":
                alphas = list(config.alphas)
            else:
                alphas = [0.0, 1.0] if restored else [0.0]
            cost = plain + quick * (len(alphas) - 1)
            stages[f"look-{arm}"] = (cost, lambda arm=arm, a=alphas: self._observe_arm(arm, a))
            if arm in config.relearned:
                cost = relearn_tokens + quick * len(config.relearn_steps)
                stages[f"relearn-{arm}"] = (cost, lambda arm=arm: self._relearn(arm))
            if arm in config.attacked and config.attacks:
                cost = quick * len(config.attacks)
                stages[f"attack-{arm}"] = (cost, lambda arm=arm: self._attack(arm))
        return stages

    def go(self, stages: Mapping[str, tuple[float, Callable[[], Any]]] | None = None) -> None:
        """Does every stage that an earlier process has not finished; `stages` are others than its own."""
        for name, (_, work) in (self.stages() if stages is None else stages).items():
            key = f"seed{self.seed}-{name}"
            self.progress.begin(key)
            kept = self.run.load_stage(key)
            if kept is None:
                started = time.monotonic()
                value = self.fallbacks.stage(key, work) | {"files": self.files.digests()}
                value |= {"seconds": time.monotonic() - started, **self._peaks_now()}
                kept = self.run.save_stage(key, value)
                self.progress.end()
            else:
                self.files.expect(kept.get("files", {}), self.run.stages_path / f"{key}.json")
                self.progress.end(loaded=True)
            self.seconds[key] = kept["seconds"]
            for peak in self.peaks:
                self.peaks[peak] = max(self.peaks[peak], kept[peak])
            self.observations += [Observation.from_json_value(one) for one in kept.get("observations", ())]
            for arm, fact in kept.get("facts", {}).items():
                self.facts[arm] = {**self.facts.get(arm, {}), **fact}

    def facts_with_seconds(self) -> dict[str, dict[str, float]]:
        return with_making_seconds(self.facts, self.seconds, self.seed)

    def _peaks_now(self) -> dict[str, int]:
        on_device = self.loaded.device.type == "cuda"
        return {
            "peak_rss_bytes": peak_rss_bytes(),
            "peak_device_bytes": torch.cuda.max_memory_allocated() if on_device else 0,
        }

    # ---- training ------------------------------------------------------------------------------------

    def public_epochs(self) -> float:
        """How often planting shows each window of public text."""
        return self._plant_steps() * self.config.plant_public_per_step / len(self.texts.train)

    def _plant_steps(self) -> int:
        shown = sum(canary.repetitions for canary in self.canaries)
        return -(-shown // self.config.plant_private_per_step)

    def _plant(self) -> dict[str, Any]:
        trained = [canary for canary in self.canaries if canary.is_trained]
        self.weights.install_original()
        steps = plant(
            self.loaded,
            [self._whole(canary) for canary in trained],
            [canary.repetitions for canary in trained],
            self.texts.train,
            self.config.plant(),
            seed=self.seed,
            after_step=self._step_progress,
            fallbacks=self.fallbacks,
        )
        self.weights.save_dense("planted")
        return {"num_steps": steps}

    def _train_reference(self) -> dict[str, Any]:
        self.weights.install_original()
        steps = plant(
            self.loaded,
            [],
            [],
            self.texts.train,
            self.config.plant(),
            seed=self.seed,
            num_steps=self._plant_steps(),
            after_step=self._step_progress,
            fallbacks=self.fallbacks,
        )
        self.weights.save_dense("reference")
        return {"num_steps": steps}

    # ---- splitting -----------------------------------------------------------------------------------

    def _split(self) -> dict[str, Any]:
        texts = {
            PRIVATE: [text for group in self.config.sieve_groups for text in self._wholes(group)],
            CALIBRATION: self._wholes("calibration"),
            "wrong-set": self._wholes("wrong_set"),
            "look-alike": self._wholes("look_alike"),
        }
        return self._splits.split(texts, lambda done, total: self.progress.at(done / total))

    def _restore(self, arm: str) -> dict[str, Any]:
        seen = [canary for canary in self.canaries if canary.group in self.config.fit_groups]
        return self._splits.restore(arm, [self._whole(canary) for canary in seen])

    # ---- looking -------------------------------------------------------------------------------------

    def _observe_original(self) -> dict[str, Any]:
        self.weights.install_original(torch.bfloat16)
        return self._observations([self._observed(self.looks.plain(probes=False), ORIGINAL, None)])

    def _observe_full_precision(self) -> dict[str, Any]:
        self.weights.install_planted(torch.bfloat16)
        return self._observations([self._observed(self.looks.plain(), FULL, None)])

    def _observe_int4_fitted(self) -> dict[str, Any]:
        install_split(self.loaded, self.weights.fitted("hessian"), with_ortho=False)
        return self._observations([self._observed(self.looks.plain(), INT4_FITTED, 0.0)])

    def _observe_arm(self, arm: str, alphas: Sequence[float]) -> dict[str, Any]:
        layers = self.weights.layers(arm, restored=max(alphas) > 0)
        install_split(self.loaded, layers, with_ortho=max(alphas) > 0)
        seen = []
        for number, alpha in enumerate(alphas):
            set_alpha(self.loaded.network, alpha)
            look = self.looks.plain() if alpha == 0.0 else self.looks.quick()
            seen.append(self._observed(look, arm, alpha, part=(number, len(alphas))))
        return self._observations(seen)

    def _relearn(self, arm: str) -> dict[str, Any]:
        return self._observations(self._relearned(arm, self._wholes("calibration")))

    def _relearned(
        self,
        arm: str,
        texts: Sequence[TokenSequence],
        name: str = "relearn",
        part: tuple[int, int] = (0, 1),
    ) -> list[Observation]:
        seen: list[Observation] = []
        steps = self.config.relearn_steps
        number, of = part

        def look(step: int) -> None:
            seen.append(
                self._observed(
                    self.looks.quick(windows=False),
                    arm,
                    0.0,
                    f"{name}-{step}",
                    part=(number * len(steps) + len(seen), of * len(steps)),
                )
            )

        relearn(
            self.loaded,
            self.weights.bases(arm),
            texts,
            self.config.relearn(),
            look,
            fallbacks=self.fallbacks,
        )
        return seen

    def _attack(self, arm: str) -> dict[str, Any]:
        seen: list[Observation] = []
        for number, attack in enumerate(self.config.attacks):
            seen += self._attacked(arm, attack, (number, len(self.config.attacks)))
        return self._observations(seen)

    def _attacked(self, arm: str, attack: str, part: tuple[int, int]) -> list[Observation]:
        weights = self.weights.bases(arm)
        look = self.looks.quick(windows=False)
        if attack == "relearn-benign":
            return self._relearned(arm, self._wholes("look_alike"), attack, part)
        if attack.startswith("requantise-int"):
            bits = int(attack.removeprefix("requantise-int"))
            weights = requantised(weights, bits, self.config.group_size)
        elif attack == "noise":
            weights = shaken(weights, self.config.noise_share, self.seed)
        elif attack == "paraphrase":
            look = self.looks.quick(windows=False, wording=paraphrased_prefix)
        elif attack == "prefix-noise":
            look = self.looks.quick(windows=False, wording=disturbed_prefix)
        install_dense(self.loaded, weights)
        return [self._observed(look, arm, 0.0, attack, part=part)]

    def _observed(
        self,
        look: Look,
        arm: str,
        alpha: float | None,
        condition: str = "plain",
        part: tuple[int, int] = (0, 1),
    ) -> Observation:
        number, of = part
        return self.observer.observe(
            self.loaded,
            look,
            seed=self.seed,
            arm=arm,
            alpha=alpha,
            condition=condition,
            progress=lambda share: self.progress.at((number + share) / of),
        )

    # --------------------------------------------------------------------------------------------------

    def _whole(self, canary: Canary) -> TokenSequence:
        parts = (canary.prefix, canary.secret, canary.suffix)
        return whole_text([token for part in parts for token in self.loaded.encode(part)])

    def _wholes(self, group: str) -> list[TokenSequence]:
        return [self._whole(canary) for canary in self.groups.get(group, [])]

    def _observations(self, observations: Iterable[Observation]) -> dict[str, Any]:
        return {"observations": [observation.to_json_value() for observation in observations]}

    def _step_progress(self, step: int, num_steps: int, loss: float) -> None:
        self._spill_watch.step(step)
        self.progress.at((step + 1) / num_steps)
        self.run.log("step", step=step + 1, num_steps=num_steps, loss=round(loss, 5))

    def _announce(self, message: str) -> None:
        self.run.log("fallback", message=message)
        self.progress.note(message)
