"""Which questions a model answers rightly, word for word, when it always says what it holds most likely.

One pass over question and right answer tells: where the most likely next token is the answer's at every
place, greedy decoding takes exactly that way; where it is not, decoding leaves it at the first such place.
So nothing has to be decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..data.batches import TokenSequence, collate
from ..load.loaded import LoadedModel
from ..memory.ladder import Ladder
from ..numerics.likelihood import likeliest
from ..transform.training import hidden_states, mixed_precision
from .batching import LookSize, fixed_size, in_batches


@torch.no_grad()
def answered_rightly(
    loaded: LoadedModel,
    questions: Sequence[TokenSequence],
    *,
    ladder: Ladder[LookSize] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[bool]:
    """For each question, whether greedy decoding gives all tokens that count, to the last.

    `ladder` says how many tokens go through together, and what is done when memory runs out.
    """
    length = max((len(one.ids) for one in questions), default=1)
    right: list[bool] = []
    for some in in_batches(
        questions, ladder or fixed_size(8192), lambda group: _right(loaded, group), tokens_per_item=length
    ):
        right.extend(some)
        progress(len(right), len(questions))
    return right


def _right(loaded: LoadedModel, questions: Sequence[TokenSequence]) -> list[bool]:
    batch = collate(questions).to(loaded.device)
    counted_BT = batch.weights_BT > 0
    with mixed_precision(loaded.device):
        likeliest_N = likeliest(hidden_states(loaded, batch)[counted_BT], loaded.head)
    wrong_BT = torch.zeros_like(counted_BT)
    wrong_BT[counted_BT] = likeliest_N != batch.targets_BT[counted_BT]
    return (~wrong_BT.any(dim=1)).tolist()
