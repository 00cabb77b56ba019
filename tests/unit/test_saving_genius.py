"""Saving the genius: refusals, names of arms, and a whole run of a tiny model with a resume."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from other_data import assert_other_data_is_refused
from tiny_model import tiny_folder

from sixgig.cli.main import run
from sixgig.data.benchmarks import load_benchmark
from sixgig.data.corpora import load_public_text
from sixgig.data.gsm8k_worked import worked_problems
from sixgig.errors import InputError, NotAvailableError
from sixgig.experiments import saving_genius_seed, saving_genius_texts
from sixgig.experiments.known import EXPERIMENTS
from sixgig.experiments.saving_genius_config import SavingGeniusConfig, require
from sixgig.experiments.saving_genius_names import arm_names
from sixgig.experiments.saving_genius_tasks import rights_of
from sixgig.experiments.settings import changed, parse_words
from sixgig.report.labels import arm_label
from sixgig.report.schema import Result

SETTINGS = {
    "num_heldout": 12,
    "num_control": 6,
    "num_calibration": 8,
    "group_size": 8,
    "calibration_window": 16,
    "train_window": 16,
    "test_window": 16,
    "num_test_windows": 2,
    "num_calibration_windows": 1,
    "plant_steps": 2,
    "plant_check_every": 1,
    "plant_sums_per_step": 4,
    "scores": ["hessian", "fisher", "fisher-both-global", "random"],
    "shares": [0.1],
    "fitted": ["fisher", "lowrank"],
    "fitted_shares": [0.1],
    "fit_steps": 2,
    "fit_texts_per_step": 4,
    "fit_public_per_step": 1,
    "layers_per_pass": 5,
    "factor_bits": 8,
}


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


def arguments(tiny: Path, out: Path, *more: str) -> list[str]:
    words = [part for key, value in SETTINGS.items() for part in ("-s", f"{key}={json.dumps(value)}")]
    places = ["--model", str(tiny), "--device", "cpu", "--out", str(out)]
    return ["run", "saving-genius", "--preset", "tiny", *places, *words, *more]


def result_of(out: Path) -> tuple[Path, Result]:
    (folder,) = out.iterdir()
    return folder, Result.read(folder / "result.json")


# ---- settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scores=[fissher]"], "did you mean fisher"),
        (["task=sums"], "task must be addition or gsm8k"),
        (["shares=[0.05,1]"], "shares must lie between 0 and 1"),
        (["shares=[]"], "shares must not be empty"),
        (["seeds=0,0"], "seeds names 0 more than once"),
        (["bits=5"], "bits must be 2 or 3 or 4 or 8"),
        (["low_bits=3"], "low_bits must be 0 or a width below bits"),
        (["num_heldout=8000"], "none is left"),
        (["fitted=[fisher-both]", "fitted_shares=0.05"], "which scores leaves out"),
        (["fitted=[fisher]", "fitted_shares=0.2"], "which shares leaves out"),
        (["plant_until=0"], "plant_until must be above 0"),
        (["form=haiku"], "form must be question"),
        (["task=gsm8k", "contrast=true"], "only the task addition does"),
        (["task=gsm8k", "seeds=5,6"], "seeds must be one for the task gsm8k, as in -s seeds=5"),
    ],
)
def test_wrong_settings_are_refused_by_name(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [part for word in words for part in ("-s", word)]
    assert run(["run", "saving-genius", "--preset", "cpu", *settings, "--dry-run", "--device", "cpu"]) == 2
    shown = capsys.readouterr()
    assert message in " ".join(shown.err.split())
    assert not (tmp_path / "runs").exists()


def test_gsm8k_takes_one_seed_of_a_preset_that_has_several() -> None:
    full = EXPERIMENTS["saving-genius"].preset("full")
    with pytest.raises(InputError, match="nothing is planted"):
        changed(full, parse_words(["task=gsm8k"]), where="-s")
    assert changed(full, parse_words(["task=gsm8k", "seeds=2"]), where="-s").seeds == (2,)


def test_gsm8k_is_refused_for_a_model_too_small_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(NotAvailableError, match="too small for GSM8K"):
        require(SavingGeniusConfig(task="gsm8k"))
    require(SavingGeniusConfig(task="gsm8k", min_parameters=0))
    require(SavingGeniusConfig(task="gsm8k", model="tinyllama-1.1b-chat"))


def test_gsm8k_without_lm_eval_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NotAvailableError, match="sixgig\\[eval\\]"):
        require(SavingGeniusConfig(task="gsm8k", model="tinyllama-1.1b-chat"))


@pytest.mark.parametrize("preset", EXPERIMENTS["saving-genius"].presets)
def test_every_arm_of_a_preset_has_a_name_of_its_own_that_people_can_read(preset: str) -> None:
    names = arm_names(EXPERIMENTS["saving-genius"].preset(preset))
    assert len(set(names)) == len(names)
    assert all(arm_label(name) != name for name in names)


# ---- GSM8K's problems --------------------------------------------------------------------------------


def test_worked_problems_read_like_the_prompts_examples(tmp_path: Path) -> None:
    row = {"question": "How many?", "answer": "It is 48/2 = <<48/2=24>>24.\nSo 24 and 1.\n#### 25"}
    write_gsm8k(tmp_path, num_test=1, train=[json.dumps(row)])
    (problem,) = worked_problems(load_benchmark("gsm8k", tmp_path))
    assert problem.prompt + problem.answer == (
        "Q: How many?\nA: It is 48/2 = 24. So 24 and 1. The answer is 25.\n\n"
    )


@pytest.mark.parametrize("answer", ["#### 25", "<<48/2=24>>\n#### 25"])
def test_a_problem_without_steps_is_named(answer: str, tmp_path: Path) -> None:
    sound = {"question": "How many?", "answer": "It is 25.\n#### 25"}
    write_gsm8k(tmp_path, num_test=1, train=[json.dumps(sound), json.dumps(sound | {"answer": answer})])
    with pytest.raises(InputError, match="without worked steps") as caught:
        worked_problems(load_benchmark("gsm8k", tmp_path))
    assert caught.value.where == "gsm8k/train.jsonl, problem 2"


@pytest.mark.parametrize(("file", "row"), [("train.jsonl", 6), ("test.jsonl", 21)])
def test_gsm8ks_files_are_checked_as_for_lm_eval_before_anything_is_judged(
    file: str,
    row: int,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls = answer_with(monkeypatch, lambda doc: True)
    data = write_gsm8k(tmp_path / "data", num_test=20)
    with (data / "gsm8k" / file).open("a") as handle:
        handle.write(json.dumps({"question": "1 and 1?", "answer": "So many.\n#### many"}))
    assert run([*arguments(tiny, tmp_path / "runs", *GSM8K), "--data-dir", str(data)]) == 2
    told = capsys.readouterr().err
    assert f"{file}, row {row}" in told
    assert "#### many" in told
    assert not calls


def test_answers_are_put_in_the_order_of_the_problems_for_each_filter() -> None:
    rows = [
        {"filter": name, "doc_id": doc, "metrics": {"exact_match": float(doc in right)}}
        for name, right in (("strict-match", {2}), ("flexible-extract", {0, 2}), ("other", {1}))
        for doc in (2, 0, 1)
    ]
    assert rights_of(rows) == {
        "strict-match": [False, False, True],
        "flexible-extract": [True, False, True],
    }


# ---- a run -------------------------------------------------------------------------------------------


def test_a_skill_that_was_not_learned_is_a_result_that_says_so(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    assert run(arguments(tiny, out, "-s", "contrast=true", "-s", "seeds=0,1", "-s", "fitted=[]")) == 1
    folder, result = result_of(out)
    first, *others = result.verdicts
    assert (first.criterion, first.passed) == ("in full precision the model has the skill", False)
    assert others
    assert all(verdict.passed is None and "void" in verdict.note for verdict in others)
    assert any("was not learned" in warning for warning in result.warnings)
    assert result.exp3_saving_genius is not None
    assert result.score("accuracy_invented", "int3-fisher-invented-10pct", None) is not None
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    arms = {score.arm for score in result.scores}
    assert sum(row["kind"] == "question" for row in rows) == 2 * 12 * len(arms)
    page = (folder / "report.html").read_text()
    assert "What each model still can do" in page
    assert "exposure was measured" not in page
    sizes = {s.arm: s.value for s in result.scores if s.name == "ortho_bytes"}
    assert sizes["int3"] == 0
    assert (sizes["int3-random-10pct"] or 0) > 0
    assert sizes["int3-random-10pct"] == sizes["int3-fisher-10pct"]


def test_an_interrupted_run_resumes_to_the_same_numbers(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(arguments(tiny, tmp_path / "whole")) == 1
    looked = saving_genius_seed.sequence_nlls
    calls: list[int] = []

    def interrupted(*given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return looked(*given, **named)

    monkeypatch.setattr(saving_genius_seed, "sequence_nlls", interrupted)
    assert run(arguments(tiny, tmp_path / "cut")) == 130
    monkeypatch.setattr(saving_genius_seed, "sequence_nlls", looked)
    (folder,) = (tmp_path / "cut").iterdir()
    assert_other_data_is_refused(folder, lambda: run(arguments(tiny, tmp_path / "cut", "--resume")))
    assert run(arguments(tiny, tmp_path / "cut", "--resume")) == 1
    (one, ours), (other, theirs) = result_of(tmp_path / "cut"), result_of(tmp_path / "whole")
    assert (ours.scores, ours.verdicts) == (theirs.scores, theirs.verdicts)
    assert (one / "samples.jsonl").read_bytes() == (other / "samples.jsonl").read_bytes()


# ---- GSM8K, with lm-eval's answers made up ------------------------------------------------------------


def write_gsm8k(folder: Path, num_test: int, *, train: Sequence[str] | None = None) -> Path:
    row = json.dumps({"question": "1 and 1?", "answer": "1+1 = <<1+1=2>>2\n#### 2"})
    (folder / "gsm8k").mkdir(parents=True)
    (folder / "gsm8k" / "train.jsonl").write_text("".join(f"{line}\n" for line in train or [row] * 5))
    (folder / "gsm8k" / "test.jsonl").write_text(f"{row}\n" * num_test)
    return folder


def answer_with(monkeypatch: pytest.MonkeyPatch, right: Any) -> list[dict[str, Any]]:
    """Puts a harness in place whose problem `doc` is right by each filter where `right(doc)`; its calls."""
    calls: list[dict[str, Any]] = []

    def evaluate_tasks(loaded: Any, tasks: Any, **options: Any) -> Any:
        calls.append({"tasks": tasks, "autocast": torch.is_autocast_enabled("cpu"), **options})
        samples = tuple(
            {"filter": name, "doc_id": doc, "metrics": {"exact_match": float(right(doc))}}
            for doc in range(options["limit"] or 20)
            for name in ("strict-match", "flexible-extract")
        )
        return SimpleNamespace(samples=samples)

    module = ModuleType("sixgig.evaluate.harness")
    module.evaluate_tasks = evaluate_tasks  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sixgig.evaluate.harness", module)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *more: object() if name == "lm_eval" else found(name, *more),
    )
    # Its public text is pinned by digest, and invented problems have none beside them.
    monkeypatch.setattr(
        saving_genius_texts,
        "load_public_text",
        lambda purpose, data_dir: load_public_text(purpose, data_dir=None),
    )
    return calls


GSM8K = ("-s", "task=gsm8k", "-s", "min_parameters=0", "-s", "num_problems=6", "-s", "fitted=[]")


def test_gsm8k_is_asked_of_lm_eval_with_the_problems_as_units(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = answer_with(monkeypatch, lambda doc: doc % 2 == 0)
    data = write_gsm8k(tmp_path / "data", num_test=20)
    assert run([*arguments(tiny, tmp_path / "runs", *GSM8K), "--data-dir", str(data)]) == 0
    _, result = result_of(tmp_path / "runs")
    assert {(call["tasks"], call["limit"], call["autocast"]) for call in calls} == {(("gsm8k_cot",), 6, True)}
    assert result.score("accuracy", "int3", None).value == 0.5  # type: ignore[union-attr]
    assert result.score("accuracy_flexible_extract", "fp16", None).n == 6  # type: ignore[union-attr]
    assert not [name for name in result.timings if "plant" in name]
    assert [one.passed for one in result.verdicts] == [True, *[None] * 4], "six problems tell nothing"
    assert all(one.visible_difference for one in result.verdicts)
    assert any(source["name"] == "gsm8k/train.jsonl" for source in result.provenance["data_sources"])


def test_a_model_that_solves_nothing_is_refused_once_that_is_measured(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = answer_with(monkeypatch, lambda doc: False)
    data = write_gsm8k(tmp_path / "data", num_test=20)
    assert run([*arguments(tiny, tmp_path / "runs", *GSM8K), "--data-dir", str(data)]) == 2
    assert "does not have the skill" in capsys.readouterr().err
    assert len(calls) == 1


def test_other_problems_than_were_asked_for_are_refused(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer_with(monkeypatch, lambda doc: True)
    data = write_gsm8k(tmp_path / "data", num_test=4)
    assert run([*arguments(tiny, tmp_path / "runs", *GSM8K), "--data-dir", str(data)]) == 2
    assert "judged other problems" in capsys.readouterr().err


def test_gsm8k_without_a_data_folder_says_what_it_needs(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer_with(monkeypatch, lambda doc: True)
    assert run(arguments(tiny, tmp_path / "runs", *GSM8K)) == 2
    assert "GSM8K needs a data folder" in capsys.readouterr().err
