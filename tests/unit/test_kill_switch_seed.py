"""One seed on the fake model: all stages, and the promise that a resumed run is the uninterrupted one."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import fake_loaded
from safetensors.torch import save_file

from sixgig.data.corpora import Corpus
from sixgig.errors import IntegrityError, OutOfSpaceError
from sixgig.evaluate.observation import Observation, Observer
from sixgig.experiments import (
    kill_switch_files,
    kill_switch_seed,
    kill_switch_splits,
    kill_switch_weights,
)
from sixgig.experiments.kill_switch_config import ATTACKS, KillSwitchConfig
from sixgig.experiments.kill_switch_scores import Scorer
from sixgig.experiments.kill_switch_seed import SeedRun
from sixgig.experiments.kill_switch_splits import LOSS_GUIDED
from sixgig.experiments.kill_switch_texts import tokenised
from sixgig.experiments.progress import RunProgress
from sixgig.experiments.settings import as_plain
from sixgig.files import sha256_file
from sixgig.load.loaded import LoadedModel, linear_layers
from sixgig.numerics.quantize import dequantize, quantize_rtn
from sixgig.report.store import RunDirectory
from sixgig.transform.checkpoint import read_layers, weight_reader
from sixgig.transform.network import install_dense

SIEVES = ("hessian", "wiener", "isolated", "random", "wrong-set", "look-alike", "none")
SEARCHED = ("input-projection", "natural-gradient", "learned", "fisher-contrast", "subnet", "kfac")
CONFIG = KillSwitchConfig(
    preset="test",
    sieves=SIEVES,
    restored=("wiener", "isolated", "hessian"),
    alphas=(0.0, 0.5, 1.0),
    relearned=("wiener", "reference"),
    attacks=ATTACKS,
    attacked=("wiener", "reference", "hessian"),
    num_calibration=6,
    num_heldout=6,
    num_heldout_other=6,
    num_control=7,
    num_control_other=6,
    num_wrong_set=3,
    num_look_alike=3,
    repetitions=(1, 3),
    num_decoys=7,
    num_probed_controls=6,
    num_probed_controls_plain=7,
    train_window=32,
    num_train_windows=8,
    calibration_window=32,
    num_calibration_windows=4,
    test_window=32,
    num_test_windows=3,
    plant_learning_rate=3e-3,
    train_reference=True,
    group_size=16,
    scale_fit_steps=2,
    scale_fit_windows_per_step=2,
    rank=4,
    fit_steps=2,
    relearn_steps=(1, 2),
    relearn_batch=4,
    relearn_learning_rate=1e-3,
    positions_per_batch=2048,
)
PLAIN = replace(
    CONFIG,
    sieves=("hessian", "wiener"),
    restored=("wiener",),
    relearned=(),
    attacks=(),
    train_reference=False,
    scale_fit_steps=0,
    fit_steps=1,
)


class Interrupted(BaseException):
    """What ends a process in the middle: no `except Exception` may swallow it."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the original weights, as a fetched model has."""
    folder = tmp_path_factory.mktemp("model")
    state = fake_loaded().network.state_dict()
    save_file({name: tensor.clone() for name, tensor in state.items()}, folder / "model.safetensors")
    return folder


def corpora() -> tuple[Corpus, Corpus, Corpus]:
    """Three short texts, none a part of another."""
    texts = ("Rain fell on the tin roof all night. ", "A boat left the quay at dawn. ", "Bread rose slowly. ")
    train, calibration, test = (
        Corpus(name=text[:4], text=text * 16, source="invented", num_rows=1, synthetic=True) for text in texts
    )
    return train, calibration, test


