"""`sixgig eval` on a tiny model: lm-eval's own numbers to the digit, the switch, the run, refusals."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from artifact_tools import saved
from fake_benchmarks import write_bare_punkt, write_benchmarks, write_mmlu_subject
from tiny_model import tiny_folder

from sixgig.cli.main import run
from sixgig.data.benchmarks import load_benchmark
from sixgig.errors import InputError, NotAvailableError, UnknownNameError
from sixgig.evaluate import mmlu_tasks
from sixgig.evaluate.harness_tasks import require_installed, task_of
from sixgig.experiments import evaluation_files
from sixgig.experiments.evaluation_config import EvaluationConfig
from sixgig.experiments.evaluation_files import subject_files
from sixgig.files import sha256_file
from sixgig.load.artifact_format import ORTHO_LIST
from sixgig.load.manifest import write_manifest
from sixgig.report.schema import Result

pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'sixgig[eval]'")
pytestmark = [
    # Old names and unclosed files within lm-eval and datasets.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Cannot locate reference"),
    pytest.mark.filterwarnings("ignore:Cannot pickle"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PARTS = {"arc_easy": "ARC-Easy", "gsm8k": "main", "mmlu_anatomy": "anatomy", "wikitext": "wikitext-2-raw-v1"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("eval") / "model")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("eval-split"))[0]


@pytest.fixture(autouse=True)
def _bare_punkt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(write_bare_punkt(tmp_path / "nltk"))])
    # Its report on the machine asks pip for every package, which takes longer than all else.
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


def ours(model: Path, task: str, data_dir: Path, **options: Any) -> Any:
    from sixgig.evaluate.harness import evaluate_tasks
    from sixgig.load.loaded import load

    return evaluate_tasks(load(model), [task], data_dir=data_dir, **options)


@functools.cache
def task_manager() -> Any:
    """lm-eval's index, read once: its files are thousands."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def by_itself(model: Path, task: str, data_dir: Path, **options: Any) -> Any:
    """lm-eval's own opening of the folder and its own evaluation, over the same rows in memory."""
    import datasets
    import lm_eval
    import pyarrow as pa
    from lm_eval.tasks._yaml_loader import load_yaml

    rows = load_benchmark(task_of(task).benchmark, data_dir).splits[PARTS.get(task, "default")]
    # A fingerprint of its own, since datasets would pickle the rows for one and warn of what it meets.
    parts = {
        split: datasets.Dataset(pa.Table.from_pylist(part), fingerprint=split) for split, part in rows.items()
    }
    content = datasets.DatasetDict(parts)
    manager = task_manager()
    config = load_yaml(manager.task_index[task].yaml_path)
    config |= {"custom_dataset": lambda **others: content}
    for split in ("training", "validation"):
        if config.get(f"{split}_split") not in rows:
            config[f"{split}_split"] = None
    config.pop("tag", None)
    max_length = options.pop("max_length", None)
    args = {"pretrained": str(model), "dtype": "float32", "max_length": max_length}
    chat = {"apply_chat_template": options.pop("chat", False)}
    found = lm_eval.simple_evaluate(
        model="hf", model_args=args, tasks=[config], device="cpu", task_manager=manager, **chat, **options
    )
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("wikitext", {"batch_size": 2}),
        ("mmlu_anatomy", {"batch_size": 3, "num_fewshot": 2}),
        ("arc_easy", {"batch_size": 4}),
        ("hellaswag", {"batch_size": 4, "limit": 2}),
        ("gsm8k", {"batch_size": 2, "max_length": 2048, "num_fewshot": 3}),
        ("gsm8k", {"batch_size": 2, "max_length": 2048, "num_fewshot": 2, "chat": True}),
        ("ifeval", {"batch_size": 2, "max_length": 1500, "chat": True}),
    ],
)
def test_numbers_are_lm_evals_own(model: Path, data_dir: Path, task: str, options: dict[str, Any]) -> None:
    found = ours(model, task, data_dir, **options)
    own = by_itself(model, task, data_dir, **options)
    results = {key: value for key, value in own["results"][task].items() if "," in key}
    assert {f"{score.metric},{score.filter}": score.value for score in found.scores} == {
        key: value for key, value in results.items() if "_stderr" not in key
    }
    for score in found.scores:
        stderr = results[f"{score.metric}_stderr,{score.filter}"]
        assert score.stderr == (stderr if stderr != "N/A" else None)
        assert score.n == own["n-samples"][task]["effective"]
    prompts = [(row["filter"], row["doc_id"], row["prompt_hash"]) for row in own["samples"][task]]
    assert [(row["filter"], row["doc_id"], row["prompt_sha256"]) for row in found.samples] == prompts
    answers = [json.loads(json.dumps(row["resps"])) for row in own["samples"][task]]
    assert [json.loads(json.dumps(row["response"])) for row in found.samples] == answers


