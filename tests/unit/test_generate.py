"""The generation loop: stop, length, sampling, timings, whole characters; on a decoder with known logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import tiny_folder
from torch import Tensor

from sixgig.errors import InputError, NumericalError
from sixgig.runtime.generate import Generation, Sampling, choose
from sixgig.runtime.text_stream import stream_text


class Counting:
    """Its likeliest next token is one more than the last; it notes what it was asked."""

    context_tokens = 12

    def __init__(self) -> None:
        self.read: list[int] = []

    @property
    def position(self) -> int:
        return len(self.read)

    def reset(self) -> None:
        self.read.clear()

    def prefill(self, ids: Sequence[int]) -> Tensor:
        self.read += ids
        return torch.nn.functional.one_hot(torch.tensor(ids[-1] + 1), 20).float()

    def step(self, token: int) -> Tensor:
        return self.prefill([token])

    def set_alpha(self, alpha: float) -> None: ...


def test_the_likeliest_until_the_length() -> None:
    decoder = Counting()
    generation = Generation(decoder, [3, 4], max_new_tokens=4)
    assert list(generation) == [5, 6, 7, 8]
    assert decoder.read == [3, 4, 5, 6, 7]  # the last token is chosen, not read
    assert generation.prefill_ms is not None
    assert len(generation.decode_ms) == 3


def test_a_stop_token_is_the_last() -> None:
    decoder = Counting()
    assert list(Generation(decoder, [3], max_new_tokens=9, stop_ids={6, 5})) == [4, 5]
    assert decoder.read == [3, 4]


def test_nothing_is_read_before_the_first_token_is_asked_for() -> None:
    decoder = Counting()
    generation = Generation(decoder, [3], max_new_tokens=2)
    assert decoder.read == []
    assert next(generation) == 4
    assert decoder.read == [3]


def test_the_answer_must_fit_the_cache() -> None:
    assert len(list(Generation(Counting(), [0], max_new_tokens=12))) == 12
    with pytest.raises(InputError, match="fit the cache"):
        Generation(Counting(), [0], max_new_tokens=13)
    decoder = Counting()
    decoder.prefill([0] * 6)
    with pytest.raises(InputError, match="6 read"):
        Generation(decoder, [0], max_new_tokens=7)


@pytest.mark.parametrize(("ids", "new"), [([], 1), ([1], 0)])
def test_nothing_to_do_is_refused(ids: list[int], new: int) -> None:
    with pytest.raises(InputError, match="nothing to generate"):
        Generation(Counting(), ids, max_new_tokens=new)


def test_sampling_needs_a_generator() -> None:
    with pytest.raises(InputError, match="generator"):
        Generation(Counting(), [1], max_new_tokens=1, sampling=Sampling(temperature=1.0))


@pytest.mark.parametrize("bad", [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_p": 0.0}])
def test_bad_settings(bad: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Sampling(**bad)


def test_what_is_not_a_number_is_not_an_answer() -> None:
    for bad in (float("nan"), float("inf")):
        with pytest.raises(NumericalError):
            choose(torch.tensor([0.0, bad, 1.0]), Sampling(), None)


def test_samples_follow_the_softmax() -> None:
    logits_V, sampling = torch.tensor([0.0, 1.0, 2.0]), Sampling(temperature=0.5)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([choose(logits_V, sampling, generator) for _ in range(4000)])
    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    torch.testing.assert_close(shares, torch.softmax(logits_V / 0.5, dim=0), atol=0.03, rtol=0)


def test_the_nucleus_is_the_fewest_that_reach_top_p() -> None:
    logits_V = torch.tensor([0.15, 0.5, 0.05, 0.3]).log()
    generator = torch.Generator().manual_seed(0)
    for top_p, kept in ((0.4, {1}), (0.5, {1}), (0.51, {1, 3}), (0.81, {0, 1, 3}), (1.0, {0, 1, 2, 3})):
        sampling = Sampling(temperature=1.0, top_p=top_p)
        assert {choose(logits_V, sampling, generator) for _ in range(400)} == kept


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    from transformers import AutoTokenizer

    folder: Path = tiny_folder(tmp_path_factory.mktemp("tokenizer") / "model")
    return AutoTokenizer.from_pretrained(folder)


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="ab \n.é日本😀,'", max_size=30))
def test_pieces_are_whole_characters_and_sum_to_the_answer(tokenizer, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = list(stream_text(iter(ids), tokenizer))
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)
    assert all(pieces)
    if "�" not in tokenizer.decode(ids):
        assert not any("�" in piece for piece in pieces)


def test_text_comes_before_the_answer_ends(tokenizer) -> None:
    ids = tokenizer("one two three", add_special_tokens=False)["input_ids"]
    read = []

    def tokens():
        for token in ids:
            read.append(token)
            yield token

    first = next(stream_text(tokens(), tokenizer))
    assert "one two three".startswith(first)
    assert len(read) < len(ids)
