"""Dual-dp from the command line: refusals, a run of a tiny model, a resume, another run's planted weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from other_data import assert_other_data_is_refused
from tiny_model import tiny_folder

from sixgig.catalogue import get
from sixgig.cli.main import run
from sixgig.experiments import dual_dp_seed, kill_switch_seed
from sixgig.experiments.dual_dp_config import DUAL_DP_PRESETS, WEIGHT_SETTINGS
from sixgig.experiments.dual_dp_planted import planted_settings, require_planted
from sixgig.experiments.known import EXPERIMENTS
from sixgig.experiments.presets import PRESETS
from sixgig.experiments.settings import changed
from sixgig.report.identity import read_config
from sixgig.report.schema import Result

PLANTED: dict[str, Any] = {
    "num_calibration": 6,
    "num_heldout": 6,
    "num_control": 7,
    "num_look_alike": 3,
    "repetitions": [2],
    "train_window": 32,
    "num_train_windows": 8,
    "calibration_window": 32,
    "num_calibration_windows": 4,
    "group_size": 8,
    "rank": 2,
    "fit_steps": 2,
    "fit_private_per_step": 6,
}
NOISE: dict[str, Any] = {
    "sieves": ["wiener", "isolated"],
    "ways": ["ortho", "product", "all"],
    "sigmas_ortho": [0.3, 3],
    "sigmas_product": [0.5, 5],
    "sigmas_all": [0.1, 2],
    "alphas": [1, 0],
    "num_draws": 2,
    "num_decoys": 3,
    "num_probed_controls": 6,
    "test_window": 32,
    "num_test_windows": 3,
}


FEW: dict[str, Any] = {"sieves": ["wiener"], "ways": ["ortho", "all"]}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SIXGIG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SIXGIG_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


def arguments(experiment: str, tiny: Path, out: Path, settings: dict[str, Any], *more: str) -> list[str]:
    words = [part for key, value in settings.items() for part in ("-s", f"{key}={json.dumps(value)}")]
    places = ["--model", str(tiny), "--device", "cpu", "--out", str(out)]
    return ["run", experiment, "--preset", "tiny", *places, *words, *more]


def dual_dp(tiny: Path, out: Path, *more: str, **settings: Any) -> int:
    return run(arguments("dual-dp", tiny, out, PLANTED | NOISE | settings, *more))


@contextmanager
def _package_text() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SIXGIG_DATA", raising=False)
        yield


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run with FEW."""
    out = tmp_path_factory.mktemp("whole")
    with _package_text():
        assert dual_dp(tiny, out, **FEW) in (0, 1)
    return out