def test_the_generators_are_left_as_they_were(model: Path, data_dir: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    shares: list[float] = []
    ours(model, "arc_easy", data_dir, progress=shares.append)
    assert torch.equal(torch.get_rng_state(), before)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_the_generators_of_cards_are_left_as_they_were_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two cards made up, whose generators' states are a number each."""
    from sixgig.evaluate import harness

    states = {0: torch.tensor([7]), 1: torch.tensor([8])}

    def seed_all(seed: int) -> None:
        states.update(dict.fromkeys(states, torch.tensor([seed])))

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(states))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[int(device)])
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: states.update({int(device): state})
    )
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seed_all)
    with harness._own_randomness():
        assert [int(state) for state in states.values()] == [1234, 1234]
    assert [int(state) for state in states.values()] == [7, 8]


def evaluated(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any, str]:
    status = run(["eval", *words])
    captured = capsys.readouterr()
    return status, json.loads(captured.out) if status == 0 and "--json" in words else None, captured.err


def test_a_run_directory_and_one_json_document(
    model: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(model), "--tasks", "wikitext,arc_easy", "--data-dir", str(data_dir), "--device", "cpu"]
    words += ["--batch-size", "2", "--out", str(tmp_path), "--json"]
    status, answer, _ = evaluated(capsys, *words)
    assert status == 0
    folder = Path(answer["folder"])
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.yaml", "events.jsonl", "samples.jsonl", "result.json", "report.html"}
    result = Result.read(folder / "result.json")
    assert result.experiment == "eval"
    score = result.score("arc_easy.acc", "eval-model", None)
    assert score is not None
    assert (score.n, score.unit) == (4, "share")
    assert score.low is not None
    assert "guessing gets 25%" in score.note
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 2 + 4
    assert {source["name"] for source in result.provenance["data_sources"]} >= {
        "wikitext2/wiki.test.raw",
        "arc/ARC-Easy/test.jsonl",
    }


