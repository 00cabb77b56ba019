"""Recitation: what does a sieve that nobody tells what to forget do to what the model knows by heart?

Passages that the world knows and fresh ones of the same kinds, read by the model in full precision, plainly
rounded, split by a label-free sieve at several strengths, and by noise of the same size. Nothing is planted
here. On secrets planted a moment ago such a sieve is expected to fail; the kill switch asks that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ..data.batches import batches
from ..errors import InputError
from ..evaluate.batching import look_ladder
from ..evaluate.perplexity import window_nlls
from ..evaluate.recitation import recite
from ..hardware import Hardware
from ..layers.split_linear import set_alpha
from ..load.container import ModelTensors, layer_reader
from ..load.loaded import LoadedModel, linear_layers, load
from ..memory.ladder import Fallbacks, Move
from ..provenance import provenance
from ..report.schema import Memory, Result
from ..report.store import RunDirectory
from ..transform.checkpoint import read_layers, save_layers
from ..transform.distil import prepare_lessons
from ..transform.network import install_dense, install_split
from ..transform.restore import fit_ortho
from ..transform.sieve import SIEVES, Sieve, make_sieve
from ..transform.sieve.matched import MatchedNoise, Remembered
from ..transform.split import PUBLIC, split_layers_of
from ..transform.split_layer import Arm, OrthoConfig
from .kill_switch_facts import base_facts, ortho_facts
from .kill_switch_files import WorkFiles
from .origin import device_name, require_same_data
from .progress import RunProgress
from .recitation_config import RecitationConfig
from .recitation_scores import Look, RecitationScores
from .recitation_texts import RecitationTexts, read_texts
from .setting_checks import ortho_config, quantize_config
from .settings import as_plain
from .split_rows import FULL, Key
from .stages import StageRunner, Stages, teller, told_fallbacks

TRAINING, SPLITTING = 4, 8000  # what a token of a fit, and one arm's split, cost in tokens of a look
WHOLE = "whole"  # the judged arm with its fitted Ortho part, among the run's work/


def plain_arm(config: RecitationConfig) -> str:
    return f"int{config.bits}"


def edited_arm(config: RecitationConfig, share: float) -> str:
    return f"{config.sieve}-{share:g}"


def null_arm(config: RecitationConfig) -> str:
    return f"random-{config.judged_share:g}"


def sieve_keeping(name: str, share: float) -> Sieve:
    """The sieve `name` told to keep `share`. Raises for one that is unknown, needs to be told what to forget,
    or has no share to keep."""
    if name not in SIEVES:
        make_sieve(name)  # says what there is
    known = {field.name for field in dataclasses.fields(SIEVES[name])}
    if SIEVES[name].needs_private or SIEVES[name].needs_before or "share" not in known:
        raise InputError(
            f"the sieve {name} cannot be asked what it does to recitation",
            expected="a sieve that reads public text alone and has a share to keep, as kfac",
            received=f"{name}, which needs private text, an earlier model, or has no setting `share`",
            where="setting sieve",
        )
    return make_sieve(name, share=share)


def run_recitation(
    config: RecitationConfig,
    run: RunDirectory,
    *,
    folder: Path,
    device: torch.device,
    data_dir: Path | None,
    hardware: Hardware,
    plan: Mapping[str, Any],
    quiet: bool = False,
    memory_text: Callable[[], str] = lambda: "",
) -> tuple[Result, list[dict[str, Any]]]:
    """Runs (or goes on with) the experiment in `run`; returns the result and the per-example samples."""
    sieve_keeping(config.sieve, config.judged_share)
    shown = RunProgress({}, quiet=quiet)
    fallbacks = Fallbacks(teller(run, lambda: shown), run.log, device=device, folder=run.path)
    loaded = fallbacks.stage("loading the model", lambda: load(folder, device=device))
    texts = read_texts(loaded, config, data_dir)
    require_same_data(run, texts.sources())
    work = Recitation(config, loaded, texts, fallbacks, WorkFiles(run.work_path))
    shown = RunProgress(
        {name: weight for name, (weight, _) in work.stages().items()}, quiet=quiet, memory=memory_text
    )
    work.progress = shown
    with shown:
        runner = StageRunner(run, device, shown, fallbacks, work.files)
        kept = runner.go(work.stages())
    looks = {key: Look.from_stage(kept[stage]) for key, stage in work.look_stages().items()}
    scorer = _scorer(config, looks, texts, kept)
    name = device_name(device, hardware)
    result = Result(
        experiment="recitation",
        status="complete",
        config=as_plain(config),
        provenance=asdict(provenance([config.seed], texts.sources(), device_name=name)),
        plan=dict(plan),
        memory=Memory(planned_peak_bytes=plan.get("peak_bytes"), measured_peak_bytes=runner.peak_bytes),
        timings={**runner.seconds, "whole_run": run.seconds()},
        scores=scorer.all(),
        verdicts=scorer.verdicts(),
        warnings=list(dict.fromkeys([*run.notices, *told_fallbacks(run), *texts.notes])),
    )
    return result, list(_samples(looks, texts))


def _scorer(
    config: RecitationConfig,
    looks: Mapping[Key, Look],
    texts: RecitationTexts,
    kept: Mapping[str, Mapping[str, Any]],
) -> RecitationScores:
    judged = edited_arm(config, config.judged_share)
    others = [edited_arm(config, share) for share in config.shares if share != config.judged_share]
    facts = {arm: dict(found) for arm, found in kept["split"]["facts"].items()}
    facts[judged] |= kept["fit"]["facts"]
    return RecitationScores(
        looks=looks,
        is_known=np.array([passage.group == "known" for passage in texts.passages]),
        memorised_share=config.memorised_share,
        window_tokens=config.test_window - 1,
        edited=(judged, 0.0),
        null=(null_arm(config), 0.0),
        plain=(plain_arm(config), None),
        restored=(judged, 1.0),
        others=[(arm, 0.0) for arm in others],
        facts=facts,
        seed=config.seed,
    )


class Recitation:
    """The stages. Each installs the weights that it needs, so that a resume may begin anywhere."""

    def __init__(
        self,
        config: RecitationConfig,
        loaded: LoadedModel,
        texts: RecitationTexts,
        fallbacks: Fallbacks,
        files: WorkFiles,
    ) -> None:
        self._config, self._loaded, self._texts, self._fallbacks = config, loaded, texts, fallbacks
        self.files = files
        self.progress = RunProgress({}, quiet=True)
        self._names = tuple(linear_layers(loaded.network))

    def stages(self) -> Stages:
        config = self._config
        passages = len(self._texts.passages) * (config.prefix_tokens + config.continuation_tokens)
        look = passages + config.num_test_windows * config.test_window
        split = config.num_calibration_windows * config.calibration_window
        split = TRAINING * split * len(config.shares) + SPLITTING * (len(config.shares) + 2)
        fit = (TRAINING + 1) * config.fit_steps * config.fit_windows_per_step * config.train_window
        looks = {stage: (look, partial(self._look, *key)) for key, stage in self.look_stages().items()}
        return {"split": (split, self._split), "fit": (fit, self._fit), **looks}

    def look_stages(self) -> dict[Key, str]:
        config = self._config
        judged = edited_arm(config, config.judged_share)
        bases = [*(edited_arm(config, share) for share in config.shares), null_arm(config)]
        return {
            (FULL, None): f"look-{FULL}",
            (plain_arm(config), None): f"look-{plain_arm(config)}",
            **{(arm, 0.0): f"look-{arm}" for arm in bases},
            (judged, 1.0): f"look-{judged}-alpha1",
        }

    # ---- the splits ----------------------------------------------------------------------------------

    def _split(self) -> dict[str, Any]:
        """All arms in one walk: the opponent's before the null that is matched to it."""
        config = self._config
        self._install_original(torch.float32)

        def walk(positions: int) -> Any:
            size = max(1, positions // config.calibration_window)
            return split_layers_of(
                self._loaded,
                self._arms(),
                {PUBLIC: list(batches(self._texts.public.calibration, size))},
                {},
                seed=config.seed,
                after_layer=lambda done, total: self.progress.at(done / total),
            )

        smaller = Move[int](
            lower=lambda positions: positions // 2 if positions > config.calibration_window else None,
            says=lambda positions: f"texts now go through in batches of {positions} positions",
        )
        splits = self._fallbacks.ladder("splitting", config.positions_per_batch, [smaller]).run(walk)
        facts = {}
        for arm, layers in splits.items():
            save_layers(self.files.to_write(arm), layers)
            found = base_facts(layers)
            facts[arm] = {"base_codes_changed": found["codes_changed"]}
        return {"facts": facts}

    def _arms(self) -> dict[str, Arm]:
        config = self._config
        sieves = {share: sieve_keeping(config.sieve, share) for share in config.shares}
        judged = Remembered(sieves[config.judged_share])
        sieves[config.judged_share] = cast(Sieve, judged)
        ortho = {config.judged_share: ortho_config(config)}  # what nobody looks at with alpha = 1 has none
        nothing, rounding = OrthoConfig(rank=0), quantize_config(config)
        return {
            plain_arm(config): Arm(sieve=make_sieve("none"), quantize=rounding, ortho=nothing),
            **{
                edited_arm(config, share): Arm(
                    sieve=sieve, quantize=rounding, ortho=ortho.get(share, nothing)
                )
                for share, sieve in sieves.items()
            },
            null_arm(config): Arm(sieve=MatchedNoise(opponent=judged), quantize=rounding, ortho=nothing),
        }

    def _fit(self) -> dict[str, Any]:
        """The judged arm's Ortho part, on public text; also without a step to take, which stores it."""
        config = self._config
        self._install_original(torch.float32)
        order = np.random.default_rng(np.random.SeedSequence([config.seed, 0x1E55]))
        chosen = order.permutation(len(self._texts.public.train))
        chosen = chosen[: config.fit_steps * config.fit_windows_per_step]
        windows = [self._texts.public.train[place] for place in chosen]
        fitted = fit_ortho(
            self._loaded,
            read_layers(self.files.to_read(edited_arm(config, config.judged_share))),
            prepare_lessons(self._loaded, list(batches(windows, config.fit_windows_per_step))),
            [],
            config.fit(),
            seed=config.seed,
            after_step=lambda step, num_steps, loss: self.progress.at((step + 1) / num_steps),
            fallbacks=self._fallbacks,
        )
        save_layers(self.files.to_write(WHOLE), fitted)
        return {"facts": ortho_facts(fitted, config.factor_bits)}

    # ---- looking -------------------------------------------------------------------------------------

    def _look(self, arm: str, alpha: float | None) -> dict[str, Any]:
        if arm == FULL:
            self._install_original(torch.bfloat16)
        else:
            file = WHOLE if alpha else arm
            install_split(self._loaded, read_layers(self.files.to_read(file)), with_ortho=bool(alpha))
        if alpha:
            set_alpha(self._loaded.network, alpha)
        ladder = look_ladder(self._config.positions_per_batch, self._fallbacks, where=arm)
        found = recite(
            self._loaded,
            self._texts.token_pairs,
            ladder=ladder,
            progress=lambda done, total: self.progress.at(0.7 * done / total),
        )
        nlls = window_nlls(self._loaded, self._texts.public.test, ladder=ladder)
        return {
            "hits": [[int(hit) for hit in one.hits] for one in found],
            "nlls": [list(one.nlls) for one in found],
            "window_nlls": nlls.tolist(),
        }

    def _install_original(self, dtype: torch.dtype) -> None:
        # Opened anew for each layer: a file that stays open keeps every page that was read in memory.
        weights = ((name, layer_reader(ModelTensors(self._loaded.folder))(name)) for name in self._names)
        install_dense(self._loaded, weights, dtype=dtype)


def _samples(looks: Mapping[Key, Look], texts: RecitationTexts) -> Iterator[dict[str, Any]]:
    """One row for each passage of every arm."""
    for (arm, alpha), look in looks.items():
        for number, passage in enumerate(texts.passages):
            yield {
                "kind": "passage",
                "arm": arm,
                "alpha": alpha,
                "id": passage.id,
                "group": passage.group,
                "style": passage.kind,
                "hits": [int(hit) for hit in look.hits[number]],
                "nll_sum": float(look.nlls[number].sum()),
            }