@pytest.fixture(scope="module")
def donor(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kill switch that kept its weights."""
    looks = ("alphas", "num_decoys", "num_probed_controls", "test_window", "num_test_windows")
    settings = PLANTED | {key: NOISE[key] for key in looks}
    settings |= {"num_probed_controls_plain": 6, "relearned": [], "keep_weights": True}
    out = tmp_path_factory.mktemp("donor")
    with _package_text():
        assert run(arguments("kill-switch", tiny, out, settings)) in (0, 1)
    (folder,) = out.iterdir()
    return folder


def result_of(out: Path) -> tuple[Path, Result]:
    (folder,) = out.iterdir()
    return folder, Result.read(folder / "result.json")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("ways=all", "ways must hold ortho and all"),
        ("ways=[ortho,all,all]", "ways names one more than once"),
        ("ways=[ortho,al]", "did you mean all"),
        ("sieves=[wiener,hessian]", "unknown sieve"),
        ("sieves=isolated", "the sieve wiener"),
        ("sigmas_all=0.1", "sigmas_all must be at least two numbers above 0"),
        ("sigmas_ortho=0.2,0.1", "sigmas_ortho must be at least two numbers above 0, each larger"),
        ("alphas=0.5,1", "alphas must hold 0 and 1"),
        ("num_draws=0", "num_draws must be at least 1"),
        ("num_heldout=3", "num_heldout is too small"),
        ("sigma=1", "unknown setting"),
        ("planted=nowhere", "planted is no run directory"),
        ("attacks=noise", "unknown setting"),
    ],
)
def test_wrong_settings_are_refused_by_name(
    word: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", "dual-dp", "-s", word, "--dry-run", "--device", "cpu"]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "defect" not in shown


@pytest.mark.parametrize("name", ["4g", "6g", "8g", "full"])
def test_a_card_that_holds_the_kill_switch_holds_dual_dp(name: str) -> None:
    """And a preset can begin from the kill switch's weights of the same name."""
    spec, config = get("smollm2-135m-instruct"), DUAL_DP_PRESETS[name]
    ours, theirs = (
        EXPERIMENTS[experiment].peak_bytes(spec, EXPERIMENTS[experiment].presets[name], "cuda")
        for experiment in ("dual-dp", "kill-switch")
    )
    assert ours <= theirs
    donor = PRESETS[name]
    assert {key: getattr(config, key) for key in WEIGHT_SETTINGS} == {
        key: getattr(donor, key) for key in WEIGHT_SETTINGS
    }
    assert set(config.sieves) <= set(donor.restored)
    assert config.seeds == donor.seeds


def test_a_whole_run_has_every_arm_and_claims_no_epsilon(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    status = dual_dp(tiny, out)
    folder, result = result_of(out)
    assert status == (1 if result.passed is False else 0)
    noisy = [f"{sieve}-noise-{way}" for sieve in NOISE["sieves"] for way in NOISE["ways"]]
    for arm in noisy:
        way = arm.rpartition("-")[2]
        places = [f"sigma-{sigma:g}" for sigma in NOISE[f"sigmas_{way}"]]
        for condition in places:
            assert result.score("exposure_gap", arm, 1.0, condition) is not None
            assert (result.score("perplexity", arm, 1.0, condition).value or 0) > 1  # type: ignore[union-attr]
    whole, ruined = (
        result.score("perplexity", arm, 1.0, condition).value  # type: ignore[union-attr]
        for arm, condition in (("wiener", "plain"), ("wiener-noise-all", "sigma-2"))
    )
    assert (ruined or 0) > (whole or 0)
    counted = [verdict.criterion for verdict in result.verdicts if verdict.counts]
    assert len(counted) == 2
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    looks = 2 * (2 + 3 * 2 * 2)
    assert sum(row["kind"] == "window" for row in rows) == 3 * looks
    assert sum(row["kind"] == "canary" for row in rows) == 12 * looks
    assert not (folder / "work").exists()
    page = (folder / "report.html").read_text()
    assert "No differential privacy is claimed" in page
    assert "What protection costs: Wiener sieve" in page
    assert "Under attack" not in page


def test_an_interrupted_run_resumes_to_the_same_numbers(
    tiny: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed, calls = dual_dp_seed.install_noisy, []

    def interrupted(*given: Any, **named: Any) -> None:
        calls.append(given)
        if len(calls) == 6:  # in the midst of noise on all weights; noise on Ortho is kept
            raise KeyboardInterrupt
        installed(*given, **named)

    monkeypatch.setattr(dual_dp_seed, "install_noisy", interrupted)
    cut = tmp_path / "cut"
    assert dual_dp(tiny, cut, **FEW) == 130
    monkeypatch.setattr(dual_dp_seed, "install_noisy", installed)
    monkeypatch.setattr(kill_switch_seed, "plant", None)  # what is done is not done again
    (folder,) = cut.iterdir()
    assert_other_data_is_refused(folder, lambda: dual_dp(tiny, cut, "--resume", **FEW))
    assert dual_dp(tiny, cut, "--resume", **FEW) in (0, 1)
    (one, ours), (other, theirs) = result_of(cut), result_of(whole)
    assert (ours.scores, ours.verdicts, ours.curves) == (theirs.scores, theirs.verdicts, theirs.curves)
    assert (one / "samples.jsonl").read_bytes() == (other / "samples.jsonl").read_bytes()


# ---- another run's planted weights -------------------------------------------------------------------


def test_planted_weights_of_a_kill_switch_give_the_same_result(
    tiny: Path, whole: Path, donor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kill_switch_seed, "plant", None)
    assert dual_dp(tiny, tmp_path / "taken", **FEW, planted=str(donor)) in (0, 1)
    (_, own), (folder, taken) = result_of(whole), result_of(tmp_path / "taken")
    assert (taken.scores, taken.verdicts) == (own.scores, own.verdicts)
    assert taken.config["planted"] == donor.name
    assert str(donor) not in (folder / "result.json").read_text()
    assert (donor / "work" / "seed1" / "wiener-restored.safetensors").is_file(), "taken over, not taken away"


def test_what_a_kill_switch_was_planted_with_can_be_asked(donor: Path) -> None:
    settings = planted_settings(donor)
    assert settings["planted"] == str(donor)
    assert settings["seeds"] == [1]
    assert {key: settings[key] for key in PLANTED} == PLANTED


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 3}, "rank is 2 there, 3 here"),
        ({"seeds": [1, 5]}, "seeds there lack 5"),
        ({"sieves": ["wiener", "isolated"]}, "restored there lacks isolated"),
    ],
)
def test_planted_weights_of_other_settings_are_refused(
    tiny: Path,
    donor: Path,
    settings: dict[str, Any],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert dual_dp(tiny, tmp_path / "no", **FEW | settings | {"planted": str(donor)}) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "no").exists(), "refused before anything is written"


def test_a_sieve_that_was_planted_with_settings_of_its_own_is_refused(
    tiny: Path, donor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = shutil.copytree(donor, tmp_path / "donor" / donor.name)
    settings = read_config(copied / "config.yaml")

    def plant_with(*words: str) -> None:
        text = yaml.safe_dump(settings | {"sieve_settings": list(words)})
        (copied / "config.yaml").write_text(text)

    plant_with("wiener.damping=0.01", "random.damping=0.02")
    assert dual_dp(tiny, tmp_path / "no", **FEW, planted=str(copied)) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "sieve_settings hold wiener.damping=0.01 there" in shown
    assert "random" not in shown, "whose weights are not taken"
    plant_with("random.damping=0.02")
    config = changed(DUAL_DP_PRESETS["tiny"], PLANTED | NOISE | FEW, where="here")
    require_planted(replace(config, planted=str(copied), model=settings["model"], seeds=(1,)))


def test_damaged_and_missing_planted_weights_are_refused(
    tiny: Path, donor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = shutil.copytree(donor, tmp_path / "donor" / donor.name)
    kept = copied / "work" / "seed1" / "wiener-restored.safetensors"
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    assert dual_dp(tiny, tmp_path / "damaged", **FEW, planted=str(copied)) == 2
    assert "not what their run wrote" in capsys.readouterr().err
    shutil.rmtree(copied / "work")  # as a kill switch that keeps none leaves it
    assert dual_dp(tiny, tmp_path / "gone", **FEW, planted=str(copied)) == 2
    assert "keep_weights=true" in capsys.readouterr().err