def seed_run(
    run: RunDirectory,
    model_folder: Path,
    config: KillSwitchConfig = CONFIG,
    *,
    seed: int = 0,
    loaded: LoadedModel | None = None,
    layer_names: tuple[str, ...] = (),
    progress: RunProgress | None = None,
) -> SeedRun:
    """A fresh process's view of `run`: the model newly loaded, nothing remembered."""
    loaded = loaded or replace(fake_loaded(), folder=model_folder)
    return SeedRun(
        seed=seed,
        config=config,
        run=run,
        loaded=loaded,
        texts=tokenised(loaded, corpora(), config),
        progress=progress or RunProgress({}, quiet=True),
        observer=Observer(config.positions_per_batch, lambda message: run.log("fallback", message=message)),
        layer_names=layer_names or tuple(linear_layers(loaded.network)),
    )


def gone(
    root: Path, model_folder: Path, config: KillSwitchConfig = CONFIG, **more: Any
) -> tuple[SeedRun, RunDirectory]:
    """A run from its beginning to its end."""
    run = RunDirectory.create(root, "kill-switch", as_plain(config))
    one = seed_run(run, model_folder, config, **more)
    one.go()
    return one, run


class RecordedProgress(RunProgress):
    """Remembers every share of every stage that it was told."""

    def __init__(self) -> None:
        super().__init__({}, quiet=True)
        self.shares: dict[str, list[float]] = {}

    def begin(self, stage: str) -> None:
        self.shares[stage] = []

    def at(self, share: float) -> None:
        list(self.shares.values())[-1].append(share)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> tuple[SeedRun, RunDirectory]:
    """The uninterrupted run that the others are held against; its directory is copied, never changed."""
    torch.set_num_threads(1)
    one, run = gone(tmp_path_factory.mktemp("runs"), model_folder, progress=RecordedProgress())
    run.close()
    return one, run


def copy_of(run: RunDirectory, root: Path) -> RunDirectory:
    shutil.copytree(run.path, root / run.path.name)
    return RunDirectory.open(root / run.path.name)


def places(observations: list[Observation]) -> list[tuple[str, float | None, str]]:
    return [(one.arm, one.alpha, one.condition) for one in observations]


def look(one: SeedRun, arm: str, alpha: float | None, condition: str = "plain") -> Observation:
    (found,) = [o for o in one.observations if (o.arm, o.alpha, o.condition) == (arm, alpha, condition)]
    return found


# ---- what a run looks at -----------------------------------------------------------------------------


def test_every_arm_alpha_and_attack_is_looked_at_once(whole: tuple[SeedRun, RunDirectory]) -> None:
    one, _ = whole
    relearned = [f"{kind}-{step}" for kind in ("relearn", "relearn-benign") for step in (1, 2)]
    attacks = [*(a for a in ATTACKS if a != "relearn-benign"), *relearned]
    wanted = {
        ("original", None, "plain"),
        ("full_precision", None, "plain"),
        *((arm, 0.0, "plain") for arm in (*SIEVES, "int4-fitted", "reference") if arm != "isolated"),
        *((arm, 1.0, "plain") for arm in ("wiener", "isolated", "hessian")),
        ("wiener", 0.5, "plain"),
        *((arm, 0.0, attack) for arm in ("wiener", "reference") for attack in attacks),
        *(("hessian", 0.0, attack) for attack in attacks if attack not in ("relearn-1", "relearn-2")),
    }
    assert set(places(one.observations)) == wanted
    assert len(one.observations) == len(wanted)


def test_every_observation_is_whole_and_finite(whole: tuple[SeedRun, RunDirectory]) -> None:
    one, _ = whole
    for observation in one.observations:
        numbers = [c.nll_sum for c in observation.canaries] + [c.zlib_score for c in observation.canaries]
        assert all(map(math.isfinite, [*numbers, *observation.window_nlls]))
        groups = {c.group for c in observation.canaries}
        assert groups == {"calibration", "heldout", "heldout_other", "control", "control_other"}
        probed = [c.group for c in observation.canaries if c.exposure_bits is not None]
        if observation.arm == "original":
            assert not probed
            continue
        assert probed.count("heldout") == 6
        assert "calibration" not in probed
        is_first = observation.condition == "plain" and observation.alpha in (0.0, None)
        assert probed.count("control") == (7 if is_first else 6)
        assert len(observation.window_nlls) == (3 if observation.condition == "plain" else 0)


