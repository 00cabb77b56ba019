"""What backward passes tell of each linear layer: second moments and means of gradients, in fp32.

Four kinds, each of the sum of token NLLs; the weights stay as they are and need no gradient of their own,
since a layer's is made of its input x and its output's gradient g alone (dL/dW = sum_t g_t x_t^T):

    output_moments   G [O, O] = mean over public positions of g g^T, targets drawn from the model itself
    fisher           F [O, I] = mean over texts of (sum_t g_t x_t^T)^2, on their own tokens; private, public
    public_fisher    the public one alone
    mean_gradient    [O, I] of the private texts' mean NLL a token

G is the output factor of K-FAC (Martens and Grosse 2015, arXiv 1503.05671, section 2.2: the true Fisher
takes targets from the model's own distribution). F is the empirical Fisher's diagonal, a text being one
observation: the squares of whole texts' gradients, not of a batch's. Passes run in bf16 under autocast.

Shapes: B sequences, T positions, O out features, I in features, N counted positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batches import TokenSequence, collate
from ..errors import InputError, NumericalError
from ..load.loaded import LoadedModel, linear_layers
from ..memory.ladder import Fallbacks, Move
from ..numerics.finite import all_finite
from ..numerics.likelihood import OutputHead, default_chunk_rows, token_nll
from ..units import GIB
from .fisher import add_squared_gradients
from .sieve.base import GRADIENTS, GradientStatistics
from .training import hidden_states, mixed_precision, quick_attention

BUDGET_BYTES = 2 * GIB  # of statistics that are held together; beyond it the texts go through once more
POSITIONS_PER_PASS = 2048
PUBLIC, PRIVATE = "public", "private"


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """One matrix a layer: which kind, over which texts, under which name it is handed on."""

    field_name: str
    kind: str
    texts: str


_WANTED = {
    "output_moments": (_Wanted(field_name="public_output_OO", kind="output_moments", texts=PUBLIC),),
    "fisher": (
        _Wanted(field_name="private_fisher_OI", kind="fisher", texts=PRIVATE),
        _Wanted(field_name="public_fisher_OI", kind="fisher", texts=PUBLIC),
    ),
    "public_fisher": (_Wanted(field_name="public_fisher_OI", kind="fisher", texts=PUBLIC),),
    "mean_gradient": (_Wanted(field_name="private_mean_OI", kind="mean_gradient", texts=PRIVATE),),
}


class GradientSource:
    """Gathers `GradientStatistics` group by group of layers, so that a group's matrices fit into a budget.

    Ask for layers in the model's order (`of`): a new group is a new pass over all texts, and the group before
    it is let go. The model must hold the weights that are split at every call.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        kinds: Iterable[str],
        texts: Mapping[str, Sequence[TokenSequence]],
        *,
        seed: int,
        covers: Callable[[str], bool] = lambda name: True,
        budget_bytes: int = BUDGET_BYTES,
        fallbacks: Fallbacks | None = None,
    ) -> None:
        """`kinds` of `GRADIENTS`; `texts`: "public" and "private", as far as the kinds ask for them.

        Raises InputError for an unknown kind, or where texts are missing.
        """
        chosen = [*dict.fromkeys(kinds)]
        unknown = [kind for kind in chosen if kind not in GRADIENTS]
        if unknown:
            raise InputError(
                "unknown gradient statistics", expected=", ".join(GRADIENTS), received=", ".join(unknown)
            )
        self._wanted = [wanted for kind in chosen for wanted in _WANTED[kind]]
        for wanted in self._wanted:
            if not texts.get(wanted.texts):
                raise InputError(f"{wanted.kind} needs {wanted.texts} texts")
        self._loaded, self._texts, self._seed = loaded, texts, seed
        self._fallbacks = fallbacks or Fallbacks(device=loaded.device)
        linears = {name: one for name, one in linear_layers(loaded.network).items() if covers(name)}
        self._groups = [*_groups(linears, self._wanted, budget_bytes)]
        self._held: dict[str, GradientStatistics] = {}

    @property
    def num_groups(self) -> int:
        """How often the texts go through the model."""
        return len(self._groups)

    def of(self, name: str) -> GradientStatistics | None:
        """The statistics of linear layer `name`; None where nothing is gathered for it.

        Raises NumericalError naming the layer whose gradients hold NaN or Inf.
        """
        group = next((group for group in self._groups if name in group), None)
        if group is None:
            return None
        if name not in self._held:
            self._held = {}
            self._held = self._gathered(group)
        return self._held[name]

    def _gathered(self, group: Sequence[str]) -> dict[str, GradientStatistics]:
        found: dict[str, dict[str, Tensor]] = {name: {} for name in group}
        # Targets from the model and from the text are two losses, so never one pass.
        for texts in (PUBLIC, PRIVATE):
            for samples in (True, False):
                wanted = [
                    one
                    for one in self._wanted
                    if one.texts == texts and (one.kind == "output_moments") is samples
                ]
                if wanted:
                    sums = self._passed(group, texts, {one.kind for one in wanted}, samples=samples)
                    for one in wanted:
                        for name in group:
                            found[name][one.field_name] = sums[name].mean(one.kind, name)
        return {name: GradientStatistics(name=name, **matrices) for name, matrices in found.items()}

    def _passed(
        self, group: Sequence[str], texts: str, kinds: set[str], *, samples: bool
    ) -> dict[str, _Sums]:
        smaller = Move[int](
            lower=lambda positions: positions // 2 if positions > 1 else None,
            says=lambda positions: f"texts now go through in batches of {positions} positions",
        )
        ladder = self._fallbacks.ladder("gathering gradients", POSITIONS_PER_PASS, [smaller])
        return ladder.run(lambda positions: self._summed(group, texts, kinds, positions, samples=samples))

    def _summed(
        self, group: Sequence[str], texts: str, kinds: set[str], positions: int, *, samples: bool
    ) -> dict[str, _Sums]:
        """All of a set's texts, forward and back; begun anew with fewer positions where memory runs out."""
        linears = linear_layers(self._loaded.network)
        sums = {name: _Sums(linears[name], kinds) for name in group}
        generator = torch.Generator().manual_seed(self._seed)
        with _Taps({name: linears[name] for name in group}, sums):
            for sequences in in_batches(self._texts[texts], positions):
                # Drawn text by text, so that they do not depend on how texts are batched.
                draws = [torch.rand(len(one.ids), generator=generator) for one in sequences]
                num_counted = self._backward(sequences, draws if samples else None)
                for one in sums.values():
                    one.count(len(sequences), num_counted)
        return sums

    def _backward(self, sequences: Sequence[TokenSequence], draws: Sequence[Tensor] | None) -> float:
        """One batch's pass; returns the weight of its counted positions."""
        loaded = self._loaded
        batch = collate(sequences).to(loaded.device)
        chosen_BT = batch.weights_BT > 0
        with torch.enable_grad(), mixed_precision(loaded.device), quick_attention(batch):
            hidden_ND = hidden_states(loaded, batch)[chosen_BT]
            targets_N = batch.targets_BT[chosen_BT]
            if draws is not None:
                draws_BT = nn.utils.rnn.pad_sequence(list(draws), batch_first=True).to(loaded.device)
                targets_N = sampled_targets(hidden_ND.detach(), loaded.head, draws_BT[chosen_BT])
            nll_N = token_nll(hidden_ND, loaded.head, targets_N)
            loss = (nll_N * batch.weights_BT[chosen_BT]).sum()
        loss.backward()
        return float(batch.weights_BT.sum())


