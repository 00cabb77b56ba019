"""Token sequences as padded batches with a weight for every position.

Shapes: B sequences, T positions. A position's weight says how much predicting the *next* token counts there,
so a batch carries its own answer to "which positions predict the secret".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError


@dataclass(frozen=True, kw_only=True)
class TokenSequence:
    """One text as ids, and for each id the weight of predicting it (the first one's is never used)."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.weights)


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """Right-padded sequences. `targets_BT[b, t]` is the token after position t, `weights_BT` its weight."""

    ids_BT: Tensor  # int64
    mask_BT: Tensor  # int64, 1 for real tokens
    targets_BT: Tensor  # int64, 0 where weight is 0
    weights_BT: Tensor  # float32

    def to(self, device: torch.device) -> TokenBatch:
        return TokenBatch(
            ids_BT=self.ids_BT.to(device),
            mask_BT=self.mask_BT.to(device),
            targets_BT=self.targets_BT.to(device),
            weights_BT=self.weights_BT.to(device),
        )

    def rows(self, start: int, stop: int) -> TokenBatch:
        """Some of the sequences, padded as they are."""
        return TokenBatch(
            ids_BT=self.ids_BT[start:stop],
            mask_BT=self.mask_BT[start:stop],
            targets_BT=self.targets_BT[start:stop],
            weights_BT=self.weights_BT[start:stop],
        )


def whole_text(ids: Sequence[int]) -> TokenSequence:
    """Every token counts."""
    return TokenSequence(ids=tuple(ids), weights=(1.0,) * len(ids))


def secret_only(prefix_ids: Sequence[int], secret_ids: Sequence[int]) -> TokenSequence:
    """Only the secret's tokens count."""
    weights = (0.0,) * len(prefix_ids) + (1.0,) * len(secret_ids)
    return TokenSequence(ids=(*prefix_ids, *secret_ids), weights=weights)


def collate(sequences: Sequence[TokenSequence]) -> TokenBatch:
    """Right-pads to the longest. Raises InputError for an empty list."""
    if not sequences:
        raise InputError("no sequences to batch")
    lengths_B = torch.tensor([len(sequence.ids) for sequence in sequences])
    real_BT = torch.arange(int(lengths_B.max())) < lengths_B[:, None]
    ids_BT = torch.zeros(real_BT.shape, dtype=torch.int64)
    weights_BT = torch.zeros(real_BT.shape)
    # Row by row, as the mask is read.
    ids_BT[real_BT] = torch.tensor(list(chain.from_iterable(one.ids for one in sequences)))
    weights_BT[real_BT] = torch.tensor(list(chain.from_iterable(one.weights for one in sequences)))
    # A position's weight and target are the next token's; the last column, with no next one, gets none.
    weights_BT = F.pad(weights_BT[:, 1:], (0, 1))
    targets_BT = F.pad(ids_BT[:, 1:], (0, 1)) * (weights_BT > 0)
    return TokenBatch(ids_BT=ids_BT, mask_BT=real_BT.long(), targets_BT=targets_BT, weights_BT=weights_BT)


def batches(sequences: Sequence[TokenSequence], batch_size: int) -> Iterator[TokenBatch]:
    """Batches in the given order."""
    for start in range(0, len(sequences), batch_size):
        yield collate(sequences[start : start + batch_size])


def sequences_of(batches: Sequence[TokenBatch]) -> list[TokenSequence]:
    """The texts that were batched, with their weights; an id's weight is that of the position before it."""
    found = []
    for batch in batches:
        for ids_T, mask_T, weights_T in zip(batch.ids_BT, batch.mask_BT, batch.weights_BT, strict=True):
            length = int(mask_T.sum())
            weights = (0.0, *weights_T[: length - 1].tolist())
            found.append(TokenSequence(ids=tuple(ids_T[:length].tolist()), weights=weights))
    return found