def test_probed_controls_come_from_every_family(whole: tuple[SeedRun, RunDirectory]) -> None:
    attacked = look(whole[0], "wiener", 0.0, "noise")
    families = [c.family for c in attacked.canaries if c.group == "control" and c.exposure_bits is not None]
    assert sorted(families) == ["digits", "digits", "personal", "personal", "token", "token"]


def untimed(one: SeedRun) -> dict[str, dict[str, float]]:
    """Each arm's facts without how long it took, which is no number of the result."""
    return {
        arm: {key: value for key, value in facts.items() if key != "split_seconds"}
        for arm, facts in one.facts.items()
    }


def test_planting_taught_the_secrets_and_the_original_weights_stay_known(
    whole: tuple[SeedRun, RunDirectory],
) -> None:
    def mean_nll(observation: Observation, groups: tuple[str, ...]) -> float:
        chosen = [c.nll_sum / c.num_tokens for c in observation.canaries if c.group in groups]
        return sum(chosen) / len(chosen)

    trained = ("calibration", "heldout")
    before, after = look(whole[0], "original", None), look(whole[0], "full_precision", None)
    assert mean_nll(after, trained) < mean_nll(before, trained) - 0.1


def test_the_observations_can_be_scored(whole: tuple[SeedRun, RunDirectory]) -> None:
    one, _ = whole
    scores = Scorer(one.observations).all(one.facts)
    assert {"wiener", "isolated", "reference", "hessian"} <= {score.arm for score in scores}
    assert set(one.facts) == {*SIEVES}
    assert all(fact["base_bytes"] > 0 for fact in one.facts.values())
    assert one.facts["hessian"]["codes_changed"] == one.facts["none"]["codes_changed"] == 0.0
    assert one.facts["wiener"]["codes_changed"] > 0
    assert one.facts["wiener"]["ortho_bytes"] > 0


def test_every_stages_seconds_and_peaks_are_kept(whole: tuple[SeedRun, RunDirectory]) -> None:
    one, _ = whole
    assert set(one.seconds) == {f"seed0-{name}" for name in one.stages()}
    assert all(seconds >= 0 for seconds in one.seconds.values())
    assert one.peaks["peak_rss_bytes"] > 10 * 2**20


def test_progress_within_a_stage_goes_from_0_to_1_and_never_back(
    whole: tuple[SeedRun, RunDirectory],
) -> None:
    one, _ = whole
    assert isinstance(one.progress, RecordedProgress)
    assert set(one.progress.shares) == {f"seed0-{name}" for name in one.stages()}
    for stage, shares in one.progress.shares.items():
        assert shares == sorted(shares), stage
        assert 0 <= shares[0] <= shares[-1] == pytest.approx(1.0), stage


# ---- Bases -------------------------------------------------------------------------------------------


def assert_same_base(one: SeedRun, arm: str, read: Callable[[str], torch.Tensor]) -> None:
    for name, layer in one.weights.layers(arm).items():
        wanted = quantize_rtn(read(name), bits=CONFIG.bits, group_size=CONFIG.group_size)
        assert torch.equal(layer.base.codes_OI, wanted.codes_OI)
        assert torch.equal(layer.base.zeros_OG, wanted.zeros_OG)
        if arm == "hessian" or not one.config.scale_fit_steps:
            assert torch.equal(dequantize(layer.base), dequantize(wanted))


