"""Perplexity: every token but the first, no padding, and exactly V for a model that knows nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import VOCABULARY, fake_loaded, without_autocast

from sixgig.evaluate.perplexity import window_nlls
from sixgig.load.loaded import LoadedModel


def windows(loaded: LoadedModel) -> list[list[int]]:
    texts = ("rain fell on the old town", "a dog", "bread is made of flour and water", "no", "ab" * 30)
    return [loaded.encode(text) for text in texts]


@torch.no_grad()
def plain(loaded: LoadedModel, window: list[int]) -> float:
    logits = loaded.network(input_ids=torch.tensor([window])).logits[0, :-1].double()
    return float(F.cross_entropy(logits, torch.tensor(window[1:]), reduction="sum"))


@pytest.mark.parametrize("batch_size", [1, 2, 4, 50])
def test_each_window_equals_cross_entropy_whatever_it_is_batched_with(
    batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_autocast(monkeypatch)
    loaded = fake_loaded()
    got = window_nlls(loaded, windows(loaded), batch_size=batch_size)
    assert got.dtype == np.float64
    assert got.tolist() == pytest.approx([plain(loaded, window) for window in windows(loaded)], rel=1e-5)


def test_perplexity_is_the_exponential_of_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    without_autocast(monkeypatch)
    loaded = fake_loaded()
    chosen = windows(loaded)
    num_predicted = sum(len(window) - 1 for window in chosen)
    logits = [loaded.network(input_ids=torch.tensor([window])).logits[0, :-1] for window in chosen]
    targets = torch.cat([torch.tensor(window[1:]) for window in chosen])
    expected = float(F.cross_entropy(torch.cat(logits), targets).exp())
    assert np.exp(window_nlls(loaded, chosen).sum() / num_predicted) == pytest.approx(expected, rel=1e-5)


def test_a_model_that_knows_nothing_has_the_vocabulary_s_size() -> None:
    loaded = fake_loaded()
    loaded.head_VD.data.zero_()  # tied: all hidden states and all logits are zero
    chosen = windows(loaded)
    per_token = window_nlls(loaded, chosen) / [len(window) - 1 for window in chosen]
    assert np.exp(per_token) == pytest.approx([VOCABULARY] * len(chosen), rel=1e-6)


def test_autocast_moves_it_little() -> None:
    loaded = fake_loaded()
    got = window_nlls(loaded, windows(loaded))
    # bf16 rounds each of a few hundred products to 1 / 256; the errors of a window's tokens mostly cancel.
    assert got.tolist() == pytest.approx([plain(loaded, window) for window in windows(loaded)], rel=2e-2)


def test_numpy_windows_and_progress() -> None:
    loaded, told = fake_loaded(), []
    rows = np.array([[65, 66, 67], [68, 69, 70], [71, 72, 73]])
    got = window_nlls(loaded, rows.tolist(), batch_size=2, progress=lambda *so_far: told.append(so_far))
    assert got.shape == (3,)
    assert told == [(2, 3), (3, 3)]
    assert np.array_equal(window_nlls(loaded, list(rows), batch_size=2), got)


def test_no_windows_give_no_values() -> None:
    assert window_nlls(fake_loaded(), []).shape == (0,)
