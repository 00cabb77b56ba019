"""lm-eval on a Base, on a split at alpha 0 and 1, and on PEFT's adapter: a task of local rows, no hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from artifact_tools import saved

from sixgig.errors import InputError

pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'sixgig[eval]'")
pytestmark = [
    # Old names and unclosed files within lm-eval, datasets and PEFT.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("harness"))[0]


def task(folder: Path) -> dict[str, Any]:
    """Bits per byte of a few lines, straight from a file."""
    rows = [{"text": f"The door code is {4821 + n}, said the guard."} for n in range(4)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {
        "task": "local_rows",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": "bits_per_byte"}],
    }


def bits_per_byte(model: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> float:
    import lm_eval

    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    # Its report on the machine asks pip for every package, which takes longer than all else.
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    found = lm_eval.simple_evaluate(model=model, tasks=[task(folder)], bootstrap_iters=0, **options)
    assert found is not None
    return found["results"]["local_rows"]["bits_per_byte,none"]


def test_lm_eval_sees_the_switch(split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sixgig.integrations.harness import harness_model

    base = bits_per_byte(harness_model(split / "base"), tmp_path, monkeypatch)
    at_0 = bits_per_byte(harness_model(split), tmp_path, monkeypatch)
    at_1 = bits_per_byte(harness_model(split, alpha=1.0), tmp_path, monkeypatch)
    assert at_0 == base
    assert abs(at_1 - base) > 0.01


def test_lm_eval_opens_the_base_and_the_adapter_by_itself(
    split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sixgig.integrations.harness import harness_model

    plain = f"pretrained={split / 'base'},dtype=float32"
    hf = {"model": "hf", "device": "cpu", "batch_size": 1}
    base = bits_per_byte(folder=tmp_path, monkeypatch=monkeypatch, model_args=plain, **hf)
    with_adapter = bits_per_byte(
        folder=tmp_path, monkeypatch=monkeypatch, model_args=f"{plain},peft={split / 'ortho'}", **hf
    )
    at_0 = bits_per_byte(harness_model(split, fidelity="lora"), tmp_path, monkeypatch)
    at_1 = bits_per_byte(harness_model(split, alpha=1.0, fidelity="lora"), tmp_path, monkeypatch)
    assert base == pytest.approx(at_0, rel=1e-4)
    assert with_adapter == pytest.approx(at_1, rel=1e-4)


def test_its_command_line_knows_the_model_by_name(
    split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sixgig.integrations.harness import harness_model

    options = {"model": "sixgig", "model_args": f"path={split},alpha=1.0", "device": "cpu"}
    named = bits_per_byte(folder=tmp_path, monkeypatch=monkeypatch, **options)
    assert named == bits_per_byte(harness_model(split, alpha=1.0), tmp_path, monkeypatch)


def test_a_base_alone_has_no_alpha(split: Path) -> None:
    from sixgig.integrations.harness import harness_model

    with pytest.raises(InputError, match="only the Base is here"):
        harness_model(split / "base", alpha=1.0)
