"""Teaching a changed model to answer public text as the whole one does: what both fits have in common.

Only the teacher's final hidden states are needed, and they are taken once, before its weights make room for
the student's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..data.batches import TokenBatch
from ..load.loaded import LoadedModel
from ..numerics.likelihood import OutputHead, allowed_rows
from .training import hidden_states, mixed_precision, pieces, quick_attention


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A public batch with the teacher's final hidden states [N, D] at its N counted positions."""

    batch: TokenBatch
    teacher_ND: Tensor


@torch.no_grad()
def prepare_lessons(loaded: LoadedModel, public: Sequence[TokenBatch]) -> list[Lesson]:
    """The teacher's answers on public text; call while `loaded` still holds the teacher."""
    lessons = []
    for batch in public:
        on_device = batch.to(loaded.device)
        with mixed_precision(loaded.device):
            hidden_BTD = hidden_states(loaded, on_device)
        chosen = hidden_BTD[on_device.weights_BT > 0].to(torch.bfloat16)
        lessons.append(Lesson(batch=batch, teacher_ND=chosen.cpu()))
    return lessons


def lesson_pieces(loaded: LoadedModel, lesson: Lesson, num_pieces: int) -> list[Callable[[], Tensor]]:
    """For `minimise`: the lesson in at most `num_pieces` pieces; together KL(teacher || student) a counted
    position, in nats."""
    num_counted = len(lesson.teacher_ND)
    return [partial(_mean_kl, loaded, piece, num_counted) for piece in _cut(lesson, num_pieces)]


def endless_order(generator: np.random.Generator, num_items: int, num_draws: int) -> np.ndarray:
    """At least `num_draws` indices: every item once, in random order, before any comes again."""
    if not num_items:
        return np.zeros(0, dtype=np.int64)
    rounds = -(-num_draws // num_items)
    return np.concatenate([generator.permutation(num_items) for _ in range(max(rounds, 1))])


def _mean_kl(loaded: LoadedModel, piece: Lesson, num_counted: int) -> Tensor:
    batch = piece.batch.to(loaded.device)
    with mixed_precision(loaded.device), quick_attention(batch):
        student_ND = hidden_states(loaded, batch)[batch.weights_BT > 0]
        kl_sum = kl_divergence_sum(student_ND, piece.teacher_ND.to(loaded.device), loaded.head)
    return kl_sum / num_counted


def kl_divergence_sum(
    student_ND: Tensor, teacher_ND: Tensor, head: Tensor | OutputHead, *, chunk_rows: int = 256
) -> Tensor:
    """Sum over rows of KL(teacher || student) of the next-token distributions in nats, chunk by chunk.

    Logits are computed again in the backward pass, so that those of one chunk at most are held.
    """
    total = student_ND.new_zeros((), dtype=torch.float32)
    whole = head if isinstance(head, OutputHead) else OutputHead(weight_VD=head)
    cast_head = whole.cast_for(student_ND)
    chunk_rows = allowed_rows(chunk_rows)
    for start in range(0, len(student_ND), chunk_rows):
        stop = start + chunk_rows
        part = checkpoint(
            _kl_sum, student_ND[start:stop], teacher_ND[start:stop], cast_head, use_reentrant=False
        )
        total = total + cast(Tensor, part)
    return total


def _cut(lesson: Lesson, num_pieces: int) -> Iterator[Lesson]:
    counted_B = (lesson.batch.weights_BT > 0).sum(dim=1)
    ends_B = counted_B.cumsum(dim=0)
    for rows in pieces(range(len(counted_B)), num_pieces):
        first, last = rows[0], rows[-1]
        begin = int(ends_B[first] - counted_B[first])
        yield Lesson(
            batch=lesson.batch.rows(first, last + 1), teacher_ND=lesson.teacher_ND[begin : int(ends_B[last])]
        )


def _kl_sum(student_ND: Tensor, teacher_ND: Tensor, head: OutputHead) -> Tensor:
    student = F.log_softmax(head.logits(student_ND).float(), dim=-1)
    teacher = F.log_softmax(head.logits(teacher_ND.to(head.weight_VD.dtype)).float(), dim=-1)
    return F.kl_div(student, teacher, reduction="sum", log_target=True)