def test_isolated_and_the_reference_share_a_base_that_saw_no_secret(
    whole: tuple[SeedRun, RunDirectory],
) -> None:
    one, run = whole
    work = run.work_path / "seed0"
    reference = weight_reader(work / "reference.safetensors")
    assert_same_base(one, "isolated", reference)
    assert_same_base(one, "reference", reference)
    teacher = weight_reader(work / "isolated-unrounded.safetensors")  # of its scales
    assert all(torch.equal(teacher(name), reference(name).to(torch.bfloat16)) for name in one.layer_names)
    planted = weight_reader(work / "planted.safetensors")
    assert_same_base(one, "hessian", planted)
    assert_same_base(one, "none", planted)
    assert any(not torch.equal(reference(name), planted(name)) for name in one.layer_names)


def test_every_base_but_plain_int4_has_fitted_scales_and_its_own_codes(
    whole: tuple[SeedRun, RunDirectory],
) -> None:
    one, run = whole
    for arm in SIEVES:
        rounded = read_layers(run.work_path / "seed0" / f"{arm}.safetensors")
        for name, layer in one.weights.layers(arm).items():
            assert torch.equal(layer.base.codes_OI, rounded[name].base.codes_OI)
            same = torch.equal(layer.base.scales_OG, rounded[name].base.scales_OG)
            assert same == (arm == "hessian")
    assert look(one, "int4-fitted", 0.0) != look(one, "hessian", 0.0)


def test_wiener_s_settings_reach_what_it_is_held_against() -> None:
    asked = replace(
        PLAIN,
        sieves=("hessian", "wiener", "random", "wrong-set", "look-alike"),
        noise_weight=0.05,
        sieve_settings=("wiener.damping=0.01", "wiener.noise_weight=0.2", "random.damping=0.3"),
    )

    def given(config: KillSwitchConfig) -> dict[str, tuple[float, float]]:
        nothing: Any = None
        splits = kill_switch_splits.Splits(0, config, nothing, nothing, nothing, nothing, nothing)
        sieves: Any = {name: splits._arm(name, {}).sieve for name in config.sieves[1:]}  # pyright: ignore
        return {name: (sieve.noise_weight, sieve.damping) for name, sieve in sieves.items()}

    wiener, own = (0.2, 0.01), (0.2, 0.3)
    assert given(asked) == {"wiener": wiener, "random": own, "wrong-set": wiener, "look-alike": wiener}
    assert set(given(replace(asked, sieve_settings=())).values()) == {(0.05, 1e-4)}


def test_every_sieve_is_an_arm_with_its_own_seconds_and_texts(tmp_path: Path, model_folder: Path) -> None:
    asked = replace(
        PLAIN,
        sieves=("hessian", "wiener", *SEARCHED),
        restored=("wiener", "natural-gradient"),
        num_look_alike=4,
        sieve_groups=("calibration", "look_alike"),
        sieve_settings=(
            "natural-gradient.num_halvings=2",
            "learned.num_steps=1",
            "subnet.num_steps=1",
            "kfac.layers=[0,1]",
        ),
    )
    one, run = gone(tmp_path, model_folder, asked)
    for arm in SEARCHED:
        assert one.facts[arm]["split_seconds"] > 0
        assert one.facts[arm]["codes_changed"] > 0
        assert look(one, arm, 0.0).canaries
    assert look(one, "natural-gradient", 1.0).canaries != look(one, "natural-gradient", 0.0).canaries
    texts = {"calibration": ["c"], "private": ["c", "l"], "look-alike": ["l"], "wrong-set": ["w"]}
    arms: Any = {name: one._splits._arm(name, texts) for name in asked.sieves}  # pyright: ignore
    assert {arms[name].private_set for name in LOSS_GUIDED} == {"calibration"}
    assert arms["learned"].private_set == arms["input-projection"].private_set == "private"
    assert arms["natural-gradient"].control_set == arms["subnet"].control_set == "look-alike"
    assert one._splits._arm("subnet", {**texts, "look-alike": []}).control_set == "wrong-set"  # pyright: ignore
    assert one._splits._arm("subnet", {}).control_set is None
    assert arms["natural-gradient"].sieve.num_halvings == 2
    run.close()


