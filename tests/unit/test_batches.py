"""Batches: padding never counts, targets are the next tokens, weights follow the token that is predicted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sixgig.data.batches import TokenSequence, batches, collate, secret_only, whole_text
from sixgig.errors import InputError

SEQUENCES = st.lists(
    st.lists(st.tuples(st.integers(0, 255), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=9),
    min_size=1,
    max_size=5,
).map(
    lambda rows: [
        TokenSequence(ids=tuple(i for i, _ in row), weights=tuple(w for _, w in row)) for row in rows
    ]
)


@given(sequences=SEQUENCES)
@settings(deadline=None, max_examples=60)
def test_every_position_predicts_the_next_token_with_its_weight(sequences: list[TokenSequence]) -> None:
    batch = collate(sequences)
    length = max(len(sequence.ids) for sequence in sequences)
    assert batch.ids_BT.shape == batch.mask_BT.shape == (len(sequences), length)
    assert batch.targets_BT.shape == batch.weights_BT.shape == (len(sequences), length)
    for row, sequence in enumerate(sequences):
        for t in range(length):
            real = t < len(sequence.ids)
            follows = t + 1 < len(sequence.ids)
            weight = sequence.weights[t + 1] if follows else 0.0
            assert int(batch.mask_BT[row, t]) == int(real)
            assert int(batch.ids_BT[row, t]) == (sequence.ids[t] if real else 0)
            assert float(batch.weights_BT[row, t]) == weight
            assert int(batch.targets_BT[row, t]) == (sequence.ids[t + 1] if weight > 0 else 0)


def test_whole_text_counts_every_token_but_the_first() -> None:
    batch = collate([whole_text([5, 6, 7])])
    assert batch.weights_BT.tolist() == [[1.0, 1.0, 0.0]]
    assert batch.targets_BT.tolist() == [[6, 7, 0]]


def test_secret_only_counts_from_the_prefix_s_last_position() -> None:
    batch = collate([secret_only([1, 2, 3], [8, 9])])
    assert batch.ids_BT.tolist() == [[1, 2, 3, 8, 9]]
    assert batch.weights_BT.tolist() == [[0.0, 0.0, 1.0, 1.0, 0.0]]
    assert batch.targets_BT.tolist() == [[0, 0, 8, 9, 0]]


def test_types() -> None:
    batch = collate([whole_text([1, 2])])
    assert {batch.ids_BT.dtype, batch.mask_BT.dtype, batch.targets_BT.dtype} == {torch.int64}
    assert batch.weights_BT.dtype == torch.float32


@given(sequences=SEQUENCES, batch_size=st.integers(1, 6))
@settings(deadline=None, max_examples=30)
def test_batches_keep_order_and_lose_nothing(sequences: list[TokenSequence], batch_size: int) -> None:
    texts = []
    for batch in batches(sequences, batch_size):
        assert len(batch.ids_BT) <= batch_size
        for ids, mask in zip(batch.ids_BT, batch.mask_BT, strict=True):
            texts.append(tuple(ids[mask.bool()].tolist()))
    assert texts == [sequence.ids for sequence in sequences]


def test_rows_cut_every_tensor_alike() -> None:
    batch = collate([whole_text([1, 2, 3]), whole_text([4, 5]), whole_text([6])])
    part = batch.rows(1, 3)
    assert torch.equal(part.ids_BT, batch.ids_BT[1:])
    assert torch.equal(part.mask_BT, batch.mask_BT[1:])
    assert torch.equal(part.targets_BT, batch.targets_BT[1:])
    assert torch.equal(part.weights_BT, batch.weights_BT[1:])


def test_to_moves_every_tensor() -> None:
    moved = collate([whole_text([1, 2])]).to(torch.device("meta"))
    tensors = (moved.ids_BT, moved.mask_BT, moved.targets_BT, moved.weights_BT)
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(InputError, match="no sequences"):
        collate([])


def test_ids_and_weights_must_match() -> None:
    with pytest.raises(AssertionError):
        TokenSequence(ids=(1, 2), weights=(1.0,))
