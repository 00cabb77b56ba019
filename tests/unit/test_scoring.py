"""Continuations scored after a shared prefix equal one ordinary pass each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import fake_loaded, without_autocast
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sixgig.evaluate.scoring import Continuations, score_continuations
from sixgig.load.loaded import LoadedModel

IDS = st.integers(0, 255)
ITEM = st.builds(
    lambda prefix, continuations: Continuations(
        prefix_ids=tuple(prefix), continuation_ids=tuple(tuple(ids) for ids in continuations)
    ),
    st.lists(IDS, min_size=1, max_size=6),
    st.lists(st.lists(IDS, min_size=1, max_size=5), min_size=1, max_size=4),
)


@torch.no_grad()
def one_by_one(loaded: LoadedModel, item: Continuations) -> list[float]:
    """The specification: a whole pass for each continuation, no cache, no padding, no batch."""
    sums = []
    for ids in item.continuation_ids:
        sequence = torch.tensor([item.prefix_ids + ids])
        logits = loaded.network(input_ids=sequence, use_cache=False).logits[0]
        predicted = logits[len(item.prefix_ids) - 1 : -1].double()
        sums.append(float(F.cross_entropy(predicted, torch.tensor(ids), reduction="sum")))
    return sums


@given(items=st.lists(ITEM, min_size=1, max_size=5), tokens_per_batch=st.sampled_from([1, 8, 4096]))
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_scores_equal_single_passes_in_order_however_packed(
    items: list[Continuations], tokens_per_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_autocast(monkeypatch)
    loaded = fake_loaded()
    scored = score_continuations(loaded, items, tokens_per_batch=tokens_per_batch)
    assert len(scored) == len(items)
    for item, nll in zip(items, scored, strict=True):
        assert nll.dtype == np.float64
        assert nll.tolist() == pytest.approx(one_by_one(loaded, item), rel=1e-4, abs=1e-4)


def mixed_items(loaded: LoadedModel) -> list[Continuations]:
    prefixes = ("The code of Ann is", "x", "The code of Bob is", "A longer prefix than those before it")
    secrets = (" 4711", " 9", "z", " many more tokens here")
    return [
        Continuations(
            prefix_ids=tuple(loaded.encode(prefix)),
            continuation_ids=tuple(tuple(loaded.encode(secret)) for secret in secrets[: 1 + number]),
        )
        for number, prefix in enumerate(prefixes)
    ]


def test_single_token_continuations_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    without_autocast(monkeypatch)
    loaded = fake_loaded()
    item = Continuations(prefix_ids=(65, 66), continuation_ids=((67,), (68,), (0,)))
    assert score_continuations(loaded, [item])[0].tolist() == pytest.approx(
        one_by_one(loaded, item), rel=1e-5
    )


def test_under_autocast_the_packing_hardly_matters() -> None:
    # bf16 rounds to 1 / 256, and sums in another order for other shapes: about a hundredth of each NLL.
    loaded = fake_loaded()
    items = mixed_items(loaded)
    single, together = (score_continuations(loaded, items, tokens_per_batch=size) for size in (1, 4096))
    for one, other, item in zip(single, together, items, strict=True):
        assert one == pytest.approx(other, rel=2e-2)
        assert one == pytest.approx(np.array(one_by_one(loaded, item)), rel=3e-2)


def test_scoring_leaves_no_trace_between_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    without_autocast(monkeypatch)
    loaded = fake_loaded()
    items = mixed_items(loaded)
    first, again = score_continuations(loaded, items), score_continuations(loaded, items)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_progress_reaches_the_number_of_items() -> None:
    loaded, told = fake_loaded(), []
    items = mixed_items(loaded)
    score_continuations(loaded, items, tokens_per_batch=1, progress=lambda *so_far: told.append(so_far))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (len(items), len(items))


def test_nothing_to_score_gives_nothing() -> None:
    assert score_continuations(fake_loaded(), []) == []