def in_batches(sequences: Sequence[TokenSequence], positions: int) -> Iterator[Sequence[TokenSequence]]:
    """In the given order, as many at once as lie padded in `positions`, but one at least."""
    start = 0
    while start < len(sequences):
        stop, longest = start, 0
        while stop < len(sequences):
            longest = max(longest, len(sequences[stop].ids))
            if stop > start and longest * (stop + 1 - start) > positions:
                break
            stop += 1
        yield sequences[start:stop]
        start = stop


@torch.no_grad()
def sampled_targets(hidden_ND: Tensor, head: OutputHead, draws_N: Tensor) -> Tensor:
    """A token [N] for each position from the model's own distribution, by `draws` uniform in [0, 1)."""
    cast = head.cast_for(hidden_ND)
    rows, parts = default_chunk_rows(hidden_ND.device), []
    for start in range(0, len(hidden_ND), rows):
        stop = start + rows
        probability_NV = torch.softmax(cast.logits(hidden_ND[start:stop]).float(), dim=-1)
        reached_NV = probability_NV.cumsum(dim=-1)
        # The last sum is 1 but for rounding; a draw beyond it would name no token.
        wanted_N1 = draws_N[start:stop, None].float() * reached_NV[:, -1:]
        parts.append(torch.searchsorted(reached_NV, wanted_N1, right=True)[:, 0])
    return torch.cat(parts).clamp(max=head.weight_VD.shape[0] - 1)


