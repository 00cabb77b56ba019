"""MMLU: reading, fair samples, prompts as the harness forms them, and likelihoods against the plain way."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_mmlu import SUBJECTS, write_mmlu
from fakes import without_autocast
from tiny_model import tiny_folder

from sixgig.data.mmlu import Mmlu, load_mmlu, sample_questions
from sixgig.errors import InputError
from sixgig.evaluate import multiple_choice
from sixgig.evaluate.multiple_choice import (
    LETTERS,
    answer_questions,
    few_shot_text,
    prompts_of,
    question_text,
)
from sixgig.load.loaded import LoadedModel, load


@pytest.fixture(scope="module")
def mmlu(tmp_path_factory: pytest.TempPathFactory) -> Mmlu:
    found = load_mmlu(write_mmlu(tmp_path_factory.mktemp("data")))
    assert found is not None
    return found


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    return load(tiny_folder(tmp_path / "tiny"))


def test_every_subject_is_read_with_its_examples(mmlu: Mmlu) -> None:
    assert {subject.name: len(subject.questions) for subject in mmlu.subjects} == SUBJECTS
    assert all(len(subject.examples) == 2 for subject in mmlu.subjects)
    assert mmlu.subjects[0].questions[1].choices == ("one, or none", "two 1", "three", "four")
    assert mmlu.subjects[0].questions[3].answer == 3


def test_a_folder_without_mmlu_is_no_error_and_a_broken_one_is(tmp_path: Path) -> None:
    assert load_mmlu(tmp_path) is None
    write_mmlu(tmp_path)
    broken = tmp_path / "mmlu" / "test" / "tides_test.csv"
    broken.write_text(broken.read_text().replace(",1\n", ",B\n", 1).replace(",1\r\n", ",B\r\n", 1))
    with pytest.raises(InputError, match=r"tides_test\.csv, row 2"):
        load_mmlu(tmp_path)
    broken.unlink()
    (tmp_path / "mmlu" / "dev" / "old_maps_dev.csv").unlink()
    with pytest.raises(InputError, match="old_maps_dev"):
        load_mmlu(tmp_path)


def test_the_digest_follows_the_content(tmp_path: Path, mmlu: Mmlu) -> None:
    again = load_mmlu(write_mmlu(tmp_path))
    assert again is not None
    assert again.source == mmlu.source
    path = tmp_path / "mmlu" / "test" / "tides_test.csv"
    path.write_text(path.read_text().replace("three", "drei"))
    other = load_mmlu(tmp_path)
    assert other is not None
    assert other.source != mmlu.source


def test_a_sample_is_even_and_its_seeds_own(mmlu: Mmlu) -> None:
    few = sample_questions(mmlu, 7, None, seed=1)
    counts = Counter(q.id.rpartition("-")[0] for s in few.subjects for q in s.questions)
    assert sorted(counts.values()) == [2, 2, 3]
    assert few == sample_questions(mmlu, 7, None, seed=1)
    assert len({sample_questions(mmlu, 7, None, seed=seed).subjects for seed in range(6)}) > 1
    assert [len(s.questions) for s in sample_questions(mmlu, 12, None, seed=0).subjects] == [4, 3, 5]
    assert all(s.num_all == SUBJECTS[s.name] for s in few.subjects)
    assert len(sample_questions(mmlu, 2, 2, seed=0).subjects) == 2
    for count in (0, 13):
        with pytest.raises(InputError, match="1 to 12"):
            sample_questions(mmlu, count, None, seed=0)


def test_a_prompt_reads_as_the_harness_writes_it(mmlu: Mmlu) -> None:
    subject = mmlu.subjects[1]
    assert few_shot_text(subject) + question_text(subject.questions[1]) == (
        "The following are multiple choice questions (with answers) about old maps.\n\n"
        "dev 0 of old_maps?\nA. one, or none\nB. two 0\nC. three\nD. four\nAnswer: A\n\n"
        "dev 1 of old_maps?\nA. one, or none\nB. two 1\nC. three\nD. four\nAnswer: B\n\n"
        "test 1 of old_maps?\nA. one, or none\nB. two 1\nC. three\nD. four\nAnswer:"
    )


def plainly(loaded: LoadedModel, context: list[int], choice: list[int], limit: int) -> float:
    """One forward pass over the whole text, log_softmax, sum: what all the sharing must equal."""
    ids = [*context, *choice][-(limit + 1) :]
    logits = loaded.network(torch.tensor([ids[:-1]])).logits[0].float().log_softmax(dim=-1)
    return -sum(float(logits[len(ids) - len(choice) - 1 + i, token]) for i, token in enumerate(choice))


@pytest.mark.parametrize("limit", [256, 400])
@torch.no_grad()
def test_shared_prompts_give_what_whole_prompts_do(
    mmlu: Mmlu, loaded: LoadedModel, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_autocast(monkeypatch)
    loaded.network.config.max_position_embeddings = limit
    prompts = prompts_of(loaded, mmlu)
    # A byte a token: with 256 every prompt loses its beginning, with 400 none does.
    assert [len(one.cut) for one in prompts] == ([4, 3, 5] if limit == 256 else [0, 0, 0])
    found = {one.id: one for one in answer_questions(loaded, prompts, tokens_per_batch=150)}
    for subject in mmlu.subjects:
        for question in subject.questions:
            context = loaded.encode(few_shot_text(subject) + question_text(question))
            wanted = [plainly(loaded, context, loaded.encode(f" {letter}"), limit) for letter in LETTERS]
            assert found[question.id].nlls == pytest.approx(wanted, abs=2e-4)
            assert found[question.id].answer == question.answer
            assert found[question.id].chosen == int(np.argmin(wanted))


def test_most_of_the_work_is_shared(mmlu: Mmlu, loaded: LoadedModel) -> None:
    loaded.network.config.max_position_embeddings = 400
    for one in prompts_of(loaded, mmlu):
        assert len(one.shared_ids) > 10 * max(len(row.own_ids) for row in one.rows) / 3


def test_a_batch_counts_the_shared_tokens_of_each_of_its_questions(
    mmlu: Mmlu, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each has the cache of all of them: counted once, a batch on a card held four times what was planned.
    loaded.network.config.max_position_embeddings = 400
    most = 700
    held: list[int] = []
    work = multiple_choice._choice_nlls

    def watched(loaded: LoadedModel, opening: Any, rows: Any) -> Any:
        shared = opening.get_seq_length()
        held.append(sum(shared + len(row.own_ids) for row in rows))
        return work(loaded, opening, rows)

    monkeypatch.setattr(multiple_choice, "_choice_nlls", watched)
    prompts = prompts_of(loaded, mmlu)
    answer_questions(loaded, prompts, tokens_per_batch=most)
    assert max(held) <= most
    assert len(held) < sum(len(one.rows) for one in prompts), "several questions a batch"


@pytest.mark.skipif(not os.environ.get("SIXGIG_DATA"), reason="needs SIXGIG_DATA for the real questions")
def test_the_real_files_hold_all_questions() -> None:
    found = load_mmlu(Path(os.environ["SIXGIG_DATA"]))
    assert found is not None
    assert (len(found.subjects), found.num_questions) == (57, 14_042)
    assert sum(len(subject.examples) for subject in found.subjects) == 285


def test_csv_is_read_with_quotes_and_line_breaks(tmp_path: Path) -> None:
    write_mmlu(tmp_path)
    path = tmp_path / "mmlu" / "test" / "tides_test.csv"
    with path.open("a", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerow(['Two\nlines, "quoted"', "a", "b", "c", "d", "2"])
    found = load_mmlu(tmp_path)
    assert found is not None
    assert found.subjects[2].questions[-1].text == 'Two\nlines, "quoted"'
