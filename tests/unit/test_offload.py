"""The last rung of training: AdamW's moments wait in the processor's memory, and no number changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fakes import randn
from torch import Tensor, nn

from sixgig.memory.ladder import Fallbacks
from sixgig.transform import training
from sixgig.transform.thrift import Thrift, TrainingMoves
from sixgig.transform.training import Schedule, minimise
from sixgig.units import MIB

SCHEDULE = Schedule(learning_rate=0.05, num_steps=8, weight_decay=0.1, clip_norm=0.5)


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(randn(3, 4)), nn.Parameter(randn(40, seed=1)), nn.Parameter(randn(2, 3, seed=2))]


def loss_of(weights: list[nn.Parameter], step: int) -> Tensor:
    first, second, third = weights
    loss = (first.tanh().sum() * (step + 1) - 1).square() + second.square().sum()
    return loss if step == 3 else loss + third.sin().sum()  # one step without a gradient for the third


def trained(offloads: Callable[[int], bool]) -> list[Tensor]:
    """The weights after all steps of `SCHEDULE`, whose moments wait elsewhere from where `offloads` says."""
    weights = parameters()
    update = training._Update(weights, SCHEDULE, within_backward=False)
    for step in range(SCHEDULE.num_steps):
        update.begin(step)
        update.place(offloads=offloads(step))
        update.last_backward(loss_of(weights, step))
    return [weight.detach() for weight in weights]


@pytest.mark.parametrize("since", [0, 1, 5])
def test_from_any_step_on_the_numbers_are_the_same_bits(since: int) -> None:
    for got, expected in zip(trained(lambda step: step >= since), trained(lambda _: False), strict=True):
        assert torch.equal(got, expected)


def test_where_not_even_the_room_for_one_parameters_moments_is_there_nothing_is_stepped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = parameters()
    update = training._Update(weights, SCHEDULE, within_backward=False)
    update.begin(0)
    update.place(offloads=True)

    def full(*size: int, **_: object) -> Tensor:
        raise torch.OutOfMemoryError("device full")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(torch.OutOfMemoryError):
        update.last_backward(loss_of(weights, 0))
    update.undo()  # raises where a parameter has been stepped
    assert all(torch.equal(now, before) for now, before in zip(weights, parameters(), strict=True))


def test_it_is_the_last_move_and_none_on_a_cpu() -> None:
    def losses_at(step: int, num_pieces: int) -> list[Callable[[], Tensor]]:
        return [lambda: torch.zeros(())] * min(num_pieces, 2)

    def moves(device: str, moments_bytes: int = MIB) -> list[Thrift]:
        found, thrift = [], Thrift()
        while True:
            lower = next(
                (
                    lower
                    for move in TrainingMoves(losses_at, torch.device(device), moments_bytes).all()
                    if (lower := move.lower(thrift)) is not None
                ),
                None,
            )
            if lower is None:
                return found
            found.append(thrift := lower)

    on_a_card = moves("cuda")
    assert on_a_card[-1] == Thrift(num_pieces=2, logit_rows=64, recompute=True, offload=True)
    assert [one.offload for one in on_a_card[:-1]] == [False] * (len(on_a_card) - 1)
    assert not any(one.offload for one in moves("cpu"))
    assert not any(one.offload for one in moves("cuda", moments_bytes=2**50)), "more than any machine has"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.gpu
def test_a_card_too_small_for_the_moments_trains_to_the_same_weights() -> None:
    from sixgig.memory.governor import Governor

    device = torch.device("cuda", 0)
    size = 16 * MIB  # values of each of 8 parameters: weights 512 MiB, gradients as much, moments 1 GiB

    def run(budget_bytes: int | None) -> tuple[list[Tensor], list[str]]:
        generator = torch.Generator(device).manual_seed(0)
        weights = [nn.Parameter(torch.randn(size, device=device, generator=generator)) for _ in range(8)]
        said: list[str] = []

        def losses_at(step: int, num_pieces: int) -> list[Callable[[], Tensor]]:
            return [
                lambda: sum((weight.square().mean() for weight in weights), torch.zeros((), device=device))
            ]

        with Governor(device, budget_bytes=budget_bytes):
            minimise(
                weights,
                losses_at,
                Schedule(learning_rate=0.01, num_steps=3),
                what="testing",
                fallbacks=Fallbacks(said.append, device=device),
            )
        return [weight.detach().cpu() for weight in weights], said

    whole, nothing = run(None)
    torch.cuda.empty_cache()
    # The context counts within the budget: less than 2 GiB are left for tensors.
    small, said = run(2 * 1024 * MIB + 512 * MIB)
    assert nothing == []
    assert any("processor's memory" in line for line in said)
    assert all(torch.equal(one, other) for one, other in zip(whole, small, strict=True))