def _groups(
    linears: Mapping[str, nn.Linear], wanted: Sequence[_Wanted], budget_bytes: int
) -> Iterator[list[str]]:
    """Consecutive layers whose matrices take at most the budget together; one at least."""
    group: list[str] = []
    held = 0
    for name, linear in linears.items():
        num_out, num_in = linear.weight.shape
        size = sum(4 * num_out * (num_out if one.kind == "output_moments" else num_in) for one in wanted)
        if group and held + size > budget_bytes:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    if group:
        yield group


class _Sums:
    """One layer's sums over one set of texts."""

    def __init__(self, linear: nn.Linear, kinds: set[str]) -> None:
        num_out, num_in = linear.weight.shape
        device = linear.weight.device
        self._sums = {
            kind: torch.zeros(num_out, num_out if kind == "output_moments" else num_in, device=device)
            for kind in kinds
        }
        self._num_texts, self._weight = 0, 0.0

    @torch.no_grad()
    def add(self, x_BTI: Tensor, gradient_BTO: Tensor) -> None:
        x_BTI, gradient_BTO = x_BTI.float(), gradient_BTO.float()
        with torch.autocast(gradient_BTO.device.type, enabled=False):
            flat_NO = gradient_BTO.flatten(0, 1)
            if "output_moments" in self._sums:
                self._sums["output_moments"].addmm_(flat_NO.T, flat_NO)
            if "mean_gradient" in self._sums:
                self._sums["mean_gradient"].addmm_(flat_NO.T, x_BTI.flatten(0, 1))
            if "fisher" in self._sums:
                add_squared_gradients(self._sums["fisher"], x_BTI, gradient_BTO)

    def count(self, num_texts: int, weight: float) -> None:
        self._num_texts += num_texts
        self._weight += weight

    def mean(self, kind: str, name: str) -> Tensor:
        total = self._sums.pop(kind)
        mean = total.div_(self._num_texts if kind == "fisher" else self._weight)
        if not all_finite(mean):
            raise NumericalError("NaN or Inf in the gradients", where=f"layer {name}")
        return mean


class _Taps:
    """Hooks that hand a layer's input and its output's gradient to its sums, pass by pass."""

    def __init__(self, linears: Mapping[str, nn.Linear], sums: Mapping[str, _Sums]) -> None:
        self._linears, self._sums = linears, sums
        self._handles: list[Any] = []

    def __enter__(self) -> _Taps:
        for name, linear in self._linears.items():
            self._handles.append(linear.register_forward_hook(self._hook(self._sums[name])))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, sums: _Sums) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output_BTO: Tensor) -> Tensor:
            if not output_BTO.requires_grad:
                # No weight asks for a gradient, so the graph begins at the first layer that is looked at.
                output_BTO = output_BTO.detach().requires_grad_(True)
            x_BTI = args[0].detach()
            output_BTO.register_hook(lambda gradient_BTO: sums.add(x_BTI, gradient_BTO))
            return output_BTO

        return hook
