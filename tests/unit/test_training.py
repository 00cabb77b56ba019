"""The training loop: schedule, pieces when memory runs out, and numbers that stop it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from fakes import fake_loaded, randn, without_autocast
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sixgig.data.batches import TokenSequence, collate, secret_only, whole_text
from sixgig.errors import NumericalError, OutOfSpaceError
from sixgig.transform import training
from sixgig.transform.training import (
    Schedule,
    hidden_states,
    minimise,
    mixed_precision,
    pieces,
    weighted_nll_sum,
)

SCHEDULE = Schedule(learning_rate=0.05, num_steps=30)


@given(items=st.lists(st.integers(), max_size=40), num_pieces=st.integers(1, 50))
@settings(deadline=None)
def test_pieces_are_a_partition_in_order(items: list[int], num_pieces: int) -> None:
    parts = pieces(items, num_pieces)
    assert [item for part in parts for item in part] == items
    assert len(parts) <= num_pieces
    assert all(parts)
    sizes = [len(part) for part in parts[:-1]]
    assert len(set(sizes)) <= 1


def test_rate_rises_then_falls_to_a_tenth() -> None:
    schedule = Schedule(learning_rate=2.0, num_steps=100, warmup_share=0.1)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(2.0 * (0.1 + 0.9 / 2))
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.2, abs=0.01)


def test_rate_without_decay_stays() -> None:
    schedule = Schedule(learning_rate=2.0, num_steps=7, warmup_share=0.0, decay=False)
    assert [schedule.rate(step) for step in range(7)] == [2.0] * 7


@given(num_steps=st.integers(1, 50), warmup_share=st.floats(0, 1), decay=st.booleans())
@settings(deadline=None)
def test_rate_is_never_zero_nor_above_the_given_one(num_steps: int, warmup_share: float, decay: bool) -> None:
    schedule = Schedule(learning_rate=1.0, num_steps=num_steps, warmup_share=warmup_share, decay=decay)
    assert all(0 < schedule.rate(step) <= 1.0 for step in range(num_steps))


class Regression:
    """Least squares in pieces; runs out of memory when a pass holds more than `fits` rows."""

    def __init__(self, fits: int = 100) -> None:
        self.inputs = randn(16, 4)
        self.targets = self.inputs @ torch.tensor([0.5, -0.4, 0.3, 0.2]) + 0.1 * randn(16, seed=1)
        self.weight = nn.Parameter(torch.zeros(4))
        self.fits = fits
        self.said: list[str] = []
        self.losses: list[float] = []

    def losses_at(self, step: int, num_pieces: int) -> list[Callable[[], Tensor]]:
        def loss(number: int, rows: Sequence[int]) -> Tensor:
            if len(rows) > self.fits and number == min(1, num_pieces - 1):
                raise torch.OutOfMemoryError("device full")  # after a first piece has left its gradient
            chosen = list(rows)
            return (self.inputs[chosen] @ self.weight - self.targets[chosen]).square().sum() / 16

        return [partial(loss, number, rows) for number, rows in enumerate(pieces(range(16), num_pieces))]

    def minimise(self, schedule: Schedule = SCHEDULE) -> Tensor:
        minimise(
            [self.weight],
            self.losses_at,
            schedule,
            what="testing",
            after_step=lambda step, loss: self.losses.append(loss),
            announce=self.said.append,
        )
        return self.weight.detach()


def test_takes_every_step_and_lowers_the_loss() -> None:
    problem = Regression()
    problem.minimise()
    assert len(problem.losses) == 30
    assert problem.losses[0] == pytest.approx(float(problem.targets.square().mean()))
    assert problem.losses[-1] < 0.2 * problem.losses[0]
    assert problem.said == []


def test_equals_plain_adamw_with_clipping() -> None:
    schedule = Schedule(learning_rate=0.05, num_steps=20, weight_decay=0.1, clip_norm=0.01)
    got = Regression().minimise(schedule)
    problem = Regression()
    optimizer = torch.optim.AdamW([problem.weight], lr=1.0, weight_decay=0.1)
    for step in range(20):
        optimizer.param_groups[0]["lr"] = schedule.rate(step)
        optimizer.zero_grad()
        F.mse_loss(problem.inputs @ problem.weight, problem.targets).backward()
        nn.utils.clip_grad_norm_([problem.weight], 0.01)
        optimizer.step()
    assert torch.allclose(got, problem.weight.detach(), rtol=1e-4, atol=1e-6)


def test_each_gradient_is_clipped_to_its_share_and_gone_after_the_step() -> None:
    sizes = (0.3, 50.0)
    weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))]
    alone = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))]
    directions = [size * randn(3, seed=number) for number, size in enumerate(sizes)]

    def losses_at(step: int, num_pieces: int) -> list[Callable[[], Tensor]]:
        return [lambda: sum((w * d).sum() for w, d in zip(weights, directions, strict=True)) * (step + 1.0)]

    schedule = Schedule(learning_rate=0.1, num_steps=3, clip_norm=1.0)
    minimise(weights, losses_at, schedule, what="testing")
    assert all(weight.grad is None for weight in weights)
    for weight, direction in zip(alone, directions, strict=True):
        optimizer = torch.optim.AdamW([weight], weight_decay=0.0)
        for step in range(3):
            optimizer.param_groups[0]["lr"] = schedule.rate(step)
            weight.grad = direction * (step + 1.0)
            nn.utils.clip_grad_norm_([weight], 1 / 2**0.5)
            optimizer.step()
    for got, expected in zip(weights, alone, strict=True):
        assert torch.allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("num_pieces", [1, 3])
def test_stepping_within_the_backward_pass_or_after_it_gives_the_same(
    num_pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(within_backward: bool) -> list[Tensor]:
        problem = Regression()
        problem.losses_at = lambda step, _, cut=problem.losses_at: cut(step, num_pieces)
        monkeypatch.setattr(
            training,
            "_Update",
            lambda parameters, schedule, within_backward: update(
                parameters, schedule, within_backward=wanted
            ),
        )
        wanted = within_backward
        return [problem.minimise(Schedule(learning_rate=0.05, num_steps=8, clip_norm=0.1))]

    update = training._Update
    for one, other in zip(trained(True), trained(False), strict=True):
        assert torch.allclose(one, other, rtol=1e-6)


def test_gradients_of_earlier_parameters_are_let_go_while_later_ones_are_still_to_come() -> None:
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    held: list[bool] = []
    first.register_hook(lambda gradient: held.append(second.grad is not None))

    def losses_at(step: int, num_pieces: int) -> list[Callable[[], Tensor]]:
        return [lambda: ((first * 2).tanh() * second).sum()]

    minimise([first, second], losses_at, Schedule(learning_rate=0.1, num_steps=2), what="testing")
    assert held == [False, False]


def test_moments_lie_in_one_block_before_the_first_step_and_after_the_last() -> None:
    parameters = [nn.Parameter(randn(3, 4)), nn.Parameter(randn(5, seed=1))]
    update = training._Update(parameters, SCHEDULE, within_backward=True)
    update.place(offloads=False)

    def moments() -> list[Tensor]:
        states = [
            optimizer.state[parameter]
            for parameter, optimizer in zip(parameters, update._optimizers, strict=True)
        ]
        assert [float(state["step"]) for state in states] == [steps_taken] * 2
        return [state[name] for state in states for name in ("exp_avg", "exp_avg_sq")]

    steps_taken = 0
    blocks = {moment.untyped_storage().data_ptr() for moment in moments()}
    assert len(blocks) == 1
    assert not any(moment.any() for moment in moments())
    for steps_taken in (1, 2):
        update.begin(steps_taken)
        update.last_backward(sum(parameter.square().sum() for parameter in parameters))
    assert {moment.untyped_storage().data_ptr() for moment in moments()} == blocks
    assert [moment.shape for moment in moments()] == [(3, 4), (3, 4), (5,), (5,)]
    assert all(moment.all() for moment in moments())


def test_running_out_of_memory_halves_the_pieces_says_so_and_changes_no_number() -> None:
    whole, tight = Regression(), Regression(fits=4)
    assert torch.allclose(tight.minimise(), whole.minimise(), rtol=1e-5, atol=1e-6)
    assert tight.losses == pytest.approx(whole.losses, rel=1e-5)
    assert tight.said == [
        "out of memory while testing: each step now runs in 2 pieces",
        "out of memory while testing: each step now runs in 4 pieces",
    ]


def test_memory_too_small_for_single_pieces_is_an_error() -> None:
    problem = Regression(fits=0)
    with pytest.raises(OutOfSpaceError, match="16 pieces") as caught:
        problem.minimise()
    assert caught.value.exit_status == 3
    assert "step 1" in str(caught.value)
    assert torch.equal(problem.weight, torch.zeros(4))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_before_the_step(bad: float) -> None:
    weight = nn.Parameter(torch.ones(2))
    seen = []

    def losses_at(step: int, num_pieces: int) -> list[Callable[[], Tensor]]:
        return [lambda: (weight * (bad if step == 2 else 1.0)).sum()]

    def remember(step: int, loss: float) -> None:
        seen.append(weight.detach().clone())

    with pytest.raises(NumericalError, match="step 3 of 30") as caught:
        minimise([weight], losses_at, SCHEDULE, what="testing", after_step=remember)
    assert "testing" in str(caught.value)
    assert len(seen) == 2
    assert torch.equal(weight, seen[-1])


def weighted(text: str, weights: Callable[[int], float]) -> TokenSequence:
    ids = tuple(text.encode())
    return TokenSequence(ids=ids, weights=tuple(weights(i) for i in range(len(ids))))


def test_weighted_nll_sum_equals_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    without_autocast(monkeypatch)
    loaded = fake_loaded()
    texts = [weighted("hello there", lambda i: i % 3 / 2), weighted("hi", lambda i: 1.0)]
    total, weight = weighted_nll_sum(loaded, collate(texts))
    expected = 0.0
    for text in texts:
        logits = loaded.network(input_ids=torch.tensor([text.ids])).logits[0, :-1]
        nll = F.cross_entropy(logits, torch.tensor(text.ids[1:]), reduction="none")
        expected += float((nll * torch.tensor(text.weights[1:])).sum())
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert weight == sum(sum(text.weights[1:]) for text in texts)


def test_padding_does_not_reach_hidden_states() -> None:
    loaded = fake_loaded()
    short, long = whole_text(loaded.encode("short")), whole_text(loaded.encode("a longer text"))
    padded = hidden_states(loaded, collate([short, long]))[0, : len(short.ids)]
    alone = hidden_states(loaded, collate([short]))[0]
    assert torch.allclose(padded, alone, atol=1e-5)


def test_hidden_states_are_those_before_the_head() -> None:
    loaded = fake_loaded()
    batch = collate([secret_only(loaded.encode("abc"), loaded.encode("de"))])
    logits = loaded.network(input_ids=batch.ids_BT).logits
    assert torch.allclose(hidden_states(loaded, batch) @ loaded.head_VD.T, logits, atol=1e-5)


def test_mixed_precision_computes_products_in_bf16() -> None:
    with mixed_precision(torch.device("cpu")):
        assert F.linear(randn(2, 3), randn(4, 3)).dtype == torch.bfloat16
    assert math.prod(F.linear(randn(2, 3), randn(4, 3)).shape) == 8
