"""How much each weight matters to a text's answer: mean squared gradients, and its inputs' second moments.

A linear layer's gradient for one sequence is G^T X, with X its inputs and G its outputs' gradients there. So
one backward pass over a batch gives every sequence's own gradient, and no weight ever gets one of its own.

Shapes: B sequences, T positions, O out features, I in features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batches import TokenBatch
from ..errors import InputError, NumericalError
from ..load.loaded import LoadedModel, linear_layers
from ..numerics.finite import all_finite
from ..numerics.likelihood import token_nll
from .training import hidden_states, mixed_precision, quick_attention

SEQUENCES_AT_ONCE = 4  # whose gradients of one layer are held together


@torch.no_grad()
def add_squared_gradients(total_OI: Tensor, inputs_BTI: Tensor, gradient_BTO: Tensor) -> None:
    """Adds each sequence's squared gradient G^T X of a layer's weight to `total` in place, in fp32.

    Padding after a text's end adds nothing, since no counted token looks at it and G is 0 there.
    """
    with torch.autocast(total_OI.device.type, enabled=False):
        for start in range(0, len(inputs_BTI), SEQUENCES_AT_ONCE):
            some = slice(start, start + SEQUENCES_AT_ONCE)
            of_each_bOI = gradient_BTO[some].float().transpose(1, 2) @ inputs_BTI[some].float()
            total_OI += of_each_bOI.square_().sum(dim=0)


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Of one linear layer, on the device of the model.

    `fisher_OI`: mean over sequences of (d NLL of the sequence's counted tokens / d w)^2. `second_moment_I`:
    mean of x^2 over the positions that count.
    """

    fisher_OI: Tensor  # fp32
    second_moment_I: Tensor  # fp32


def sensitivities(
    loaded: LoadedModel,
    batches: Sequence[TokenBatch],
    *,
    layers_per_pass: int,
    after_batch: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[str, Sensitivity]]:
    """Every linear layer's name and `Sensitivity`, in the model's order; `loaded` is not changed.

    Diagonal of the empirical Fisher information (Kunstner et al. 2019, arXiv 1905.12558, equation 3), with a
    sequence as the example: gradients of its tokens add up before they are squared.

    Args:
        layers_per_pass: whose sums are held at a time; the texts go through once for each such group.
    Raises:
        InputError without texts; NumericalError naming the layer where a gradient is NaN or Inf.
    """
    if not batches:
        raise InputError("sensitivities need at least one text")
    names = list(linear_layers(loaded.network))
    groups = [names[start : start + layers_per_pass] for start in range(0, len(names), layers_per_pass)]
    for number, group in enumerate(groups):
        done = number * len(batches)
        total = len(groups) * len(batches)

        def told(count: int, done: int = done, total: int = total) -> None:
            after_batch(done + count, total)

        yield from _of_group(loaded, batches, group, told)


def _of_group(
    loaded: LoadedModel, batches: Sequence[TokenBatch], names: list[str], told: Callable[[int], None]
) -> Iterator[tuple[str, Sensitivity]]:
    linears = linear_layers(loaded.network)
    sums = {name: _Sums(linears[name]) for name in names}
    loaded.network.requires_grad_(False)
    embedding = loaded.network.get_input_embeddings()
    handles = [embedding.register_forward_hook(_needs_gradient)]
    handles += [linears[name].register_forward_hook(one.watch) for name, one in sums.items()]
    try:
        for number, batch in enumerate(batches):
            _backward(loaded, batch.to(loaded.device), sums)
            told(number + 1)
    finally:
        for handle in handles:
            handle.remove()
    for name in names:
        yield name, sums.pop(name).means(name)


def _needs_gradient(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    """Nothing is trained here, so that without this there would be nothing to differentiate."""
    return output.detach().requires_grad_()


def _backward(loaded: LoadedModel, batch: TokenBatch, sums: dict[str, _Sums]) -> None:
    counted_BT = batch.weights_BT > 0
    for one in sums.values():
        one.counted_BT = counted_BT
    with torch.enable_grad(), mixed_precision(loaded.device), quick_attention(batch):
        hidden_BTD = hidden_states(loaded, batch)
        nll_N = token_nll(hidden_BTD[counted_BT], loaded.head, batch.targets_BT[counted_BT])
    nll_N.sum().backward()


class _Sums:
    """Sums of one layer over the sequences seen."""

    def __init__(self, linear: nn.Linear) -> None:
        weight_OI = linear.weight
        self._squares_OI = torch.zeros(weight_OI.shape, dtype=torch.float32, device=weight_OI.device)
        self._moments_I = self._squares_OI.new_zeros(weight_OI.shape[1])
        self._num_sequences = 0
        self._num_positions = 0
        self.counted_BT = torch.empty(0)

    def watch(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        inputs_BTI = args[0].detach()
        counted_NI = inputs_BTI[self.counted_BT].float()
        self._moments_I += counted_NI.square().sum(dim=0)
        self._num_positions += len(counted_NI)
        output.register_hook(lambda gradient_BTO: self._add(inputs_BTI, gradient_BTO))

    @torch.no_grad()
    def _add(self, inputs_BTI: Tensor, gradient_BTO: Tensor) -> None:
        add_squared_gradients(self._squares_OI, inputs_BTI, gradient_BTO)
        self._num_sequences += len(inputs_BTI)

    def means(self, name: str) -> Sensitivity:
        if not all_finite(self._squares_OI) or not all_finite(self._moments_I):
            raise NumericalError("gradients are NaN or Inf", where=f"layer {name}")
        return Sensitivity(
            fisher_OI=self._squares_OI.div_(self._num_sequences),
            second_moment_I=self._moments_I.div_(self._num_positions),
        )
