"""One pass over question and answer tells what greedy decoding says."""

from __future__ import annotations

import pytest
import torch
from tiny_model import tiny_folder

from sixgig.data.batches import TokenSequence, secret_only
from sixgig.evaluate.answers import answered_rightly
from sixgig.evaluate.batching import fixed_size
from sixgig.load.loaded import LoadedModel, load
from sixgig.transform.training import mixed_precision


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(tiny_folder(tmp_path_factory.mktemp("model") / "tiny"))


def decoded(tiny: LoadedModel, prompt: list[int], num_tokens: int) -> list[int]:
    """Greedy, token by token, each time over the whole text."""
    ids = list(prompt)
    for _ in range(num_tokens):
        with torch.no_grad(), mixed_precision(tiny.device):
            ids.append(int(tiny.network(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def questions(tiny: LoadedModel) -> tuple[list[TokenSequence], list[bool]]:
    """Answers of 1 to 4 tokens: what the model would say, and the same with each place wrong in turn."""
    found, expected = [], []
    for number in range(12):
        prompt = tiny.encode(f"{number}+{7 * number}=")
        said = decoded(tiny, prompt, 1 + number % 4)
        found.append(secret_only(prompt, said))
        expected.append(True)
        for place in range(len(said)):
            wrong = [(token + 1) % 250 if at == place else token for at, token in enumerate(said)]
            found.append(secret_only(prompt, wrong))
            expected.append(False)
    return found, expected


def test_it_equals_greedy_decoding(tiny: LoadedModel) -> None:
    asked, expected = questions(tiny)
    assert answered_rightly(tiny, asked) == expected
    assert any(expected)
    assert not all(expected)


def test_batches_of_any_size_say_the_same(tiny: LoadedModel) -> None:
    asked, expected = questions(tiny)
    shown: list[tuple[int, int]] = []
    found = answered_rightly(
        tiny, asked, ladder=fixed_size(32), progress=lambda done, total: shown.append((done, total))
    )
    assert found == expected
    assert shown[-1] == (len(asked), len(asked))
    assert len(shown) > 3


def test_no_question_has_no_answer(tiny: LoadedModel) -> None:
    assert answered_rightly(tiny, []) == []
