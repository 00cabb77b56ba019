"""What only a card can show: compiled kernels on the shapes of real models, races, and captured graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fused_tools import VOCABULARY, as_loaded, small_llama, split_layers_of, without_ortho
from kernel_tools import (
    DEVICE,
    DTYPES,
    activations,
    assert_no_worse_than_the_twin,
    assert_rounds_to,
    in_fp32,
    make_product,
    moved,
    random_base,
    random_ortho,
    rms,
    true_weight,
)
from torch import Tensor

from sixgig.numerics.kernels.product import Launch
from sixgig.numerics.split_product import split_product
from sixgig.runtime.fused_decoder import FusedDecoder
from sixgig.runtime.fused_model import fused_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
PROMPT = [5, 17, 3, 60, 5, 99]
SHAPES = [(4096, 4096, 4), (6144, 4096, 4), (4096, 14336, 8), (28672, 4096, 1), (1000, 4100, 2)]


@pytest.mark.parametrize(("num_out", "num_in", "split"), SHAPES)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_large_products_are_no_worse_than_their_plain_twin(
    num_out: int, num_in: int, split: int, bits: int
) -> None:
    dtype, num_rows = DTYPES[bits % 2], (1, 5, 16)[(split + bits) % 3]
    base = random_base(num_out, num_in, bits=bits, group_size=128)
    ortho = random_ortho(num_out, num_in, rank=16, num_sparse=num_out * num_in // 200)
    product, alpha, workspace = make_product(base, ortho, dtype, Launch(split=split, num_warps=2))
    x_MI = activations(num_rows, num_in, dtype)
    for value in (1.0, 0.0):
        alpha.fill_(value)
        y_MO = in_fp32(product, x_MI, num_out)
        assert_no_worse_than_the_twin(y_MO, x_MI, base, ortho, value)
        own = torch.empty(num_rows, num_out, dtype=dtype, device=DEVICE)
        product(x_MI, own)
        # A kernel of its own, which may add up in another order; without Ortho part it has no choice.
        assert_rounds_to(own, y_MO.to(dtype), units=1.0 if value else 0.0)
    assert workspace.is_at_rest


@pytest.mark.parametrize(("max_helpers", "num_warps", "num_rows"), [(7, 2, 1), (264, 2, 3), (264, 4, 1)])
def test_programs_that_race_give_the_same_bits_every_time(
    max_helpers: int, num_warps: int, num_rows: int
) -> None:
    """Two inputs by turns: what is left of one would not do for the other."""
    base = random_base(4096, 4096, bits=4, group_size=128)
    ortho = random_ortho(4096, 4096, rank=16, num_sparse=80_000)
    launch = Launch(
        split=8, num_warps=num_warps, max_inner_helpers=max_helpers, max_sparse_helpers=max_helpers
    )
    product, alpha, workspace = make_product(base, ortho, torch.bfloat16, launch)
    inputs = [activations(num_rows, 4096, torch.bfloat16, seed=seed) for seed in (9, 10)]
    first = [in_fp32(product, x_MI, 4096) for x_MI in inputs]
    for turn in range(300):
        assert torch.equal(in_fp32(product, inputs[turn % 2], 4096), first[turn % 2])
    x_MI = inputs[0]
    alpha.zero_()
    alone, _, _ = make_product(base, None, torch.bfloat16, launch)
    assert torch.equal(in_fp32(product, x_MI, 4096), in_fp32(alone, x_MI, 4096))
    assert workspace.is_at_rest


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_prompts_product_on_a_real_shape_is_near_its_twin(dtype: torch.dtype) -> None:
    from sixgig.numerics.kernels.prefill_product import prefill_product

    base = random_base(6144, 4096, bits=4, group_size=128)
    ortho = random_ortho(6144, 4096, rank=16, num_sparse=100_000)
    product, alpha, _ = make_product(base, ortho, dtype, Launch())
    x_MI = activations(256, 4096, dtype)
    y_MO = prefill_product(x_MI, product.base, product.ortho, alpha)
    base, ortho = moved(base, DEVICE), moved(ortho, DEVICE)
    truth_MO = x_MI.double() @ true_weight(base, ortho, 1.0).T
    limit = 1.5 if dtype == torch.float16 else 2  # bf16 rounds the factors too
    assert rms(y_MO - truth_MO) <= limit * rms(split_product(x_MI, base, ortho, 1.0) - truth_MO)


# ---- Captured graphs ----


def captured(network: Any, *, capture: bool = True, **how: Any) -> FusedDecoder:
    model = fused_model(as_loaded(network), dtype=torch.bfloat16, **how)
    return FusedDecoder(model, context_tokens=64, capture=capture)


def read(decoder: FusedDecoder, alpha: float) -> list[Tensor]:
    """Logits of a prompt and of three tokens, from the start."""
    decoder.reset()
    decoder.set_alpha(alpha)
    found = [decoder.prefill(PROMPT).clone()]
    return found + [decoder.step(token).clone() for token in (1, 2, 3)]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.fixture
def network() -> Any:
    made = small_llama(torch.bfloat16, hidden=256)
    split_layers_of(made, rank=16, num_sparse=1000)
    return made


def test_a_graph_serves_every_alpha_without_being_captured_again(network: Any) -> None:
    decoder, plainly = captured(network), captured(network, capture=False)
    graphs = dict(decoder._graphs)
    assert set(graphs) == {False, True}
    seen = {alpha: read(decoder, alpha) for alpha in (1.0, 0.5, 0.0, -1.0)}
    for alpha, logits in seen.items():
        assert same(logits, read(plainly, alpha))
        assert same(logits, read(decoder, alpha)), "not a thing of what was read before"
        assert sum(same(logits, other) for other in seen.values()) == 1
    assert all(decoder._graphs[key] is graph for key, graph in graphs.items())
    assert len(decoder._graphs) == 2


def test_attention_that_comes_early_waits_for_what_it_reads(network: Any) -> None:
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("dependent launches need compute capability 9.0")
    model = fused_model(as_loaded(network), dtype=torch.bfloat16)
    found = []
    for early in (True, False):
        decoder = FusedDecoder(model, context_tokens=256, with_dependent_launch=early)
        decoder.set_alpha(1.0)
        decoder.prefill(PROMPT)
        found.append([decoder.step(token % VOCABULARY).clone() for token in range(200)])
    assert same(*found)


def test_alpha_turns_between_two_replays(network: Any) -> None:
    decoder = captured(network)
    found = {}
    for alpha in (0.0, 1.0):
        decoder.reset()
        decoder.set_alpha(0.0)
        decoder.prefill(PROMPT)
        decoder.step(1)
        decoder.set_alpha(alpha)
        found[alpha] = decoder.step(2).clone()
    assert rms(found[1.0] - found[0.0]) > 0.01 * rms(found[0.0])


def test_a_graph_at_alpha_0_is_that_of_the_base_alone_bit_for_bit(network: Any) -> None:
    whole = captured(network)
    without_ortho(network)
    alone = captured(network)
    assert set(alone._graphs) == {False}
    read(whole, 1.0)
    assert same(read(whole, 0.0), read(alone, 0.0))


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_greedy_tokens_of_a_graph_are_those_chosen_step_by_step(network: Any, alpha: float) -> None:
    decoder = captured(network)
    decoder.set_alpha(alpha)
    decoder.prefill(PROMPT)
    found = decoder.greedy_tokens(40).tolist()
    assert decoder.position == len(PROMPT) + 40
    decoder.reset()
    logits_V, expected = decoder.prefill(PROMPT), []
    for _ in range(40):
        expected.append(int(logits_V.argmax()))
        logits_V = decoder.step(expected[-1])
    assert found == expected
    assert len(set(found)) > 1


def test_an_embedding_on_the_cpu_gives_the_same_bits(network: Any) -> None:
    away = captured(network, embedding_on_cpu=True)
    assert away._model.embedding_VD.device.type == "cpu"
    assert same(read(away, 1.0), read(captured(network), 1.0))
