"""The null test: does a split that removes nothing cost anything?

Four looks at the same weights on the same texts: in full precision; rounded, with no Ortho part anywhere
in memory; and split with the sieve `none`, so that the Base is that very rounding, with its switch at 0
and at 1. At 0 the split must be the rounded model to the last bit; at 1 it shows what the Ortho part is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.batches import batches
from ..evaluate.batching import look_ladder
from ..evaluate.logits import difference, logits_of
from ..evaluate.multiple_choice import answer_questions
from ..evaluate.perplexity import sequence_nlls
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
from ..transform.sieve import make_sieve
from ..transform.split import PUBLIC, split_layers_of
from ..transform.split_layer import Arm
from .kill_switch_facts import base_facts, ortho_facts, stored_bias_bytes
from .kill_switch_files import WorkFiles
from .null_test_config import NullTestConfig
from .null_test_scores import Look, NullTestScores
from .null_test_texts import NullTestTexts, read_texts
from .origin import device_name, own_text_notes, require_same_data
from .progress import RunProgress
from .setting_checks import ortho_config, quantize_config
from .settings import as_plain
from .split_rows import FULL, SPLIT, Key
from .stages import StageRunner, Stages, teller, told_fallbacks

TRAINING, SPLITTING = 4, 8000  # what a token of a fit, and the split, cost in tokens of a look
ROUNDED, FITTED = "rounded", "fitted"  # files of the run's work/


def plain_arm(config: NullTestConfig) -> str:
    return f"int{config.bits}"


def run_null_test(
    config: NullTestConfig,
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
    shown = RunProgress({}, quiet=quiet)
    fallbacks = Fallbacks(teller(run, lambda: shown), run.log, device=device, folder=run.path)
    loaded = fallbacks.stage("loading the model", lambda: load(folder, device=device))
    texts = read_texts(loaded, config, data_dir)
    require_same_data(run, texts.sources())
    work = NullTest(config, run, loaded, texts, fallbacks)
    shown = RunProgress(
        {name: weight for name, (weight, _) in work.stages().items()}, quiet=quiet, memory=memory_text
    )
    work.progress = shown
    with shown:
        runner = StageRunner(run, device, shown, fallbacks, work.files)
        kept = runner.go(work.stages())
    looks = {key: Look.from_stage(kept[stage]) for key, stage in work.look_stages().items()}
    scorer = NullTestScores(
        looks=looks,
        num_scored=texts.test.num_scored,
        plain_arm=plain_arm(config),
        compared=kept["compare-logits"],
        seed=config.seed,
        facts=kept["fit"]["facts"],
        subject_sizes={one.name: one.num_all for one in texts.mmlu.subjects} if texts.mmlu else {},
    )
    name = device_name(device, hardware)
    result = Result(
        experiment="null-test",
        status="complete",
        config=as_plain(config),
        provenance=asdict(provenance([config.seed], texts.sources(), device_name=name)),
        plan=dict(plan),
        memory=Memory(planned_peak_bytes=plan.get("peak_bytes"), measured_peak_bytes=runner.peak_bytes),
        timings={**runner.seconds, "whole_run": run.seconds()},
        scores=scorer.all(),
        verdicts=scorer.verdicts(),
        warnings=list(dict.fromkeys([*run.notices, *_warnings(run, texts), *scorer.warnings()])),
        exp2_null_test=scorer.seed_block(config.bits),
    )
    return result, list(_samples(looks, texts))


class NullTest:
    """The stages. Each installs the weights that it needs, so that a resume may begin anywhere."""

    def __init__(
        self,
        config: NullTestConfig,
        run: RunDirectory,
        loaded: LoadedModel,
        texts: NullTestTexts,
        fallbacks: Fallbacks,
    ) -> None:
        self._config, self._run, self._loaded, self._texts = config, run, loaded, texts
        self._fallbacks = fallbacks
        self.progress = RunProgress({}, quiet=True)
        self.files = WorkFiles(run.work_path)
        self._names = tuple(linear_layers(loaded.network))

    def stages(self) -> Stages:
        config = self._config
        tokens = sum(len(one.ids) for one in self._texts.test.sequences)
        look = tokens + sum(one.num_tokens for one in self._texts.prompts)
        split = config.num_calibration_windows * config.calibration_window + SPLITTING
        fit = (TRAINING + 1) * config.fit_steps * config.fit_windows_per_step * config.fit_window
        looks = {stage: (look, partial(self._look, *key)) for key, stage in self.look_stages().items()}
        return {
            "split": (split, self._split),
            "fit": (fit, self._fit),
            "compare-logits": (3 * config.compared_tokens, self._compare_logits),
            **looks,
        }

    def look_stages(self) -> dict[Key, str]:
        plain = plain_arm(self._config)
        return {
            (FULL, None): f"look-{FULL}",
            (plain, None): f"look-{plain}",
            (SPLIT, 0.0): "look-alpha0",
            (SPLIT, 1.0): "look-alpha1",
        }

    # ---- the split -----------------------------------------------------------------------------------

    def _split(self) -> dict[str, Any]:
        config = self._config
        self._install_original(torch.float32)
        arm = Arm(sieve=make_sieve("none"), quantize=quantize_config(config), ortho=ortho_config(config))

        def walk(positions: int) -> Any:
            size = max(1, positions // config.calibration_window)
            return split_layers_of(
                self._loaded,
                {SPLIT: arm},
                {PUBLIC: list(batches(self._texts.calibration, size))},
                {},
                seed=config.seed,
                after_layer=lambda done, total: self.progress.at(done / total),
            )[SPLIT]

        smaller = Move[int](
            lower=lambda positions: positions // 2 if positions > config.calibration_window else None,
            says=lambda positions: f"texts now go through in batches of {positions} positions",
        )
        layers = self._fallbacks.ladder("splitting", config.positions_per_batch, [smaller]).run(walk)
        save_layers(self.files.to_write(ROUNDED), layers)
        return {}

    def _fit(self) -> dict[str, Any]:
        """Also without a step to take: what is looked at has the width at which it is stored."""
        config = self._config
        self._install_original(torch.float32)
        order = np.random.default_rng(np.random.SeedSequence([config.seed, 0x1E55]))
        chosen = order.permutation(len(self._texts.train))[: config.fit_steps * config.fit_windows_per_step]
        windows = [self._texts.train[place] for place in chosen]
        public = list(batches(windows, config.fit_windows_per_step))
        fitted = fit_ortho(
            self._loaded,
            read_layers(self.files.to_read(ROUNDED)),
            prepare_lessons(self._loaded, public),
            [],
            config.fit(),
            seed=config.seed,
            after_step=lambda step, num_steps, loss: self.progress.at((step + 1) / num_steps),
            fallbacks=self._fallbacks,
        )
        save_layers(self.files.to_write(FITTED), fitted)
        bias_bytes = stored_bias_bytes(ModelTensors(self._loaded.folder), self._names)
        return {"facts": base_facts(fitted, bias_bytes) | ortho_facts(fitted, config.factor_bits)}

    # ---- looking -------------------------------------------------------------------------------------

    def _compare_logits(self) -> dict[str, Any]:
        """The rounded model's logits against the split's, at both ends of the switch."""
        self._install_split(with_ortho=False)
        plain_TV = self._logits()
        self._install_split(with_ortho=True)
        base_TV = self._logits()
        set_alpha(self._loaded.network, 1.0)
        whole_TV = self._logits()
        return {
            "num_tokens": len(plain_TV),
            "num_logits": plain_TV.numel(),
            "alpha0": difference(base_TV, plain_TV),
            "alpha1": difference(whole_TV, plain_TV),
        }

    def _logits(self) -> Tensor:
        return logits_of(self._loaded, self._texts.test.sequences[0].ids[: self._config.compared_tokens])

    def _look(self, arm: str, alpha: float | None) -> dict[str, Any]:
        if arm == FULL:
            self._install_original(torch.bfloat16)
        else:
            self._install_split(with_ortho=arm == SPLIT)
        if alpha:
            set_alpha(self._loaded.network, alpha)
        ladder = look_ladder(self._config.positions_per_batch, self._fallbacks, where=arm)
        tokens = sum(len(one.ids) for one in self._texts.test.sequences)
        share = tokens / (tokens + sum(one.num_tokens for one in self._texts.prompts))
        nlls = sequence_nlls(
            self._loaded,
            self._texts.test.sequences,
            ladder=ladder,
            progress=lambda done, total: self.progress.at(share * done / total),
        )
        answers = answer_questions(
            self._loaded,
            self._texts.prompts,
            ladder=ladder,
            progress=lambda done: self.progress.at(share + (1 - share) * done),
        )
        return {"nlls": nlls.tolist(), "answers": [asdict(one) for one in answers]}

    # --------------------------------------------------------------------------------------------------

    def _install_original(self, dtype: torch.dtype) -> None:
        # Opened anew for each layer: a file that stays open keeps every page that was read in memory.
        weights = ((name, layer_reader(ModelTensors(self._loaded.folder))(name)) for name in self._names)
        install_dense(self._loaded, weights, dtype=dtype)

    def _install_split(self, *, with_ortho: bool) -> None:
        install_split(self._loaded, read_layers(self.files.to_read(FITTED)), with_ortho=with_ortho)


def _warnings(run: RunDirectory, texts: NullTestTexts) -> list[str]:
    found = [*told_fallbacks(run), *texts.notes]
    found += own_text_notes(texts.corpora)
    return found


def _samples(looks: Mapping[Key, Look], texts: NullTestTexts) -> Iterator[dict[str, Any]]:
    """One row for each window and each question of every arm."""
    for (arm, alpha), look in looks.items():
        place = {"arm": arm, "alpha": alpha}
        for number, (nll, count) in enumerate(zip(look.nlls, texts.test.num_scored, strict=True)):
            yield {
                "kind": "window",
                **place,
                "id": f"test-{number:04d}",
                "nll_sum": float(nll),
                "num_tokens": count,
            }
        for one in look.answers:
            yield {
                "kind": "question",
                **place,
                **asdict(one),
                "chosen": one.chosen,
                "is_right": one.is_right,
            }
