"""The search behind the sieve natural-gradient: a direction for each layer, then one step size for all.

Shapes: O out features, I in features, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.batches import batches
from ..errors import NumericalError
from ..layers.split_linear import OrthoPart
from ..numerics.eigen import Eigenbasis, eigenbasis
from ..numerics.lowrank import weighted_lowrank
from .gradients import PRIVATE, PUBLIC, GradientSource
from .search import Found, SearchContext, control_level, mean_nll, replaced
from .streaming import stream_moments

if TYPE_CHECKING:
    from .sieve.natural_gradient import NaturalGradientSieve

_MOST_DOUBLINGS = 60  # of eta, up or down, before the direction is held to lead nowhere


@torch.no_grad()
def search_natural(sieve: NaturalGradientSieve, context: SearchContext) -> Found:
    """M of every layer, as factors of rank r.

    Raises NumericalError where no step along the direction brings the private texts' NLL to its level.
    """
    level = control_level(context, sieve.name, sieve.level)
    here = mean_nll(context.loaded, context.private, context.fallbacks)
    if here >= level:
        context.fallbacks.announce(
            f"natural-gradient removes nothing: the private texts are at {here:.3f} nats a token, no more "
            f"likely than what was never learnt ({level:.3f})"
        )
        return {name: _nothing(linear) for name, linear in context.linears.items()}
    directions = _directions(sieve, context)
    modules = {
        name: _Stepped(linear, directions[name], context.loaded.device)
        for name, linear in context.linears.items()
    }
    with replaced(context.loaded, modules):

        def nll_at(eta: float) -> float:
            for module in modules.values():
                module.eta = eta
            return mean_nll(context.loaded, context.private, context.fallbacks)

        eta = step_size(nll_at, level, sieve.num_halvings)
    # M leaves the weight: to go up by eta D is to remove -eta D.
    return {name: replace(one, up_Or=-eta * one.up_Or) for name, one in directions.items()}


def _nothing(linear: nn.Linear) -> OrthoPart:
    num_out, num_in = linear.weight.shape
    return OrthoPart(up_Or=torch.zeros(num_out, 0), down_rI=torch.zeros(0, num_in))


def step_size(nll_at: Callable[[float], float], level: float, num_halvings: int) -> float:
    """The eta at which `nll_at`, below `level` at 0, crosses it: doubled or halved to a bracket, then cut.

    Where the NLL does not rise all the way, it is a crossing, not the only one. NaN and infinity count as
    above. Raises NumericalError where none is found.
    """

    def is_above(eta: float) -> bool:
        value = nll_at(eta)
        return not math.isfinite(value) or value >= level

    low, high = 0.0, 1.0
    if is_above(high):
        for _ in range(_MOST_DOUBLINGS):
            if not is_above(high / 2):
                low = high / 2
                break
            high /= 2
    else:
        for _ in range(_MOST_DOUBLINGS):
            low, high = high, 2 * high
            if is_above(high):
                break
        else:
            raise NumericalError(
                "no step along the natural gradient makes the private texts as unlikely as untrained ones",
                expected=f"{level:.3f} nats a token",
                todo="raise the sieve's rank or lower its damping",
            )
    for _ in range(num_halvings):
        middle = (low + high) / 2
        low, high = (low, middle) if is_above(middle) else (middle, high)
    return high


def _directions(sieve: NaturalGradientSieve, context: SearchContext) -> Mapping[str, OrthoPart]:
    """The damped natural gradient of every layer, truncated to rank r by its Frobenius norm; on the CPU.

    All are scaled by one number, so that eta = 1 changes the weights by a hundredth of their size.
    """
    source = GradientSource(
        context.loaded,
        sieve.needs,
        {PUBLIC: context.public, PRIVATE: context.private},
        seed=context.seed,
        fallbacks=context.fallbacks,
    )
    found: dict[str, OrthoPart] = {}
    public = [*batches(context.public, 4)]
    for layer in stream_moments(context.loaded, {PUBLIC: public}):
        for group, moments in zip(layer.groups, layer.moments, strict=True):
            inputs = eigenbasis(moments[PUBLIC])
            for name in group:
                gradients = source.of(name)
                assert gradients is not None  # no layer is left out
                gradient_OI = gradients.require("private_mean_OI", sieve.name)
                output = eigenbasis(gradients.require("public_output_OO", sieve.name))
                step_OI = natural_step(gradient_OI, output, inputs, sieve.damping)
                identity_II = torch.eye(step_OI.shape[1], device=step_OI.device)
                # Gradients of texts that are known by heart are tiny; brought to size before they are cut.
                size = float(step_OI.norm().clamp(min=1e-30))
                up_Or, down_rI = weighted_lowrank(step_OI / size, identity_II, sieve.rank)
                found[name] = OrthoPart(up_Or=size * up_Or.cpu(), down_rI=down_rI.cpu())
        del layer
    return _scaled(found, context)


def natural_step(gradient_OI: Tensor, output: Eigenbasis, inputs: Eigenbasis, damping: float) -> Tensor:
    """U_G [(U_G^T g U_A) / (lam mu^T + delta)] U_A^T, delta = damping * mean(lam) * mean(mu)."""
    rotated_OI = output.vectors.T @ gradient_OI @ inputs.vectors
    curvature_OI = torch.outer(output.values, inputs.values)
    delta = damping * output.values.mean() * inputs.values.mean()
    return output.vectors @ (rotated_OI / (curvature_OI + delta)) @ inputs.vectors.T


def _scaled(directions: Mapping[str, OrthoPart], context: SearchContext) -> dict[str, OrthoPart]:
    step_norm = math.sqrt(sum(_squared_norm(one) for one in directions.values()))
    weight_norm = math.sqrt(sum(float(one.weight.float().square().sum()) for one in context.linears.values()))
    if not (math.isfinite(step_norm) and step_norm > 0):
        raise NumericalError(
            "the private texts' loss has no gradient that a step could follow",
            received=f"norm {step_norm}",
            todo="raise the sieve's damping, or check the private texts",
        )
    scale = 0.01 * weight_norm / step_norm
    return {name: replace(one, up_Or=scale * one.up_Or) for name, one in directions.items()}


def _squared_norm(part: OrthoPart) -> float:
    """|U V|^2, by the factors' Gram matrices, in fp64."""
    up_rr, down_rr = (
        part.up_Or.double().T @ part.up_Or.double(),
        part.down_rI.double() @ part.down_rI.double().T,
    )
    return float((up_rr * down_rr).sum())


class _Stepped(nn.Module):
    """x (W + eta U V)^T + bias, with one eta that is set from outside."""

    def __init__(self, linear: nn.Linear, step: OrthoPart, device: torch.device) -> None:
        super().__init__()
        self.eta = 0.0
        self.weight_OI, self.bias = linear.weight, linear.bias
        self.up_Or, self.down_rI = step.up_Or.to(device), step.down_rI.to(device)

    def forward(self, x: Tensor) -> Tensor:
        # One product, as the Base will have it: two of them in bf16 would round the small one away.
        return F.linear(x, self.weight_OI + self.eta * (self.up_Or @ self.down_rI), self.bias)
