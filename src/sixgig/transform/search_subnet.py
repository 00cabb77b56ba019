"""The search behind the sieve subnet: which entries, set to 0, forget the private texts and little else.

Deviations from BalancedSubnet (Sakarvadia et al. 2025, arXiv 2410.02159):

- Scores begin at 0 and are moved by the plain gradient. The order within a layer then depends on no learning
  rate and on no random start; the paper draws scores at random and takes momentum and weight decay. An entry
  leaves only where its score is above 0, so the first mask is empty.
- Forgetting is bounded: a text whose mean NLL has reached `level` adds nothing more. The paper's loss has no
  lower bound. The search ends when the private texts' mean has come up to `level`.
- The loss on public text is the KL to the whole model, which has a minimum where nothing has changed.
- Every linear layer takes part, not the MLP's alone.
- Entries are ranked by score / (cost + damping * mean cost), cost = F_r W^2, and the mask grows step by step.
  By the score alone the first mask is that of the forgetting (KL has no gradient where nothing is masked
  yet); it takes weights that everything passes through, and a few thousand of them end the model.

Shapes: B sequences, N counted positions, O out features, I in features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.batches import TokenSequence, batches, collate
from ..errors import NumericalError
from ..load.loaded import LoadedModel
from ..memory.ladder import Ladder, Move
from ..numerics.finite import all_finite
from ..numerics.likelihood import token_nll
from ..numerics.sparse import SparsePart, keep_top_k
from .distil import endless_order, lesson_pieces, prepare_lessons
from .gradients import PUBLIC, GradientSource
from .search import Found, SearchContext, control_level, mean_nll, replaced
from .training import hidden_states, mixed_precision, pieces, quick_attention

if TYPE_CHECKING:
    from .sieve.subnet import SubnetSieve

LOOK_EVERY = 5  # steps, at the private texts' mean
MAX_PIECES = 256

Losses = Callable[[int, int], list[Callable[[], Tensor]]]


def search_subnet(sieve: SubnetSieve, context: SearchContext) -> Found:
    """M of every layer, as entries of W. Raises NumericalError where a gradient holds NaN or Inf."""
    level = control_level(context, sieve.name, sieve.level)
    lessons = prepare_lessons(context.loaded, [*batches(context.public, sieve.windows_per_step)])
    modules = _masked(sieve, context)
    generator = np.random.default_rng(np.random.SeedSequence([context.seed, 0x5BE7]))
    size = sieve.texts_per_step
    texts = [context.private[start : start + size] for start in range(0, len(context.private), size)]
    private_order = endless_order(generator, len(texts), sieve.num_steps)
    public_order = endless_order(generator, len(lessons), sieve.num_steps)

    def losses_at(step: int, num_pieces: int) -> list[Callable[[], Tensor]]:
        forget = hinge_pieces(context.loaded, texts[private_order[step]], level, num_pieces)
        retain = lesson_pieces(context.loaded, lessons[public_order[step]], num_pieces)
        weights = [sieve.forget_weight] * len(forget) + [1 - sieve.forget_weight] * len(retain)
        return [
            partial(_weighted, weight, part) for weight, part in zip(weights, [*forget, *retain], strict=True)
        ]

    with replaced(context.loaded, modules):
        _search(modules, losses_at, sieve, context, level)
    return {name: module.removed() for name, module in modules.items()}


def _masked(sieve: SubnetSieve, context: SearchContext) -> dict[str, _MaskedLinear]:
    source = GradientSource(
        context.loaded,
        sieve.needs,
        {PUBLIC: context.public},
        seed=context.seed,
        fallbacks=context.fallbacks,
    )
    found = {}
    for name, linear in context.linears.items():
        gradients = source.of(name)
        assert gradients is not None  # no layer is left out
        fisher_OI = gradients.require("public_fisher_OI", sieve.name)
        found[name] = _MaskedLinear(linear, fisher_OI, sieve.damping)
    return found


def _search(
    modules: Mapping[str, _MaskedLinear],
    losses_at: Losses,
    sieve: SubnetSieve,
    context: SearchContext,
    level: float,
) -> None:
    more = Move[int](
        lower=lambda num: 2 * num if num < MAX_PIECES else None,
        says=lambda num: f"each step now runs in {num} pieces",
    )
    ladder = context.fallbacks.ladder("searching a subnet", 1, [more])
    say = context.fallbacks.announce
    for step in range(sieve.num_steps):
        if step % LOOK_EVERY == 0 and (here := _private_nll(context)) >= level:
            if step == 0:
                say(
                    f"{sieve.name} removes nothing: the private texts are at {here:.3f} nats a token, "
                    f"no more likely than what was never learnt ({level:.3f})"
                )
            return
        share = sieve.share * (step + 1) / sieve.num_steps
        _take_step(modules, losses_at, step, share, ladder)
    if (here := _private_nll(context)) < level:
        say(
            f"{sieve.name} ends after num_steps={sieve.num_steps} with the private texts at {here:.3f} nats "
            f"a token: not yet forgotten up to {level:.3f}; more steps or a larger share would go further"
        )


def _private_nll(context: SearchContext) -> float:
    return mean_nll(context.loaded, context.private, context.fallbacks)


def _take_step(
    modules: Mapping[str, _MaskedLinear], losses_at: Losses, step: int, share: float, ladder: Ladder[int]
) -> None:
    def let_go() -> None:
        for module in modules.values():
            module.score_OI.grad = None

    def attempt(num_pieces: int) -> None:
        with torch.enable_grad():
            for piece in losses_at(step, num_pieces):
                loss = piece()
                if loss.requires_grad:  # not where every text of the piece is forgotten already
                    loss.backward()

    ladder.run(attempt, where=f"step {step + 1}", undo=let_go)
    for name, module in modules.items():
        module.step(name, share)


def hinge_pieces(
    loaded: LoadedModel, texts: Sequence[TokenSequence], level: float, num_pieces: int
) -> list[Callable[[], Tensor]]:
    """In at most `num_pieces` pieces: the mean over texts of (level - the text's mean NLL a token)+, nats."""
    return [partial(_hinge, loaded, piece, level, len(texts)) for piece in pieces(texts, num_pieces)]


def _hinge(loaded: LoadedModel, texts: Sequence[TokenSequence], level: float, num_texts: int) -> Tensor:
    batch = collate(texts).to(loaded.device)
    chosen_BT = batch.weights_BT > 0
    with mixed_precision(loaded.device), quick_attention(batch):
        hidden_ND = hidden_states(loaded, batch)[chosen_BT]
        nll_N = token_nll(hidden_ND, loaded.head, batch.targets_BT[chosen_BT])
    weights_N = batch.weights_BT[chosen_BT]
    text_N = chosen_BT.nonzero()[:, 0]
    sums_B = nll_N.new_zeros(len(texts)).index_add(0, text_N, nll_N * weights_N)
    return F.relu(level - sums_B / batch.weights_BT.sum(dim=1)).sum() / num_texts


def _weighted(weight: float, part: Callable[[], Tensor]) -> Tensor:
    return weight * part()


class _MaskedLinear(nn.Module):
    """x (W without the entries of the mask)^T + bias; the scores behind it get the gradient of leaving.

    `fisher_OI` is public text's; `damping` as the sieve has it.
    """

    def __init__(self, linear: nn.Linear, fisher_OI: Tensor, damping: float) -> None:
        super().__init__()
        weight_OI = linear.weight
        self.weight_OI, self.bias = weight_OI, linear.bias
        with torch.no_grad():
            cost_OI = fisher_OI.to(weight_OI.device) * weight_OI.float().square()
            # Where public text never reaches a layer, all its entries cost alike.
            self.cost_OI = cost_OI + damping * cost_OI.mean().clamp(min=torch.finfo(torch.float32).tiny)
        self.score_OI = nn.Parameter(torch.zeros_like(weight_OI, dtype=torch.float32))
        self.leaving_OI = torch.zeros_like(weight_OI, dtype=torch.bool)

    def forward(self, x: Tensor) -> Tensor:
        masked: Any = _Masked.apply(self.weight_OI, self.score_OI, self.leaving_OI)
        return F.linear(x, masked, self.bias)

    @torch.no_grad()
    def step(self, name: str, share: float) -> None:
        """Adds what the step's loss said to the scores, and chooses anew which `share` leaves at most."""
        gradient_OI, self.score_OI.grad = self.score_OI.grad, None
        if gradient_OI is None:  # nothing was left to forget, and no public text in this step's loss
            return
        if not all_finite(gradient_OI):
            raise NumericalError("NaN or Inf in the gradients", where=f"layer {name}")
        self.score_OI -= gradient_OI
        worth_OI = self.score_OI / self.cost_OI
        top = keep_top_k(worth_OI, worth_OI, round(share * worth_OI.numel()))
        self.leaving_OI = (top.dense() > 0).view_as(self.leaving_OI)

    @torch.no_grad()
    def removed(self) -> SparsePart:
        """The entries of W that leave, on the CPU."""
        flat_k = self.leaving_OI.flatten().nonzero()[:, 0]
        return SparsePart(
            positions_k=flat_k.to("cpu", torch.int32),
            values_k=self.weight_OI.flatten()[flat_k].float().cpu(),
            shape=(self.weight_OI.shape[0], self.weight_OI.shape[1]),
        )


class _Masked(torch.autograd.Function):
    """W with 0 where the mask is true; straight through: dL/dscore = -W dL/d(masked W) at every entry."""

    @staticmethod
    def forward(ctx: Any, weight_OI: Tensor, score_OI: Tensor, leaving_OI: Tensor) -> Tensor:
        ctx.save_for_backward(weight_OI)
        return weight_OI.masked_fill(leaving_OI, 0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        (weight_OI,) = ctx.saved_tensors
        return None, -weight_OI * gradients[0], None
