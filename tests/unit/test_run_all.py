"""`sixgig run all`: which settings reach whom, what a refusal or failure leaves, resume, summary and page."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_result import fake_result
from filelock import FileLock
from tiny_model import tiny_folder

from sixgig.cli.main import explain, run
from sixgig.errors import DoesNotFitError, InputError, NotAvailableError, UnknownNameError
from sixgig.experiments import run_all as module
from sixgig.experiments.known import EXPERIMENTS
from sixgig.experiments.one_in_child import Outcome, run_here, run_in_child
from sixgig.experiments.run import Request
from sixgig.experiments.run_all import members, plan_all, run_all
from sixgig.experiments.settings import as_plain
from sixgig.experiments.shared_settings import settings_of_each
from sixgig.hardware import Gpu, probe
from sixgig.report.identity import read_config
from sixgig.report.run_set import RunSet, part_of_result
from sixgig.report.run_set_page import headline, render, summary_table
from sixgig.report.schema import Result
from sixgig.report.store import RunDirectory
from sixgig.units import GIB

ROOT = Path(__file__).resolve().parents[2]
# Small enough for the two-layer model; each goes to the experiments that know it.
SETTINGS: dict[str, Any] = {
    "group_size": 8,
    "rank": 2,
    "calibration_window": 32,
    "kill-switch.seeds": [0],
    "kill-switch.num_calibration": 6,
    "kill-switch.num_heldout": 6,
    "kill-switch.num_control": 6,
    "kill-switch.num_decoys": 3,
    "kill-switch.num_probed_controls": 6,
    "kill-switch.num_probed_controls_plain": 6,
    "kill-switch.repetitions": [2],
    "kill-switch.num_look_alike": 0,
    "kill-switch.sieve_groups": ["calibration"],
    "kill-switch.num_train_windows": 6,
    "kill-switch.num_calibration_windows": 2,
    "kill-switch.test_window": 32,
    "kill-switch.num_test_windows": 2,
    "kill-switch.fit_steps": 1,
    "null-test.window_tokens": 64,
    "null-test.num_windows": 4,
    "null-test.compared_tokens": 32,
    "null-test.fit_window": 32,
    "null-test.fit_steps": 2,
    "performance.prompt_tokens": 8,
    "performance.num_rounds": 3,
    "performance.bandwidth_seconds": 0.01,
}
TESTED = ("kill-switch", "null-test", "performance")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty cache, no data, one thread, a folder of its own, and the three experiments of this test."""
    monkeypatch.setenv("SIXGIG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SIXGIG_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "ORDER", TESTED)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


def request_for(tiny: Path, out: Path, **changes: Any) -> Request:
    settings = {"model": str(tiny)} | SETTINGS | changes.pop("settings", {})
    fields: dict[str, Any] = {"preset": "tiny", "device": "cpu", "out": out, "quiet": True, **changes}
    return Request(experiment="all", settings=settings, **fields)


# ---- which settings reach whom -----------------------------------------------------------------------


def routed(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return settings_of_each(settings, {name: EXPERIMENTS[name] for name in TESTED}, where="a test")


def test_a_setting_goes_to_the_experiments_that_have_it() -> None:
    found = routed({"bits": 3, "num_rounds": 7})
    assert found == {
        "kill-switch": {"bits": 3},
        "null-test": {"bits": 3},
        "performance": {"bits": 3, "num_rounds": 7},
    }


def test_a_named_setting_goes_to_one_and_counts_over_the_shared_one() -> None:
    for settings in ({"kill-switch.bits": 8, "bits": 3}, {"bits": 3, "kill-switch": {"bits": 8}}):
        found = routed(settings)
        assert [found[name]["bits"] for name in TESTED] == [8, 3, 3]


@pytest.mark.parametrize(
    ("settings", "nearest"),
    [
        ({"num_round": 7}, "num_rounds"),
        ({"kill-swich.bits": 3}, "kill-switch"),
        ({"performance.seeds": [1]}, "seed"),
        ({"performance": {"num_round": 7}}, "num_rounds"),
    ],
)
def test_what_nobody_knows_is_refused_with_the_nearest(settings: dict[str, Any], nearest: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        routed(settings)
    assert nearest in caught.value.suggestions


def test_an_experiment_given_as_a_setting_is_refused() -> None:
    with pytest.raises(InputError, match="is an experiment"):
        routed({"kill-switch": 3})


# ---- plans -------------------------------------------------------------------------------------------


def refuse(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def require(config: Any) -> None:
        raise NotAvailableError("an invented reason", todo="invent less")

    for name in names:
        monkeypatch.setitem(EXPERIMENTS, name, replace(EXPERIMENTS[name], require=require))


def test_every_plan_is_shown_and_nothing_is_loaded_or_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "all", "--dry-run", "--json", "--device", "cpu", "--preset", "cpu", "-s", "bits=3"]
    assert run(words) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [one["experiment"] for one in shown["experiments"]] == list(members())
    assert all(one["config"]["bits"] == 3 and one["plan"]["peak_bytes"] > 0 for one in shown["experiments"])
    assert run([*words[:3], *words[4:]]) == 0
    captured = capsys.readouterr()
    assert "nothing was loaded" in captured.err
    assert all(f"{name}: " in captured.err for name in members())
    assert not (tmp_path / "runs").exists()


def test_its_own_settings_file_plans_the_same_again(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "all", "--dry-run", "--device", "cpu"]
    assert run([*words, "--preset", "tiny", "-s", "kill-switch.rank=3"]) == 0
    printed = capsys.readouterr().out
    (tmp_path / "set.yaml").write_text(printed)
    assert run([*words, "--config", "set.yaml"]) == 0
    assert capsys.readouterr().out == printed


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Experiment -> the settings that a dry run on the CPU shows."""
    assert run(["run", "all", "--dry-run", "--json", "--device", "cpu", *words]) == 0
    return {one["experiment"]: one["config"] for one in json.loads(capsys.readouterr().out)["experiments"]}


def test_the_preset_named_for_one_counts_over_that_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "--preset", "tiny", "-s", "kill-switch.preset=cpu")
    assert {name: config["preset"] for name, config in found.items()} == {
        "kill-switch": "cpu",
        "null-test": "tiny",
        "performance": "tiny",
    }
    assert found["kill-switch"] == as_plain(EXPERIMENTS["kill-switch"].preset("cpu"))


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (["-s", "bits=3"], {"bits": [3, 3, 3]}),
        (["-s", "bits=3", "-s", "null-test.bits=2"], {"bits": [3, 2, 3]}),
        (["--seeds", "3"], {"seeds": [[0, 1, 2], None, None]}),
        (["--preset", "cpu"], {"preset": ["cpu", "cpu", "cpu"]}),
    ],
)
def test_the_command_line_counts_over_a_sets_file(
    words: list[str], changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["--preset", "tiny", "-s", "rank=3", "-s", "kill-switch.bits=8", "-s", "kill-switch.seeds=5,6"]
    before = planned(capsys, *typed)
    kept = {"experiment": "all", "device": "cpu", "public_text": "package", **before}
    (tmp_path / "config.yaml").write_text(json.dumps(kept))
    assert planned(capsys, "--config", "config.yaml") == before
    after = planned(capsys, "--config", "config.yaml", *words)
    for key, values in changes.items():
        assert [after[name].pop(key, None) for name in TESTED] == values
        for name in TESTED:
            before[name].pop(key, None)
    assert after == before


def test_a_model_that_is_typed_counts_over_a_sets_file(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = {name: {"model": "smollm2-135m-instruct", "preset": "tiny"} for name in TESTED}
    (tmp_path / "config.yaml").write_text(json.dumps(sections))
    sizes = [word for key, value in SETTINGS.items() for word in ("-s", f"{key}={json.dumps(value)}")]
    found = planned(capsys, "--config", "config.yaml", "--model", str(tiny), *sizes)
    assert {config["model"] for config in found.values()} == {str(tiny)}


def test_a_setting_that_nobody_knows_is_said_to_stand_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("null-test: {bit: 3}")
    assert run(["run", "all", "--dry-run", "--config", "mine.yaml", "--device", "cpu"]) == 2
    assert "mine.yaml" in capsys.readouterr().err


def test_a_dry_run_with_a_refusal_shows_the_others_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(monkeypatch, "null-test")
    assert run(["run", "all", "--dry-run", "--json", "--device", "cpu", "--preset", "tiny"]) == 1
    captured = capsys.readouterr()
    shown = {one["experiment"]: one for one in json.loads(captured.out)["experiments"]}
    assert "an invented reason" in shown["null-test"]["refused"]
    assert "plan" in shown["kill-switch"]
    assert "an invented reason" in captured.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-s", "bits=5"], "bits must be 2 or 3 or 4 or 8"),
        (["-s", "performance.num_rounds=1"], "num_rounds must be at least 2"),
        (["--preset", "huge"], "unknown preset: huge"),
        (["--model", "olmoe-1b-7b-0924"], "mixtures of experts cannot be split yet"),
        (["--model", "smollm2-135m-instrct"], "smollm2-135m-instruct"),
        (["-s", "sedes=1"], "seeds"),
        (["--resume"], "no set of runs to resume"),
    ],
)
def test_what_is_wrong_for_all_is_refused_before_anything_is_written(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", "all", "--device", "cpu", "--preset", "tiny", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert not (tmp_path / "runs").exists()


def test_what_is_refused_has_the_preset_of_this_machine(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Gpu(name="c", total_bytes=6 * GIB, free_bytes=6 * GIB, compute_capability="8.6", driver="1")
    machine = replace(probe(), gpus=(card,), torch_cuda_version="13.0")
    monkeypatch.setattr("sixgig.experiments.run.probe", lambda cache_dir=None: machine)
    refuse(monkeypatch, "null-test")
    parts = plan_all(Request(experiment="all", settings={"model": str(tiny)}, out=tmp_path))
    assert {part.name: part.config.preset for part in parts} == dict.fromkeys(TESTED, "6g")
    assert [part.name for part in parts if part.refusal is not None] == ["null-test"]


def test_where_nothing_can_run_every_reason_is_said(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, *TESTED)
    with pytest.raises(NotAvailableError, match="an invented reason"):
        plan_all(request_for(tiny, tmp_path))


def test_a_model_too_large_for_all_is_the_answer_no(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DoesNotFitError, match="kill-switch: refused"):
        plan_all(Request(experiment="all", settings={"model": "llama-3.1-405b"}, device="cpu"))
    assert run(["run", "all", "--model", "llama-3.1-405b", "--device", "cpu", "--dry-run"]) == 1
    assert "performance: refused" in capsys.readouterr().err


# ---- running -----------------------------------------------------------------------------------------


class Work:
    """Stands for the experiments: writes invented results, fails where told to, keeps what it was asked."""

    def __init__(self, failing: dict[str, Outcome] | None = None) -> None:
        self.failing = failing or {}
        self.asked: list[tuple[str, bool]] = []  # experiment, resume

    def __call__(self, request: Request, explain: Any) -> Outcome:
        self.asked.append((request.experiment, request.resume))
        if request.resume:
            path = RunDirectory.find_latest(request.out, request.experiment)
            assert path is not None
            directory = RunDirectory.open(path)
        else:
            directory = RunDirectory.create(request.out, request.experiment, {"invented": True})
        with directory:
            if request.experiment in self.failing:
                return self.failing[request.experiment]
            result_named(request.experiment).write(directory.result_path)
        return Outcome(status=0)


def result_named(experiment: str) -> Result:
    blocks = {
        "kill-switch": {},
        "null-test": {
            "exp1_kill_switch": None,
            "exp2_null_test": dict.fromkeys(
                ("ppl_fp16", "ppl_int4", "ppl_libortho_alpha0", "ppl_ratio_libortho"), 1.0
            ),
        },
        "performance": {"exp1_kill_switch": None},
    }
    return fake_result(experiment=experiment, **blocks[experiment])


def finished(tiny: Path, out: Path, work: Work, **changes: Any) -> tuple[RunSet, Path]:
    return run_all(request_for(tiny, out, **changes), explain=explain, work=work)


def test_all_are_run_in_order_and_told_in_one_place(tiny: Path, tmp_path: Path) -> None:
    work = Work()
    found, folder = finished(tiny, tmp_path / "runs", work)
    assert work.asked == [(name, False) for name in TESTED]
    assert folder.name.startswith("all-")
    assert found.exit_status == 0
    assert RunSet.read(folder) == found
    assert [part.status for part in found.parts] == ["complete"] * 3
    assert all((folder / str(part.folder) / "result.json").exists() for part in found.parts)
    blocks_file = folder / str(found.blocks_file)
    stamp = folder.name.removeprefix("all-")[:15].replace("-", "_")
    assert blocks_file.name == f"real_model_results_{stamp}.json"
    assert list(json.loads(blocks_file.read_text())) == ["exp1_kill_switch", "exp2_null_test"]
    assert not (folder / "work").exists()


def test_a_refusal_and_a_failure_leave_the_others_and_are_listed_with_their_reasons(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "performance")
    work = Work({"kill-switch": Outcome(status=3, reason="an invented lack of memory", trace="line 7")})
    found, folder = finished(tiny, tmp_path / "runs", work)
    assert work.asked == [("kill-switch", False), ("null-test", False)]
    by_name = {part.experiment: part for part in found.parts}
    assert (by_name["kill-switch"].status, by_name["kill-switch"].exit_status) == ("failed", 3)
    assert by_name["performance"].status == "refused"
    assert by_name["null-test"].status == "complete"
    assert found.exit_status == 1
    assert (folder / "error-kill-switch.txt").read_text() == "line 7"
    page = (folder / "report.html").read_text()
    assert "an invented lack of memory" in page
    assert "an invented reason" in page


@pytest.mark.parametrize(("statuses", "answer"), [((3, 2, 2), 3), ((2, 2, 2), 2), ((1, 1, 1), 1)])
def test_where_all_fail_the_worst_reason_is_the_status(
    tiny: Path, tmp_path: Path, statuses: Sequence[int], answer: int
) -> None:
    failing = {name: Outcome(status=s, reason="r") for name, s in zip(TESTED, statuses, strict=True)}
    assert finished(tiny, tmp_path / "runs", Work(failing))[0].exit_status == answer


def test_a_resume_keeps_what_is_finished_and_goes_on_with_the_rest(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    first, folder = finished(tiny, out, Work({"null-test": Outcome(status=3, reason="r")}))
    kept = {part.experiment: part.folder for part in first.parts}
    work = Work()
    found, again = finished(tiny, out, work, resume=True)
    assert again == folder
    assert work.asked == [("null-test", True)]
    assert {part.experiment: part.folder for part in found.parts} == kept
    assert found.exit_status == 0
    with pytest.raises(InputError, match="performance"):
        finished(tiny, out, work, resume=True, settings={"performance.num_rounds": 4})


def test_a_resume_takes_up_what_was_refused_once_its_cause_is_mended(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, mended = tmp_path / "runs", {"performance.num_rounds": 4}
    with monkeypatch.context() as patch:
        refuse(patch, "performance")
        _, folder = finished(tiny, out, Work())
    work = Work({"performance": Outcome(status=3, reason="r")})
    found, again = finished(tiny, out, work, resume=True, settings=mended)
    assert again == folder
    assert work.asked == [("performance", False)]
    assert [part.status for part in found.parts] == ["complete", "complete", "failed"]
    assert read_config(folder / "config.yaml")["performance"]["num_rounds"] == 4
    with pytest.raises(InputError, match=r"performance\.num_rounds"):
        finished(tiny, out, Work(), resume=True)  # it has begun since
    assert finished(tiny, out, Work(), resume=True, settings=mended)[0].exit_status == 0


def test_what_is_finished_stays_so_where_it_would_be_refused_now(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs"
    first, _ = finished(tiny, out, Work({"null-test": Outcome(status=3, reason="r")}))
    refuse(monkeypatch, "performance")
    work = Work()
    found, folder = finished(tiny, out, work, resume=True)
    assert work.asked == [("null-test", True)]
    assert [part.status for part in found.parts] == ["complete"] * 3
    assert found.parts[2] == first.parts[2]
    assert "an invented reason" not in (folder / "report.html").read_text()


def test_an_interruption_is_written_down_and_the_next_are_not_begun(tiny: Path, tmp_path: Path) -> None:
    work = Work({"null-test": Outcome(status=130, reason="interrupted")})
    with pytest.raises(KeyboardInterrupt):
        finished(tiny, tmp_path / "runs", work)
    (folder,) = (tmp_path / "runs").iterdir()
    assert [part.status for part in RunSet.read(folder).parts] == ["complete", "interrupted", "waiting"]
    assert work.asked[-1][0] == "null-test"


# ---- the real experiments, on the tiny model ---------------------------------------------------------


@pytest.fixture(scope="module")
def real(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a set that ran in this process."""
    out = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SIXGIG_DATA", raising=False)
        patch.setattr(module, "ORDER", TESTED)
        found, folder = run_all(request_for(tiny, out), explain=explain, work=run_here)
    assert [part.status for part in found.parts] == ["complete"] * 3, found.parts
    return folder


def test_every_verdict_with_an_interval_says_what_it_could_have_seen(real: Path) -> None:
    for part in RunSet.read(real).parts:
        for verdict in Result.read(real / str(part.folder) / "result.json").verdicts:
            has_interval = verdict.value is not None and verdict.low != verdict.high
            assert (verdict.visible_difference is not None) == has_interval, verdict.criterion


def test_the_summary_is_what_the_results_say(real: Path) -> None:
    found = RunSet.read(real)
    for part in found.parts:
        result = Result.read(real / str(part.folder) / "result.json")
        assert part == part_of_result(result, str(part.folder))
        marks = [verdict.passed for verdict in result.verdicts if verdict.counts]
        assert (part.num_met, part.num_failed, part.num_undecided) == tuple(
            marks.count(mark) for mark in (True, False, None)
        )
    assert set(found.blocks) == {"exp1_kill_switch", "exp2_null_test", "exp4_performance"}


def test_a_set_is_reported_again_and_cannot_be_compared(
    real: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = real / "report.html"
    before = page.read_bytes()
    page.unlink()
    assert run(["report", str(real)]) == 0
    assert page.read_bytes() == before
    printed = capsys.readouterr().out
    assert all(name in printed for name in TESTED)
    assert str(page) in printed
    assert run(["report", str(real / "all.json"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["sets"][0]["summary"] == json.loads((real / "all.json").read_text())
    assert run(["report", str(real), "--html"]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    one = next(path for path in real.iterdir() if path.name.startswith("null-test"))
    assert run(["report", str(one), "--compare", str(one)]) == 0
    assert run(["report", str(one), "--compare", str(real)]) == 2
    assert "a set of several" in capsys.readouterr().err


def test_a_damaged_summary_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "all.json").write_text('{"schema": "sixgig.all/1"}')
    assert run(["report", str(tmp_path)]) == 2
    assert "all.json" in capsys.readouterr().err


def test_a_child_process_comes_to_the_same_scores_and_says_what_went_wrong(
    real: Path, tiny: Path, tmp_path: Path
) -> None:
    plan = next(part for part in plan_all(request_for(tiny, tmp_path)) if part.name == "null-test")
    assert run_in_child(plan.request, explain) == Outcome(status=0)
    ours = RunDirectory.find_latest(tmp_path, "null-test")
    theirs = RunDirectory.find_latest(real, "null-test")
    assert ours is not None
    assert theirs is not None
    assert Result.read(ours / "result.json").scores == Result.read(theirs / "result.json").scores
    outcome = run_in_child(replace(plan.request, data_dir=tmp_path / "absent"), explain)
    assert outcome.status == 2
    assert "absent" in outcome.reason
    assert "defect" not in outcome.reason


def test_what_nobody_meant_to_happen_leaves_its_traceback(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **more: Any) -> Any:
        raise ZeroDivisionError("invented")

    monkeypatch.setattr("sixgig.experiments.one_in_child.run", broken)
    outcome = run_here(request_for(tiny, tmp_path), explain)
    assert outcome.status == 2
    assert "defect in sixgig" in outcome.reason
    assert "ZeroDivisionError: invented" in outcome.trace


def end_itself(how: int, error: Exception) -> tuple[int, str]:
    """Stands for the words about an error, and ends the process instead: by signal, or with a status."""
    if how < 0:
        os.kill(os.getpid(), -how)
    os._exit(how)


@pytest.mark.skipif(os.name == "nt", reason="there are no signals between processes here")
@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        (-9, 3, "memory runs out"),
        (-15, 2, "ended by signal 15"),
        (7, 2, "ended with exit status 7"),
    ],
)
def test_only_a_process_that_was_killed_outright_is_said_to_have_lacked_memory(
    tiny: Path, tmp_path: Path, how: int, status: int, words: str
) -> None:
    # An experiment that is none is an error at once, and telling it ends the process.
    request = replace(request_for(tiny, tmp_path), experiment="none")
    outcome = run_in_child(request, functools.partial(end_itself, how))
    assert (outcome.status, outcome.trace) == (status, "")
    assert words in outcome.reason
    assert ("memory" in outcome.reason) == (how == -9)


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9 here")
def test_a_set_that_is_killed_takes_its_child_along_and_resumes(tiny: Path, tmp_path: Path) -> None:
    settings = {"model": str(tiny)} | SETTINGS
    words = [part for key, value in settings.items() for part in ("-s", f"{key}={json.dumps(value)}")]
    of_these = f"from sixgig.experiments import run_all; run_all.ORDER = {TESTED}; "
    command = [sys.executable, "-c", f"{of_these}from sixgig.cli.main import main; main()"]
    command += ["run", "all", "--preset", "tiny", "--device", "cpu", *words]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/all-*/kill-switch-*/stages/*.json")) and time.monotonic() < deadline:
        assert process.poll() is None, "the set ended before its first stage"
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    (folder,) = (tmp_path / "runs").iterdir()
    assert RunSet.read(folder).parts[0].status == "begun"
    work = Work()
    (begun,) = folder.glob("kill-switch-*")
    FileLock(begun / ".lock").acquire(timeout=20).lock.release()  # the child's lock falls with it
    found, _ = finished(tiny, tmp_path / "runs", work, resume=True)
    assert work.asked[0] == ("kill-switch", True)
    assert found.exit_status == 0


# ---- the page ----------------------------------------------------------------------------------------


def test_failed_criteria_come_first_and_everything_is_escaped(tiny: Path, tmp_path: Path) -> None:
    results = [result_named("kill-switch"), result_named("null-test")]
    bad = (
        results[1].verdicts[0].model_copy(update={"passed": False, "criterion": "<script>alert(1)</script>"})
    )
    results[1] = results[1].model_copy(update={"verdicts": [bad], "warnings": ["<b>bold</b>"]})
    found = RunSet(
        started="20270102-030405",
        device="cpu",
        preset="cpu",
        parts=[part_of_result(result, f"{result.experiment}-folder") for result in results],
    )
    assert [part.experiment for part in found.failures_first] == ["null-test", "kill-switch"]
    assert [row[0].text for row in summary_table(found).rows] == ["null-test", "kill-switch"]
    assert headline(found) == "All 2 experiments are complete; of 4 criteria 1 failed, 2 met, 1 undecided."
    assert found.exit_status == 1
    page = render(found)
    assert "<script>" not in page
    assert "<b>bold</b>" not in page
    assert 'href="null-test-folder/report.html"' in page
    assert page.index("Criteria that were not met") < page.index("Every experiment")