def test_an_interrupted_run_goes_on_after_its_last_task(
    model: Path,
    data_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = [str(model), "--tasks", "wikitext,arc_easy", "--data-dir", str(data_dir), "--device", "cpu"]
    words += ["--batch-size", "2", "--out", str(tmp_path), "--json"]
    from sixgig.experiments import evaluation

    real, asked = evaluation.evaluate_tasks, []

    def stopping(loaded: Any, tasks: list[str], **options: Any) -> Any:
        asked.extend(tasks)
        if tasks == ["arc_easy"] and len(asked) == 2:
            raise KeyboardInterrupt
        return real(loaded, tasks, **options)

    monkeypatch.setattr(evaluation, "evaluate_tasks", stopping)
    assert run(["eval", *words]) == 130
    capsys.readouterr()
    status, answer, _ = evaluated(capsys, *words, "--resume")
    assert status == 0
    assert asked == ["wikitext", "arc_easy", "arc_easy"]
    scores = {score["name"] for score in answer["result"]["scores"]}
    assert {"wikitext.bits_per_byte", "arc_easy.acc"} <= scores
    status, _, told = evaluated(capsys, *words, "--resume", "--limit", "1")
    assert status == 2
    assert "limit" in told


def test_a_resume_knows_the_model_by_its_content_and_not_by_its_place(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, moved = tiny_folder(tmp_path / "here" / "model"), tmp_path / "there" / "model"
    words = ["--tasks", "wikitext", "--data-dir", str(data_dir), "--device", "cpu", "--batch-size", "2"]
    words += ["--out", str(tmp_path / "runs"), "--json"]
    status, first, _ = evaluated(capsys, str(model), *words)
    assert status == 0
    kept = (Path(first["folder"]) / "result.json").read_text()
    assert first["result"]["config"]["model"] == "model"
    assert str(tmp_path) not in kept
    moved.parent.mkdir()
    model.rename(moved)
    status, again, _ = evaluated(capsys, str(moved), *words, "--resume")
    assert status == 0
    assert again["folder"] == first["folder"]
    tiny_folder(moved, seed=1)
    status, _, told = evaluated(capsys, str(moved), *words, "--resume")
    assert status == 2
    assert "has changed since this run began: model_sha256.model.safetensors" in told


def test_the_content_of_a_split_is_told_by_its_lists(split: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(split, tmp_path / "mine")
    ours, theirs = subject_files(str(copied)), subject_files(str(split))
    assert (ours.name, ours.folder) == ("mine", copied / "base")
    assert ours.digests == theirs.digests
    assert set(ours.digests) == {"base", "ortho"}
    base = subject_files(str(copied / "base"))
    assert (base.name, base.digests) == ("mine/base", {"base": ours.digests["base"]})
    with (copied / "ortho" / ORTHO_LIST).open("a") as handle:
        handle.write(" ")
    changed = subject_files(str(copied)).digests
    assert changed["ortho"] != ours.digests["ortho"]
    assert changed["base"] == ours.digests["base"]


def test_a_fetched_models_content_is_what_its_list_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_folder(tmp_path / "cached")
    write_manifest(folder, name="invented/model", source={}, converter={})
    monkeypatch.setattr(evaluation_files, "model_folder", lambda name: folder)
    found = subject_files("invented/model")
    assert (found.name, found.folder) == ("invented/model", folder)
    assert found.digests["model.safetensors"] == sha256_file(folder / "model.safetensors")
    monkeypatch.setattr(evaluation_files, "sha256_file", None)  # no file is read a second time
    assert subject_files("invented/model") == found


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--tasks", "arc_easy", "--chat"], "no chat template"),
        (["--tasks", "wikitext,mmlu_anatomi"], "unknown task: mmlu_anatomi"),
        (["--tasks", "wikitext,arc_challenge"], "ARC-Challenge"),
        (["--tasks", "wikitext,mmlu"], "abstract_algebra"),
        (["--tasks", "wikitext,hellaswag", "--num-fewshot", "1"], "not enough examples"),
    ],
)
def test_what_a_task_lacks_is_said_before_anything_is_written(
    words: list[str], problem: str, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tiny_folder(tmp_path / "plain", template=False)
    words = [str(plain), *words, "--data-dir", str(data_dir), "--device", "cpu"]
    status, _, told = evaluated(capsys, *words, "--out", str(tmp_path / "runs"))
    assert status == 2
    assert problem in told
    assert not (tmp_path / "runs").exists()


def test_a_split_at_both_ends_of_its_switch_and_its_base(
    split: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {}
    for name, place, alpha in (("off", split, "0"), ("on", split, "1"), ("base", split / "base", "0")):
        words = [str(place), "--alpha", alpha, "--tasks", "wikitext", "--data-dir", str(data_dir), "--json"]
        words += ["--device", "cpu", "--out", str(tmp_path / name), "--batch-size", "2"]
        _, answer, _ = evaluated(capsys, *words)
        scores = {score["name"]: score for score in answer["result"]["scores"]}
        values[name] = scores["wikitext.bits_per_byte"]
    assert values["off"]["value"] == values["base"]["value"]
    assert abs(values["on"]["value"] - values["off"]["value"]) > 1e-4
    assert (values["on"]["alpha"], values["on"]["arm"]) == (1.0, "eval-split")


def test_an_alpha_that_the_model_cannot_have(
    split: Path, model: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, problem in ((split / "base", "only the Base is here"), (model, "not split")):
        words = [str(place), "--alpha", "1", "--tasks", "wikitext", "--data-dir", str(data_dir)]
        status, _, told = evaluated(capsys, *words, "--device", "cpu", "--out", str(tmp_path))
        assert status == 2
        assert problem in told


def test_chat_without_a_template_is_refused(tmp_path: Path, data_dir: Path) -> None:
    plain = tiny_folder(tmp_path / "plain", template=False)
    with pytest.raises(InputError, match="no chat template"):
        ours(plain, "arc_easy", data_dir, chat=True)


def test_examples_and_parts_that_no_file_has(model: Path, data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not enough examples"):
        ours(model, "hellaswag", data_dir, num_fewshot=1)
    with pytest.raises(InputError, match="not enough examples"):
        ours(model, "mmlu_anatomy", data_dir, num_fewshot=6)
    with pytest.raises(NotAvailableError, match="ARC-Challenge"):
        ours(model, "arc_challenge", data_dir)
    with pytest.raises(NotAvailableError, match="abstract_algebra"):
        ours(model, "mmlu", data_dir)


@pytest.mark.parametrize("name", ["mmlu_anatomi", "mmlu_pro", "mmlu_generative", "mmlu_", "mmlu_stem_tasks"])
def test_of_mmlu_only_its_groups_and_subjects_are_tasks(name: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        EvaluationConfig(model="m", tasks=("wikitext", name))
    assert name != "mmlu_anatomi" or "mmlu_anatomy" in caught.value.suggestions


def test_the_subjects_of_mmlus_groups_are_lm_evals() -> None:
    index = task_manager().task_index
    for group, subjects in mmlu_tasks.GROUPS.items():
        assert set(index[f"mmlu_{group}_tasks"].tags) == {f"mmlu_{subject}" for subject in subjects}
        assert mmlu_tasks.subjects_of(f"mmlu_{group}") == subjects
    assert all(name in index and task_of(name).repo == "cais/mmlu" for name in mmlu_tasks.NAMES)
    assert len(mmlu_tasks.subjects_of("mmlu")) == 57
    assert mmlu_tasks.subjects_of("mmlu_anatomy") == ("anatomy",)


def test_a_group_of_mmlu_counts_its_subjects(model: Path, tmp_path: Path) -> None:
    for task in task_manager().task_index["mmlu_social_sciences_tasks"].tags:
        for kind, count in (("dev", 1), ("test", 2)):
            write_mmlu_subject(tmp_path, task.removeprefix("mmlu_"), kind, count)
    found = ours(model, "mmlu_social_sciences", tmp_path, limit=1)
    group = next(score for score in found.scores if score.task == "mmlu_social_sciences")
    assert group.n == len(found.samples) == 12
    right = [row["metrics"]["acc"] for row in found.samples]
    assert group.value == pytest.approx(sum(right) / 12)
    assert all("mmlu_social_sciences" in row["tasks"] for row in found.samples)


def test_an_answer_that_would_fill_the_context_is_refused(model: Path, data_dir: Path) -> None:
    with pytest.raises(InputError, match="as long as all that the model reads"):
        ours(model, "gsm8k", data_dir, num_fewshot=0)


def test_what_is_missing_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(NotAvailableError, match=r"nltk\.downloader punkt_tab"):
        require_installed(["ifeval"])
    monkeypatch.setattr("sixgig.evaluate.harness_tasks.find_spec", lambda name: None)
    with pytest.raises(NotAvailableError, match=r"pip install 'sixgig\[eval\]'"):
        require_installed(["wikitext"])


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--tasks", "wikitex"], "did you mean wikitext"),
        (["--tasks", "wikitext,wikitext"], "named once"),
        (["--tasks", "wikitext", "--limit", "0"], "limit is too small"),
        (["--tasks", "wikitext", "--batch-size", "many"], "no batch size"),
        (["--tasks", "wikitext", "--dtype", "int8"], "unknown dtype"),
        (["--tasks", "wikitext", "--alpha", "nan"], "alpha must be a number"),
    ],
)
def test_settings_are_checked_first(
    words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, told = evaluated(capsys, "no-such-model", *words)
    assert status == 2
    assert problem in told


def test_without_files_the_hub_is_asked_and_its_absence_explained(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sixgig.evaluate.harness_hub import hub_revision

    class Api:
        def dataset_info(self, *words: Any, **options: Any) -> Any:
            raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    with pytest.raises(NotAvailableError, match="openai/gsm8k") as caught:
        hub_revision(task_of("gsm8k"), lambda message: None)
    assert "--data-dir" in str(caught.value)


def test_the_hubs_size_is_said_before_anything_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from sixgig.evaluate.harness_hub import hub_revision

    class Api:
        def dataset_info(self, repo: str, *, revision: str, files_metadata: bool) -> Any:
            files = [SimpleNamespace(rfilename="main/test.parquet", size=3 * 2**20)]
            return SimpleNamespace(sha=revision, siblings=files)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    told: list[str] = []
    assert hub_revision(task_of("gsm8k"), told.append) == task_of("gsm8k").revision
    assert "3.00 MiB" in told[0]


def test_data_of_the_hub_is_asked_for_at_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import pyarrow as pa

    from sixgig.evaluate.harness_data import over_hub_data

    asked: list[dict[str, Any]] = []

    def load_dataset(**options: Any) -> Any:
        asked.append(options)
        table = pa.table({"question": ["What is 1 and 1?"], "answer": ["#### 2"]})
        rows = datasets.Dataset(table, fingerprint="rows")
        return {"train": rows, "test": rows}

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    over_hub_data("gsm8k", task_manager(), "c0ffee", tmp_path)
    assert asked == [{"path": "openai/gsm8k", "name": "main", "revision": "c0ffee"}]
    assert not task_manager().task_index["gsm8k"].yaml_path.is_relative_to(tmp_path)  # lm-eval's own again