def test_without_a_trained_reference_it_is_the_original_model(tmp_path: Path, model_folder: Path) -> None:
    one, run = gone(tmp_path, model_folder, PLAIN)
    assert_same_base(one, "reference", weight_reader(model_folder / "model.safetensors", ".weight"))
    assert "train-reference" not in one.stages()
    run.close()


def test_alpha_0_is_the_base_alone(whole: tuple[SeedRun, RunDirectory], tmp_path: Path) -> None:
    one, run = whole
    again = seed_run(copy_of(run, tmp_path), one.loaded.folder)
    install_dense(again.loaded, again.weights.bases("wiener"))
    alone = again._observed(again.looks.plain(), "wiener", 0.0)
    assert alone == look(one, "wiener", 0.0)
    assert alone.canaries != look(one, "wiener", 0.5).canaries


def test_restoring_leaves_the_base_as_it_was(whole: tuple[SeedRun, RunDirectory]) -> None:
    one, _ = whole
    before, after = one.weights.layers("wiener"), one.weights.layers("wiener", restored=True)
    for name, layer in before.items():
        assert torch.equal(layer.base.codes_OI, after[name].base.codes_OI)
        assert torch.equal(dequantize(layer.base), dequantize(after[name].base))
    assert any(not torch.equal(before[name].ortho.up_Or, after[name].ortho.up_Or) for name in before)


# ---- interrupted and resumed -------------------------------------------------------------------------


def assert_resumes_to(whole: tuple[SeedRun, RunDirectory], run: RunDirectory) -> None:
    one, _ = whole
    again = seed_run(run, one.loaded.folder)
    again.go()
    assert again.observations == one.observations
    assert untimed(again) == untimed(one)
    run.close()


