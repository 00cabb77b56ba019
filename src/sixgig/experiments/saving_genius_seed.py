"""One seed of saving-genius, stage by stage: plant, look, score every weight, then each arm: fit, look.

Each stage installs the weights that it needs, so that a resume may begin anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.batches import TokenBatch, TokenSequence, batches
from ..evaluate.batching import look_ladder
from ..evaluate.perplexity import sequence_nlls
from ..load.container import ModelTensors, layer_reader
from ..load.loaded import LoadedModel, linear_layers
from ..memory.ladder import Fallbacks, Move
from ..report.store import RunDirectory
from ..transform.checkpoint import read_layers, save_layers, save_weights, weight_reader
from ..transform.distil import prepare_lessons
from ..transform.fisher import sensitivities
from ..transform.fit_sparse import fit_sparse
from ..transform.network import install_dense
from ..transform.plant import PlantConfig, plant
from ..transform.restore import FitConfig, fit_ortho
from ..transform.sieve.hessian import HessianSieve, inverse_hessian_diagonal
from ..transform.skill import dense_weights, on_cpu
from ..transform.split import PUBLIC
from ..transform.split_layer import LayerSplit
from ..transform.streaming import stream_moments
from .kill_switch_files import WorkFiles
from .progress import RunProgress
from .saving_genius_arms import ArmMaker
from .saving_genius_config import SavingGeniusConfig
from .saving_genius_names import Arm, Score, arms, unfitted
from .saving_genius_tasks import Task
from .saving_genius_texts import PublicTexts
from .split_rows import FULL
from .stages import Stages

TRAINING, ROUNDING = 4, 4000  # what a token of training, and the rounding of an arm, cost in tokens of a look
PLANTED, PUBLIC_SCORE, SKILL_SCORES = "planted", "public-score", "skill-scores"  # files of the seed's work
SUM_TOKENS = 10


class _LearnedError(Exception):
    """The control sums are right: planting ends."""


class GeniusSeed:
    """The work of one seed. `progress` is set by whoever shows it."""

    def __init__(
        self,
        seed: int,
        config: SavingGeniusConfig,
        run: RunDirectory,
        loaded: LoadedModel,
        public: PublicTexts,
        task: Task,
        fallbacks: Fallbacks,
    ) -> None:
        self.seed, self.task = seed, task
        self._config, self._run, self._loaded, self._public = config, run, loaded, public
        self._fallbacks = fallbacks
        self.progress = RunProgress({}, quiet=True)
        self.files = WorkFiles(run.work_path / f"seed{seed}")
        self._names = tuple(linear_layers(loaded.network))
        self._arms = arms(config)

    def stage(self, name: str) -> str:
        return f"seed{self.seed}-{name}"

    def first_stages(self) -> Stages:
        """Up to what the model can do in full precision."""
        found: dict[str, tuple[float, Callable[[], dict[str, Any]]]] = {}
        if self._plants:
            found[self.stage("plant")] = (TRAINING * self._plant_tokens(), self._plant)
        found[self.stage(f"look-{FULL}")] = (self._look_tokens(), self._look_full)
        return found

    def other_stages(self) -> Stages:
        config = self._config
        found: dict[str, tuple[float, Callable[[], dict[str, Any]]]] = {}
        scores = [Score.of(arm.score) for arm in self._arms if arm.score]
        kinds = {score.kind for score in scores}
        if "hessian" in kinds:
            tokens = config.num_calibration_windows * config.calibration_window
            found[self.stage(PUBLIC_SCORE)] = (2 * tokens, self._score_public)
        for skill in self.task.skills if kinds & {"moment", "fisher", "lowrank"} else ():
            tokens = TRAINING * sum(len(one.ids) for one in self.task.calibration(skill))
            points = ("full", "base") if any(score.point != "full" for score in scores) else ("full",)
            for point in points:
                name = f"{SKILL_SCORES}-{skill}-{point}"
                found[self.stage(name)] = (tokens, partial(self._score_skill, skill, point))
        fit = TRAINING * config.fit_steps * self._fit_tokens_per_step()
        for arm in self._arms:
            if arm.fitted:
                found[self.stage(f"fit-{arm.name}")] = (fit, partial(self._fit, arm))
            found[self.stage(f"look-{arm.name}")] = (ROUNDING + self._look_tokens(), partial(self._look, arm))
        return found

    # ---- the skill -----------------------------------------------------------------------------------

    def _plant(self) -> dict[str, Any]:
        """For `plant_steps`, or until as many control sums are right as `plant_until` asks for."""
        config = self._config
        install_dense(self._loaded, self._originals())
        texts, steps = self.task.planted(), config.plant_steps * len(self.task.skills)
        seen: list[tuple[int, float]] = []

        def after_step(step: int, num_steps: int, loss: float) -> None:
            self._stepped(step, num_steps, loss)
            if (step + 1) % config.plant_check_every == 0 or step + 1 == num_steps:
                seen.append((step + 1, self._control_share()))
                self._run.log("control", step=step + 1, right=seen[-1][1])
                if config.plant_until is not None and seen[-1][1] >= config.plant_until:
                    raise _LearnedError

        with suppress(_LearnedError):
            plant(
                self._loaded,
                texts,
                _shown(len(texts), steps * config.plant_sums_per_step, self.seed),
                self._weighted_public(texts),
                PlantConfig(
                    learning_rate=config.plant_learning_rate,
                    private_per_step=config.plant_sums_per_step,
                    public_per_step=config.plant_public_per_step,
                ),
                seed=self.seed,
                after_step=after_step,
                fallbacks=self._fallbacks,
            )
        # As bf16, in which every look computes: full precision is then the very model that is rounded.
        linears = linear_layers(self._loaded.network)
        save_weights(
            self.files.to_write(PLANTED),
            {name: linear.weight.detach().to("cpu", torch.bfloat16) for name, linear in linears.items()},
        )
        return {"control": seen, "num_texts": len(texts)}

    def _control_share(self) -> float:
        """Of control sums that are right; of the worst skill where there are two."""
        ladder = look_ladder(self._config.positions_per_batch, self._fallbacks, where="control")
        return min(float(np.mean(right)) for right in self.task.control("control", ladder).values())

    def _weighted_public(self, texts: Sequence[TokenSequence]) -> list[TokenSequence]:
        """Public windows, weighed so that a step's count `plant_public_weight` times its sums' answers."""
        config = self._config
        answers = config.plant_sums_per_step * sum(sum(one.weights) for one in texts) / len(texts)
        public = config.plant_public_per_step * (config.train_window - 1)
        weight = config.plant_public_weight * answers / public
        return [replace(one, weights=(weight,) * len(one.ids)) for one in self._public.train]

    def _score_public(self) -> dict[str, Any]:
        """1 / diag(H^-1) of every layer's inputs; the layers that share an input each keep it."""
        self._install_full(torch.bfloat16)
        damping = HessianSieve().damping

        def walk(positions: int) -> dict[str, Tensor]:
            size = max(1, positions // self._config.calibration_window)
            texts = list(batches(self._public.calibration, size))
            found: dict[str, Tensor] = {}
            for layer in stream_moments(self._loaded, {PUBLIC: texts}):
                for group, moments in zip(layer.groups, layer.moments, strict=True):
                    inverse_I = inverse_hessian_diagonal(moments[PUBLIC], damping)
                    found |= {f"{name}.hessian": (1 / inverse_I).cpu().clone() for name in group}
                self.progress.at((layer.index + 1) / layer.num_layers)
            return found

        save_weights(
            self.files.to_write(PUBLIC_SCORE),
            self._cut("scoring on public text", self._config.positions_per_batch, walk),
        )
        return {}

    def _score_skill(self, skill: str, point: str) -> dict[str, Any]:
        """E[g^2] and E[x^2] on the skill's calibration texts, of the whole model or of its plain Base."""
        if point == "full":
            self._install_full(torch.bfloat16)
        else:
            plain = dense_weights(self._maker().layers(Arm(bits=self._config.bits)))
            install_dense(self._loaded, plain, dtype=torch.bfloat16)
        texts = self.task.calibration(skill)
        longest = max(len(one.ids) for one in texts)

        def walk(positions: int) -> dict[str, Tensor]:
            groups: list[TokenBatch] = list(batches(texts, max(1, positions // longest)))
            found: dict[str, Tensor] = {}
            for name, one in sensitivities(
                self._loaded,
                groups,
                layers_per_pass=self._config.layers_per_pass,
                after_batch=lambda done, total: self.progress.at(done / total),
            ):
                # bf16 has fp32's range; its 8 bits are enough to rank by.
                found[f"{name}.fisher"] = one.fisher_OI.to("cpu", torch.bfloat16)
                found[f"{name}.moment"] = one.second_moment_I.cpu()
            return found

        found = self._cut("scoring on the skill", self._config.scoring_positions, walk)
        save_weights(self.files.to_write(f"{SKILL_SCORES}-{skill}-{point}"), found)
        return {"num_texts": len(texts)}

    # ---- fits ----------------------------------------------------------------------------------------

    def _fit(self, arm: Arm) -> dict[str, Any]:
        """On the skill's calibration texts, and public text against the whole model."""
        config = self._config
        before = {name: on_cpu(layer) for name, layer in self._maker().layers(unfitted(arm))}
        self._install_full(torch.bfloat16)
        generator = np.random.default_rng(np.random.SeedSequence([self.seed, 0x1E55]))
        public = _drawn(self._public.train, config.fit_steps * config.fit_public_per_step, generator)
        lessons = prepare_lessons(self._loaded, list(batches(public, config.fit_public_per_step)))
        texts = [text for skill in self.task.skills for text in self.task.calibration(skill)]
        drawn = _drawn(texts, config.fit_steps * config.fit_texts_per_step, generator)
        size = config.fit_texts_per_step
        private = [drawn[start : start + size] for start in range(0, len(drawn), size)]
        fit = FitConfig(
            num_steps=config.fit_steps,
            learning_rate=config.fit_learning_rate,
            private_weight=config.fit_private_weight,
            factor_bits=config.factor_bits,
        )
        work = fit_ortho if arm.score == "lowrank" else fit_sparse
        fitted = work(
            self._loaded,
            before,
            lessons,
            private,
            fit,
            seed=self.seed,
            after_step=self._stepped,
            fallbacks=self._fallbacks,
        )
        save_layers(self.files.to_write(f"fitted-{arm.name}"), fitted)
        return {}

    # ---- looking -------------------------------------------------------------------------------------

    def _look_full(self) -> dict[str, Any]:
        self._install_full(torch.bfloat16)
        ladder = look_ladder(self._config.positions_per_batch, self._fallbacks, where=FULL)
        return self._seen(ladder) | {
            "control": self.task.control("control", ladder),
            "calibration": self.task.control("calibration", ladder),
        }

    def _look(self, arm: Arm) -> dict[str, Any]:
        facts: dict[str, float] = {}
        install_dense(
            self._loaded,
            dense_weights(_counted(self._layers(arm), self._config.factor_bits, facts)),
            dtype=torch.bfloat16,
        )
        ladder = look_ladder(self._config.positions_per_batch, self._fallbacks, where=arm.name)
        seen = self._seen(ladder) | {"facts": facts}
        return seen | ({"calibration": self.task.control("calibration", ladder)} if arm.fitted else {})

    def _layers(self, arm: Arm) -> Iterator[tuple[str, LayerSplit]]:
        if arm.fitted:
            return iter(read_layers(self.files.to_read(f"fitted-{arm.name}")).items())
        return self._maker().layers(arm)

    def _seen(self, ladder: Any) -> dict[str, Any]:
        nlls = sequence_nlls(
            self._loaded,
            self._public.test,
            ladder=ladder,
            progress=lambda done, total: self.progress.at(0.5 * done / total),
        )
        right = self.task.judge(ladder, lambda share: self.progress.at(0.5 + 0.5 * share))
        return {"nlls": nlls.tolist(), "right": right}

    # --------------------------------------------------------------------------------------------------

    @property
    def _plants(self) -> bool:
        return self._config.task == "addition"

    def _originals(self) -> Iterator[tuple[str, Tensor]]:
        # Opened anew for each layer: a file that stays open keeps every page that was read in memory.
        return ((name, layer_reader(ModelTensors(self._loaded.folder))(name)) for name in self._names)

    def _whole(self) -> Callable[[str], Tensor]:
        if self._plants:
            return weight_reader(self.files.to_read(PLANTED))
        return lambda name: layer_reader(ModelTensors(self._loaded.folder))(name)

    def _install_full(self, dtype: torch.dtype) -> None:
        read = self._whole()
        install_dense(self._loaded, ((name, read(name).float()) for name in self._names), dtype=dtype)

    def _maker(self) -> ArmMaker:
        return ArmMaker(
            config=self._config,
            seed=self.seed,
            layer_names=self._names,
            read_weight=self._whole(),
            read_importance=self._importance,
            device=self._loaded.device,
        )

    def _importance(self, score: Score, name: str) -> Tensor:
        """[O, I] or [I]; calibrated on the task's first skill unless the score says otherwise."""
        if score.kind == "hessian":
            return weight_reader(self.files.to_read(PUBLIC_SCORE), ".hessian")(name)
        skill = self.task.skills[1 if score.on_invented else 0]

        def at(point: str) -> Tensor:
            file = self.files.to_read(f"{SKILL_SCORES}-{skill}-{point}")
            return weight_reader(file, f".{score.kind}")(name).float()

        return (at("full") + at("base")) / 2 if score.point == "both" else at(score.point)

    def _cut(self, what: str, positions: int, walk: Callable[[int], Any]) -> Any:
        smaller = Move[int](
            lower=lambda positions: positions // 2 if positions > 64 else None,
            says=lambda positions: f"texts now go through in batches of {positions} positions",
        )
        return self._fallbacks.ladder(what, positions, [smaller]).run(walk)

    def _stepped(self, step: int, num_steps: int, loss: float) -> None:
        self.progress.at((step + 1) / num_steps)
        self._run.log("step", step=step + 1, num_steps=num_steps, loss=round(loss, 5))

    def _plant_tokens(self) -> int:
        config = self._config
        a_step = SUM_TOKENS * config.plant_sums_per_step + config.train_window * config.plant_public_per_step
        return config.plant_steps * len(self.task.skills) * a_step

    def _fit_tokens_per_step(self) -> int:
        config = self._config
        texts = self.task.calibration(self.task.skills[0])
        mean = sum(len(one.ids) for one in texts) // len(texts)
        return mean * config.fit_texts_per_step + config.train_window * config.fit_public_per_step

    def _look_tokens(self) -> float:
        judged = SUM_TOKENS * len(self.task.ids) * len(self.task.measures)
        return sum(len(one.ids) for one in self._public.test) + (
            judged if self._plants else 100 * SUM_TOKENS * len(self.task.ids)
        )


def _counted(
    layers: Iterator[tuple[str, LayerSplit]], factor_bits: int, facts: dict[str, float]
) -> Iterator[tuple[str, LayerSplit]]:
    """The layers as they pass; `facts` holds their sizes when the last has passed."""
    weights = bits = base = 0
    for name, layer in layers:
        weights += layer.base.codes_OI.numel()
        bits += layer.ortho.storage_bits(factor_bits) if _has_ortho(layer) else 0
        base += layer.base.storage_bits
        yield name, layer
    facts |= {"base_bytes": base // 8, "ortho_bytes": bits // 8, "ortho_bits_per_weight": bits / weights}


def _has_ortho(layer: LayerSplit) -> bool:
    return layer.ortho.sparse is not None or layer.ortho.up_Or.shape[1] > 0


def _shown(num_texts: int, num_shown: int, seed: int) -> list[int]:
    """How often each text is shown, nearly alike: `num_shown` in all."""
    order = np.random.default_rng(np.random.SeedSequence([seed, 0x5E7])).permutation(num_texts)
    often = np.full(num_texts, num_shown // num_texts)
    often[order[: num_shown % num_texts]] += 1
    return [int(count) for count in often]


def _drawn(texts: Sequence[TokenSequence], count: int, generator: np.random.Generator) -> list[TokenSequence]:
    """`count` texts, every one before any comes again."""
    rounds = -(-count // len(texts))
    order = np.concatenate([generator.permutation(len(texts)) for _ in range(rounds)])[:count]
    return [texts[int(place)] for place in order]
