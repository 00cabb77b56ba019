"""token_nll against plain cross-entropy: values, gradients, precision in bf16, chunks."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from fakes import randn

from sixgig.errors import InputError
from sixgig.numerics.likelihood import token_nll


def drawn(num_rows: int, *, hidden: int = 48, vocabulary: int = 300, size: float = 1.0):
    """Hidden states, head, targets; `size` scales the logits."""
    states = size * randn(num_rows, hidden, seed=1)
    head = randn(vocabulary, hidden, seed=2) / hidden**0.5
    targets = torch.randint(0, vocabulary, (num_rows,), generator=torch.Generator().manual_seed(3))
    return states, head, targets


def plain(states: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy((states @ head.T).float(), targets, reduction="none")


@pytest.mark.parametrize("num_rows", [1, 2, 17])
@pytest.mark.parametrize("size", [0.1, 1.0, 8.0])
def test_equals_cross_entropy_in_fp32(num_rows: int, size: float) -> None:
    states, head, targets = drawn(num_rows, size=size)
    nll = token_nll(states, head, targets)
    assert (nll.shape, nll.dtype) == ((num_rows,), torch.float32)
    assert torch.allclose(nll, plain(states, head, targets), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [0.1, 1.0, 8.0])
def test_gradient_equals_that_of_the_plain_form(size: float) -> None:
    states, head, targets = drawn(13, size=size)
    weights = randn(13, seed=4).abs()
    grads = []
    for function in (token_nll, plain):
        inputs = states.clone().requires_grad_(True)
        grads.append(torch.autograd.grad((weights * function(inputs, head, targets)).sum(), inputs)[0])
    assert torch.allclose(*grads, rtol=1e-4, atol=1e-6)


def test_gradient_of_nearly_certain_tokens_does_not_vanish() -> None:
    head = torch.eye(10)
    states = (20.0 * head[:1]).requires_grad_(True)
    (gradient,) = torch.autograd.grad(token_nll(states, head, torch.tensor([0])).sum(), states)
    assert float(gradient[0, 0]) == pytest.approx(-9 * math.exp(-20.0), rel=1e-3, abs=0)
    assert float(gradient[0, 1]) == pytest.approx(math.exp(-20.0), rel=1e-3, abs=0)


def test_gradient_under_autocast_is_near_the_true_one() -> None:
    states, head, targets = drawn(64)
    truth = states.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(plain(truth, head, targets).sum(), truth)
    inputs = states.clone().requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (ours,) = torch.autograd.grad(token_nll(inputs, head, targets).sum(), inputs)
    assert ours.dtype == torch.float32
    assert float((ours - expected).norm() / expected.norm()) < 0.01


def test_a_trained_head_is_refused() -> None:
    states, head, targets = drawn(3)
    with pytest.raises(InputError, match="frozen"):
        token_nll(states, head.requires_grad_(True), targets)


@pytest.mark.parametrize("chunk_rows", [1, 4, 16, 17, 100])
def test_chunks_change_nothing(chunk_rows: int) -> None:
    states, head, targets = drawn(17)
    chunked = token_nll(states, head, targets, chunk_rows=chunk_rows)
    assert torch.allclose(chunked, token_nll(states, head, targets), rtol=1e-6, atol=1e-6)


def test_no_rows_give_no_values() -> None:
    states, head, _ = drawn(1)
    assert token_nll(states[:0], head, torch.zeros(0, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize("autocast", [False, True])
def test_closer_to_the_truth_than_the_naive_form_in_bf16(autocast: bool) -> None:
    states, head, targets = drawn(400)
    states = states + 18 * head[targets]  # targets likely, as memorised ones are: logits near 20
    states, head = states.to(torch.bfloat16), head.to(torch.bfloat16)
    truth = F.cross_entropy(states.double() @ head.double().T, targets, reduction="none")
    if autocast:
        states, head = states.float(), head.float()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        ours = token_nll(states, head, targets)
        naive = plain(states, head, targets)
    our_error, naive_error = ((x.double() - truth).abs().mean() for x in (ours, naive))
    assert our_error < 0.5 * naive_error


def test_nearly_certain_tokens_keep_a_tiny_positive_nll() -> None:
    # Plain fp32 cross-entropy gives 0 below 6e-8, which would make all well-memorised secrets equal.
    head = torch.eye(10)
    for margin in (5.0, 20.0, 40.0):
        nll = float(token_nll(margin * head[:1], head, torch.tensor([0])))
        assert nll == pytest.approx(math.log1p(9 * math.exp(-margin)), rel=1e-4, abs=0)


def test_never_negative() -> None:
    for size in (0.1, 10.0, 100.0):
        states, head, _ = drawn(200, size=size)
        best = (states @ head.T).argmax(dim=1)
        for dtype in (torch.float32, torch.bfloat16):
            assert (token_nll(states.to(dtype), head.to(dtype), best) >= 0).all()