def test_a_finished_run_is_read_and_nothing_is_done_again(
    whole: tuple[SeedRun, RunDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any, **more: Any) -> None:
        raise AssertionError("work was done that was already finished")

    for module, names in (
        (kill_switch_seed, ("plant", "relearn", "install_dense", "install_split")),
        (kill_switch_splits, ("split_layers_of", "fit_scales", "fit_ortho")),
        (kill_switch_weights, ("install_dense", "save_layers")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, never)
    assert_resumes_to(whole, copy_of(whole[1], tmp_path))


@pytest.mark.parametrize(
    "lost",
    [
        ("plant",),
        ("original", "look-full_precision"),
        ("split", "look-wiener", "relearn-reference"),
        ("restore-isolated", "restore-wiener"),
        ("train-reference", "split", "restore-wiener", "look-isolated", "attack-hessian"),
    ],
)
def test_lost_stages_are_done_again_to_the_same_numbers(
    whole: tuple[SeedRun, RunDirectory], tmp_path: Path, lost: tuple[str, ...]
) -> None:
    run = copy_of(whole[1], tmp_path)
    for name in lost:
        (run.stages_path / f"seed0-{name}.json").unlink()
    assert_resumes_to(whole, run)


class InterruptingProgress(RunProgress):
    """Ends the process the first time that a stage says how far it is."""

    def __init__(self, interrupted: set[str]) -> None:
        super().__init__({}, quiet=True)
        self._interrupted = interrupted
        self._now = ""

    def begin(self, stage: str) -> None:
        self._now = stage

    def at(self, share: float) -> None:
        if self._now not in self._interrupted:
            self._interrupted.add(self._now)
            raise Interrupted(self._now)


def go_until_done(start: Callable[[], SeedRun], max_starts: int) -> tuple[SeedRun, int]:
    for number in range(max_starts):
        one = start()
        try:
            one.go()
        except Interrupted:
            continue
        return one, number
    raise AssertionError(f"not done after {max_starts} starts")


def test_interrupted_in_the_middle_of_every_stage_in_turn(
    whole: tuple[SeedRun, RunDirectory], tmp_path: Path
) -> None:
    one, _ = whole
    path = RunDirectory.create(tmp_path, "kill-switch", as_plain(CONFIG))
    path.close()
    interrupted: set[str] = set()
    open_runs: list[RunDirectory] = []

    def start() -> SeedRun:
        for run in open_runs:
            run.close()
        open_runs.append(RunDirectory.open(path.path))
        return seed_run(open_runs[-1], one.loaded.folder, progress=InterruptingProgress(interrupted))

    again, num_interrupts = go_until_done(start, 60)
    open_runs[-1].close()
    assert interrupted == {f"seed0-{name}" for name in one.stages()}
    assert num_interrupts == len(one.stages())
    assert again.observations == one.observations
    assert untimed(again) == untimed(one)


def test_interrupted_after_every_stages_work_and_before_it_is_kept(
    whole: tuple[SeedRun, RunDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = whole
    kept = RunDirectory.save_stage
    interrupted: set[str] = set()

    def save_stage(self: RunDirectory, name: str, value: Any) -> Any:
        if name not in interrupted:
            interrupted.add(name)
            raise Interrupted(name)
        return kept(self, name, value)

    monkeypatch.setattr(RunDirectory, "save_stage", save_stage)
    run = RunDirectory.create(tmp_path, "kill-switch", as_plain(CONFIG))
    again, num_interrupts = go_until_done(lambda: seed_run(run, one.loaded.folder), 60)
    run.close()
    assert num_interrupts == len(one.stages())
    assert again.observations == one.observations
    assert untimed(again) == untimed(one)


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
def test_a_damaged_stage_is_named_and_done_again(
    whole: tuple[SeedRun, RunDirectory], tmp_path: Path, damage: str
) -> None:
    run = copy_of(whole[1], tmp_path)
    path = run.stages_path / "seed0-look-wiener.json"
    content = path.read_text()
    if damage == "flipped":
        value = json.loads(content)
        value["value"]["observations"][0]["canaries"][0]["nll_sum"] += 1e-9
        path.write_text(json.dumps(value))
    else:
        path.write_text(content[: len(content) // 2] if damage == "cut" else "")
    assert_resumes_to(whole, run)
    assert any("seed0-look-wiener" in notice for notice in run.notices)
    assert any("seed0-look-wiener" in str(event) for event in run.events() if event["event"] == "notice")


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
@pytest.mark.parametrize(
    ("file", "writer", "reader"),
    [
        ("planted", "plant", "look-full_precision"),
        ("reference", "train-reference", "split"),
        ("wiener-unrounded", "split", "fit-scales-wiener"),
        ("wiener-fitted", "fit-scales-wiener", "attack-wiener"),
        ("wiener-restored", "restore-wiener", "look-wiener"),
    ],
)
def test_damaged_weights_are_refused_and_made_again_with_their_stage(
    whole: tuple[SeedRun, RunDirectory], tmp_path: Path, file: str, writer: str, reader: str, damage: str
) -> None:
    one, kept = whole
    run = copy_of(kept, tmp_path)
    (run.stages_path / f"seed0-{reader}.json").unlink()
    path = run.work_path / "seed0" / f"{file}.safetensors"
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + (b"" if damage == "cut" else bytes([content[-1] ^ 1])))
    with pytest.raises(IntegrityError) as caught:
        seed_run(run, one.loaded.folder).go()
    stage = run.stages_path / f"seed0-{writer}.json"
    assert all(words in str(caught.value) for words in (f"where: {path}", f"delete {stage}", "new run"))
    if damage == "flipped":
        stage.unlink()
        assert_resumes_to(whole, run)
        assert path.read_bytes() == content
    run.close()


def test_a_run_kept_from_before_weights_had_digests_goes_on(
    whole: tuple[SeedRun, RunDirectory], tmp_path: Path
) -> None:
    run = copy_of(whole[1], tmp_path)
    for name in whole[0].stages():
        value = run.load_stage(f"seed0-{name}")
        assert value is not None
        run.save_stage(f"seed0-{name}", {key: part for key, part in value.items() if key != "files"})
    (run.stages_path / "seed0-attack-hessian.json").unlink()
    assert_resumes_to(whole, run)


def test_weights_that_this_process_wrote_are_not_read_again_to_be_checked(
    whole: tuple[SeedRun, RunDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, kept = whole
    hashed: list[str] = []

    def sha256(path: Path) -> str:
        hashed.append(path.stem)
        return sha256_file(path)

    monkeypatch.setattr(kill_switch_files, "sha256_file", sha256)
    run = copy_of(kept, tmp_path)
    for name in ("restore-wiener", "look-wiener", "attack-wiener"):
        (run.stages_path / f"seed0-{name}.json").unlink()
    assert_resumes_to(whole, run)
    # Two were left by the earlier process and are checked once, whatever reads them; of the third, which
    # this process wrote, the digest was taken and nothing more.
    assert sorted(hashed) == ["planted", "wiener-fitted", "wiener-restored"]


def test_seeds_do_not_touch_one_another(tmp_path: Path, model_folder: Path) -> None:
    first, run = gone(tmp_path / "both", model_folder, PLAIN)
    # As the experiment does it: one model for all seeds, left split by the seed before.
    assert not linear_layers(first.loaded.network)
    second = seed_run(run, model_folder, PLAIN, seed=1, loaded=first.loaded, layer_names=first.layer_names)
    second.go()
    run.close()
    alone, run = gone(tmp_path / "alone", model_folder, PLAIN, seed=1)
    run.close()
    assert second.observations == alone.observations
    assert {o.seed for o in second.observations} == {1}
    assert not {c.secret for c in first.canaries} & {c.secret for c in second.canaries}


# ---- out of memory -----------------------------------------------------------------------------------


def failing_forward(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, fails: Iterator[bool]) -> None:
    forward = loaded.network.base_model.forward

    def sometimes(*arguments: Any, **more: Any) -> Any:
        if next(fails):
            raise torch.OutOfMemoryError("invented: no memory left")
        return forward(*arguments, **more)

    monkeypatch.setattr(loaded.network.base_model, "forward", sometimes)


def test_running_out_of_memory_once_halves_the_batch_says_so_and_changes_no_number(
    whole: tuple[SeedRun, RunDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, kept = whole
    run = copy_of(kept, tmp_path)
    (run.stages_path / "seed0-look-full_precision.json").unlink()
    again = seed_run(run, one.loaded.folder)
    # The third pass of the look fails, after some of its numbers were already there.
    failing_forward(again.loaded, monkeypatch, iter([False, False, True] + [False] * 10_000))
    again.go()
    run.close()
    announced = [str(event["message"]) for event in run.events() if event["event"] == "fallback"]
    assert len(announced) == 1
    assert "out of memory" in announced[0]
    assert f"{CONFIG.positions_per_batch // 2} tokens" in announced[0]
    before, after = look(one, "full_precision", None), look(again, "full_precision", None)
    assert after.window_nlls == pytest.approx(before.window_nlls, rel=2e-3)
    assert [c.id for c in after.canaries] == [c.id for c in before.canaries]
    for was, now in zip(before.canaries, after.canaries, strict=True):
        assert now.nll_sum == pytest.approx(was.nll_sum, rel=2e-3)
        assert (now.exposure_bits is None) == (was.exposure_bits is None)


def test_memory_that_never_suffices_ends_with_a_clear_error(
    whole: tuple[SeedRun, RunDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, kept = whole
    run = copy_of(kept, tmp_path)
    (run.stages_path / "seed0-look-hessian.json").unlink()
    again = seed_run(run, one.loaded.folder)
    failing_forward(again.loaded, monkeypatch, iter([True] * 100))
    with pytest.raises(OutOfSpaceError, match="hessian") as caught:
        again.go()
    run.close()
    assert caught.value.exit_status == 3
    assert not (run.stages_path / "seed0-look-hessian.json").exists()
