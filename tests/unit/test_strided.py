"""Windows over a long text: the papers' protocol and the strided one, against the plainest code."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from fakes import fake_loaded, without_autocast

from sixgig.data.corpora import joined_as_quantisation_papers_do, load_public_text
from sixgig.errors import InputError
from sixgig.evaluate.perplexity import sequence_nlls, window_nlls
from sixgig.evaluate.strided import scored_windows

IDS = [(7 * i * i + 3 * i) % 256 for i in range(130)]


def test_without_a_stride_windows_lie_side_by_side_and_the_rest_is_dropped() -> None:
    found = scored_windows(IDS, window=32)
    assert [list(one.ids) for one in found.sequences] == [IDS[i : i + 32] for i in (0, 32, 64, 96)]
    assert found.num_scored == (31, 31, 31, 31)
    assert len(scored_windows(IDS, window=32, num_windows=2).sequences) == 2


@pytest.mark.parametrize("stride", [1, 5, 8, 31, 32])
def test_with_a_stride_every_token_is_scored_once(stride: int) -> None:
    found = scored_windows(IDS, window=32, stride=stride)
    scored = [
        number * stride + place
        for number, one in enumerate(found.sequences)
        for place, weight in enumerate(one.weights)
        if weight and (place or stride < 32)
    ]
    counted = [place for place in scored if place > 0]
    assert len(counted) == len(set(counted))
    assert sum(found.num_scored) == len(counted)
    if stride < 32:
        assert counted == list(range(1, len(counted) + 1))


@pytest.mark.parametrize(("window", "stride"), [(1, None), (32, 0), (32, 33), (131, None), (0, None)])
def test_what_scores_nothing_is_refused(window: int, stride: int | None) -> None:
    with pytest.raises(InputError):
        scored_windows(IDS, window=window, stride=stride)


def test_more_windows_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match="4 windows"):
        scored_windows(IDS, window=32, num_windows=5)


@pytest.mark.parametrize("stride", [None, 8])
@torch.no_grad()
def test_nlls_are_those_of_one_plain_pass_a_window(
    stride: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_autocast(monkeypatch)
    loaded = fake_loaded()
    found = scored_windows(IDS, window=32, stride=stride, num_windows=3)
    nlls = sequence_nlls(loaded, found.sequences, batch_size=2)
    step = stride or 32
    for number, nll in enumerate(nlls):
        ids = IDS[number * step : number * step + 32]
        logits = loaded.network(torch.tensor([ids])).logits[0, :-1].log_softmax(dim=-1)
        each = -logits[range(31), ids[1:]].double()
        wanted = each if number == 0 or stride is None else each[-step:]
        assert nll == pytest.approx(float(wanted.sum()), abs=1e-3)
        assert found.num_scored[number] == len(wanted)


def test_windows_of_whole_texts_are_what_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    without_autocast(monkeypatch)
    loaded = fake_loaded()
    windows = [IDS[:32], IDS[32:64]]
    sequences = scored_windows(IDS, window=32, num_windows=2).sequences
    assert window_nlls(loaded, windows).tolist() == sequence_nlls(loaded, sequences).tolist()
    assert math.isfinite(float(window_nlls(loaded, windows).sum()))


def test_rows_are_joined_as_the_papers_join_them() -> None:
    text = " \n = Title = \n \n One line . \n"
    assert joined_as_quantisation_papers_do(text) == "\n\n = Title = \n\n\n\n\n One line . \n"


@pytest.mark.skipif(not os.environ.get("SIXGIG_DATA"), reason="needs SIXGIG_DATA for the real text")
def test_the_joined_text_is_the_one_that_the_papers_score() -> None:
    data_dir = Path(os.environ["SIXGIG_DATA"])
    with (data_dir / "wikitext2" / "test_gptq_joined.txt").open(encoding="utf-8", newline="") as handle:
        joined = handle.read()
    assert joined_as_quantisation_papers_do(load_public_text("test", data_dir=data_dir).text) == joined
