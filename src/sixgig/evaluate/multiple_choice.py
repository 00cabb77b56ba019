"""MMLU by likelihood: which of " A", " B", " C", " D" a model finds likeliest after the question.

The protocol is that of the `mmlu` group of EleutherAI's lm-evaluation-harness: a sentence that names the
subject, five worked examples in the file's order, the question; no special tokens; log-likelihoods summed
over a choice's tokens; prompts longer than the model's context lose their beginning.

All questions of a subject begin with the same few-shot text, which is most of the work. It runs once, and the
questions share its cache. Tokens are those of the whole prompt, so nothing about the numbers changes but the
rounding of other shapes.

Shapes: Q rows (a question's own tokens), S tokens of the longest, M scored tokens, D hidden.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.mmlu import NUM_CHOICES, Mmlu, Question, Subject
from ..errors import InputError
from ..load.loaded import LoadedModel
from ..memory.ladder import Ladder
from ..numerics.likelihood import token_nll
from ..transform.training import mixed_precision
from .batching import LookSize, fixed_size, in_batches

LETTERS = ("A", "B", "C", "D")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One question: NLL in nats of each choice, and the place of the right one."""

    id: str
    subject: str
    nlls: tuple[float, ...]
    answer: int

    @property
    def chosen(self) -> int:
        return int(np.argmin(self.nlls))

    @property
    def is_right(self) -> bool:
        return self.chosen == self.answer


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One question as tokens: `own_ids` follow the subject's shared ones; then one of `choice_ids`."""

    question: Question
    own_ids: tuple[int, ...]
    choice_ids: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """A subject ready to be scored. `cut` rows were longer than the context and share nothing."""

    subject: str
    shared_ids: tuple[int, ...]
    rows: tuple[_Row, ...]
    cut: tuple[_Row, ...]

    @property
    def num_tokens(self) -> int:
        """Through the model, the shared ones once."""
        return len(self.shared_ids) + sum(len(row.own_ids) for row in (*self.rows, *self.cut))


# ---- prompts -----------------------------------------------------------------------------------------


def few_shot_text(subject: Subject) -> str:
    """What comes before every question of `subject`."""
    opening = (
        f"The following are multiple choice questions (with answers) about {subject.name.replace('_', ' ')}."
    )
    shown = [f"{question_text(example)} {LETTERS[example.answer]}" for example in subject.examples]
    return "".join(f"{part}\n\n" for part in (opening, *shown))


def question_text(question: Question) -> str:
    choices = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=True)]
    return "\n".join([question.text.strip(), *choices, "Answer:"])


def prompts_of(loaded: LoadedModel, mmlu: Mmlu) -> list[Prompts]:
    """Every subject's prompts as tokens. Raises InputError where a context is too short for one question."""
    limit = int(loaded.network.config.max_position_embeddings)
    return [_prompts(loaded, subject, limit) for subject in mmlu.subjects]


def _prompts(loaded: LoadedModel, subject: Subject, limit: int) -> Prompts:
    before = few_shot_text(subject)
    contexts = [before + question_text(question) for question in subject.questions]
    texts = [text for context in contexts for text in (context, *(f"{context} {x}" for x in LETTERS))]
    encoded = loaded.encode_all(texts)
    whole: list[_Row] = []
    cut: list[_Row] = []
    for number, question in enumerate(subject.questions):
        context, *answered = encoded[number * (NUM_CHOICES + 1) : (number + 1) * (NUM_CHOICES + 1)]
        # As the harness cuts them: what the whole text has after as many tokens as the context alone has.
        choices = tuple(tuple(ids[len(context) :]) for ids in answered)
        room = limit - max(map(len, choices)) + 1
        if room < 2 or not all(choices):
            raise InputError("a question that this model cannot be asked", where=question.id)
        row = _Row(question=question, own_ids=tuple(context[-room:]), choice_ids=choices)
        (whole if len(context) <= room else cut).append(row)
    num_shared = _num_shared([row.own_ids for row in whole])
    shared = whole[0].own_ids[:num_shared] if whole else ()
    rows = [
        _Row(question=row.question, own_ids=row.own_ids[num_shared:], choice_ids=row.choice_ids)
        for row in whole
    ]
    return Prompts(subject=subject.name, shared_ids=shared, rows=tuple(rows), cut=tuple(cut))


def _num_shared(prompts: Sequence[tuple[int, ...]]) -> int:
    """Tokens that all prompts begin with, each keeping one of its own at least."""
    if not prompts:
        return 0
    alike = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False))
    return min(sum(1 for _ in alike), *(len(prompt) - 1 for prompt in prompts))


# ---- scoring -----------------------------------------------------------------------------------------


@torch.no_grad()
def answer_questions(
    loaded: LoadedModel,
    prompts: Sequence[Prompts],
    *,
    tokens_per_batch: int = 2048,
    ladder: Ladder[LookSize] | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> list[Outcome]:
    """Each question's outcome, subject by subject. `ladder` takes the place of `tokens_per_batch`."""
    ladder = ladder or fixed_size(tokens_per_batch)
    total, done = sum(one.num_tokens for one in prompts), 0
    found: list[Outcome] = []
    for one in prompts:
        found += _answered(loaded, one.subject, one.shared_ids, one.rows, ladder)
        for row in one.cut:
            found += _answered(loaded, one.subject, (), (row,), ladder)
        done += one.num_tokens
        progress(done / total)
    return found


def _answered(
    loaded: LoadedModel,
    subject: str,
    shared_ids: tuple[int, ...],
    rows: Sequence[_Row],
    ladder: Ladder[LookSize],
) -> list[Outcome]:
    if not rows:
        return []
    opening = ladder.run(lambda _: _opening(loaded, shared_ids)) if shared_ids else None
    # Every question of a batch has the shared tokens' cache to itself, which is most of what a batch holds.
    longest = len(shared_ids) + max(len(row.own_ids) for row in rows)

    def work(some: Sequence[_Row]) -> list[Outcome]:
        nlls = _choice_nlls(loaded, opening, some)
        return [
            Outcome(id=row.question.id, subject=subject, nlls=tuple(nll), answer=row.question.answer)
            for row, nll in zip(some, nlls, strict=True)
        ]

    return [one for some in in_batches(rows, ladder, work, tokens_per_item=longest) for one in some]


def _opening(loaded: LoadedModel, shared_ids: tuple[int, ...]) -> Any:
    """The cache of the few-shot text, for one sequence."""
    ids_1P = torch.tensor([shared_ids], device=loaded.device)
    with mixed_precision(loaded.device):
        return loaded.network.base_model(input_ids=ids_1P, use_cache=True).past_key_values


def _choice_nlls(loaded: LoadedModel, opening: Any, rows: Sequence[_Row]) -> list[list[float]]:
    """[Q][choice] summed NLL. Choices that differ in their last token alone (all, mostly) share a pass."""
    inputs: dict[tuple[int, tuple[int, ...]], int] = {}  # (row, a choice's tokens but its last) -> place
    for number, row in enumerate(rows):
        for choice in row.choice_ids:
            inputs.setdefault((number, choice[:-1]), len(inputs))
    sequences = [(*rows[number].own_ids, *start) for number, start in inputs]
    place_M: list[tuple[int, int]] = []  # (sequence, position) that predicts each scored token
    target_M, owner_M = [], []
    for number, row in enumerate(rows):
        for which, choice in enumerate(row.choice_ids):
            for offset, token in enumerate(choice):
                place_M.append((inputs[number, choice[:-1]], len(row.own_ids) - 1 + offset))
                target_M.append(token)
                owner_M.append(number * NUM_CHOICES + which)
    with mixed_precision(loaded.device):
        hidden_QSD = _hidden(loaded, opening, sequences)
        chosen_MD = hidden_QSD[[place for place, _ in place_M], [position for _, position in place_M]]
        nll_M = token_nll(chosen_MD, loaded.head, torch.tensor(target_M, device=loaded.device))
    sums = np.bincount(owner_M, weights=nll_M.double().cpu().numpy(), minlength=len(rows) * NUM_CHOICES)
    return [[float(nll) for nll in row] for row in sums.reshape(len(rows), NUM_CHOICES)]


def _hidden(loaded: LoadedModel, opening: Any, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Hidden states [Q, S, D] after the shared tokens; padded on the right, where nothing real looks."""
    longest = max(map(len, sequences))
    ids_QS = torch.tensor(
        [[*sequence, *[0] * (longest - len(sequence))] for sequence in sequences], device=loaded.device
    )
    cache = copy.deepcopy(opening)  # the pass writes into it, and the next batch begins anew
    if cache is not None:
        cache.batch_select_indices(torch.zeros(len(sequences), dtype=torch.int64, device=loaded.device))
    return loaded.network.base_model(
        input_ids=ids_QS, past_key_values=cache, use_cache=cache is not None
    ).last_hidden_state
