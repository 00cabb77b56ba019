"""The decoding product against fp64 truth: no worse than its plain twin in the same type, on odd shapes.

The kernel writes fp32 where it is asked to, and that is compared, rounded by torch; what it writes in the
activations' type is then compared with that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from kernel_tools import (
    DEVICE,
    DTYPES,
    IN,
    OUT,
    SMALL,
    activations,
    assert_no_worse_than_the_twin,
    assert_rounds_to,
    in_fp32,
    make_product,
    random_base,
    random_ortho,
)

from sixgig.errors import InputError
from sixgig.numerics.kernels import product as product_module
from sixgig.numerics.kernels.decode_product import decode_product_kernel
from sixgig.numerics.kernels.exchange import EMPTY
from sixgig.numerics.kernels.layout import tile_base
from sixgig.numerics.kernels.ortho_layout import tile_ortho
from sixgig.numerics.kernels.ortho_product import MOST_COMPONENTS
from sixgig.numerics.kernels.product import DecodeProduct, Launch, Workspace

CASES = [(bits, group, dtype) for bits in (2, 3, 4, 8) for group in (64, 128) for dtype in DTYPES]
# Rows, splits and alphas go round beside them, so that each meets each.
GRID = [
    (*case, (1, 3, 8, 16)[(index + index // 4) % 4], 1 + index % 3, (-0.5, 0.0)[index // 2 % 2])
    for index, case in enumerate(CASES)
]


@pytest.mark.parametrize(("bits", "group_size", "dtype", "num_rows", "split", "other_alpha"), GRID)
def test_a_product_is_no_worse_than_its_plain_twin(
    bits: int, group_size: int, dtype: torch.dtype, num_rows: int, split: int, other_alpha: float
) -> None:
    base = random_base(OUT, IN, bits=bits, group_size=group_size)
    ortho = random_ortho(OUT, IN)
    product, alpha, workspace = make_product(base, ortho, dtype, replace(SMALL, split=split))
    x_MI = activations(num_rows, IN, dtype)
    for value in (1.0, other_alpha):
        alpha.fill_(value)  # the same launch serves every alpha
        y_MO = in_fp32(product, x_MI)
        assert_no_worse_than_the_twin(y_MO, x_MI, base, ortho, value)
        assert workspace.is_at_rest, "the next launch would take these for its own"
    own = torch.zeros(num_rows, OUT, dtype=dtype, device=DEVICE)
    product(x_MI, own)
    assert_rounds_to(own, y_MO.to(dtype))


@pytest.mark.parametrize(("rank", "num_sparse"), [(0, 0), (0, 40), (17, 0), (16, 3000)])
def test_any_ortho_part_will_do(rank: int, num_sparse: int) -> None:
    """None at all, one of two kinds, and more slots than helpers take at a time."""
    base = random_base(OUT, IN, bits=4, group_size=64)
    ortho = random_ortho(OUT, IN, rank=rank, num_sparse=num_sparse)
    product, _, workspace = make_product(base, ortho, torch.float16, SMALL)
    for num_rows in (1, 3):
        x_MI = activations(num_rows, IN, torch.float16)
        assert_no_worse_than_the_twin(in_fp32(product, x_MI), x_MI, base, ortho, 1.0)
    assert workspace.is_at_rest


@pytest.mark.parametrize("max_helpers", [1, 2, 5, 264])
def test_any_number_of_helpers_gives_the_same_bits(max_helpers: int) -> None:
    """Also where V is read in two slices: 1,100 columns."""
    base, ortho = random_base(48, 1100, bits=4, group_size=128), random_ortho(48, 1100, num_sparse=2000)
    x_MI = activations(2, 1100, torch.float16)
    found = []
    many = replace(SMALL, max_inner_helpers=max_helpers, max_sparse_helpers=max_helpers)
    for launch in (many, replace(SMALL, max_inner_helpers=3, max_sparse_helpers=3)):
        product, _, workspace = make_product(base, ortho, torch.float16, launch)
        found.append(in_fp32(product, x_MI, 48))
        assert workspace.is_at_rest
    assert torch.equal(*found)
    assert_no_worse_than_the_twin(found[0], x_MI, base, ortho, 1.0)


def test_the_same_launch_twice_gives_the_same_bits() -> None:
    base, ortho = random_base(OUT, IN, bits=3, group_size=64), random_ortho(OUT, IN)
    product, _, _ = make_product(base, ortho, torch.bfloat16, replace(SMALL, split=2))
    x_MI = activations(3, IN, torch.bfloat16)
    assert torch.equal(in_fp32(product, x_MI), in_fp32(product, x_MI))


class Launched:
    """In the kernel's place: `launch` of a grid is what is called."""

    def __init__(self, launch: Callable[[Any], Any]) -> None:
        self.launch = launch

    def __getitem__(self, grid: Any) -> Any:
        return self.launch(grid)


def test_a_launch_finds_all_places_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of another launch, or of one that was broken off, would be taken for this one's."""
    base, ortho = random_base(OUT, IN, bits=4, group_size=64), random_ortho(OUT, IN)
    product, _, workspace = make_product(base, ortho, torch.float16, SMALL)
    x_MI = activations(1, IN, torch.float16)
    expected = in_fp32(product, x_MI)
    assert bool((workspace.inner != EMPTY).any())
    workspace.kept[0], workspace.counters[0] = 0, 1
    assert not workspace.is_at_rest
    workspace.reset()
    assert workspace.is_at_rest

    found: list[bool] = []

    def watch(grid: Any) -> Any:
        found.append(bool((workspace.inner == EMPTY).all()) and workspace.is_at_rest)
        return decode_product_kernel[grid]

    monkeypatch.setattr(product_module, "decode_product_kernel", Launched(watch))
    assert torch.equal(in_fp32(product, x_MI), expected)
    workspace.empty_inner()
    assert torch.equal(in_fp32(product, x_MI, is_emptied=True), expected)
    assert found == [True, True]


@pytest.mark.parametrize("num_warps", [1, 4, 8])
def test_every_number_of_a_look_has_a_thread_of_its_own(
    num_warps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, ortho = random_base(OUT, IN, bits=4, group_size=64), random_ortho(OUT, IN, num_sparse=40)
    launch = replace(SMALL, num_warps=num_warps)
    product, _, _ = make_product(base, ortho, torch.float16, launch)
    given: dict[str, Any] = {}

    def take(*_: Any, **constants: Any) -> None:
        given.update(constants)

    monkeypatch.setattr(product_module, "decode_product_kernel", Launched(lambda grid: take))
    in_fp32(product, activations(1, IN, torch.float16))
    assert given["SLICES"] * min(given["RANK"], MOST_COMPONENTS) >= 32 * num_warps
    assert given["USUAL_SLOTS"] * given["BLOCK_O"] >= 32 * num_warps


@pytest.mark.parametrize("rank", [32, 33, 70])
def test_many_components_are_multiplied_piece_by_piece(rank: int) -> None:
    base, ortho = random_base(OUT, IN, bits=4, group_size=64), random_ortho(OUT, IN, rank=rank)
    product, _, _ = make_product(base, ortho, torch.float16, SMALL)
    x_MI = activations(3, IN, torch.float16)
    assert_no_worse_than_the_twin(in_fp32(product, x_MI), x_MI, base, ortho, 1.0)


@pytest.mark.parametrize("kind", ["max_inner_helpers", "max_sparse_helpers"])
def test_a_launch_without_helpers_of_a_kind_is_refused(kind: str) -> None:
    with pytest.raises(InputError, match=kind):
        Launch(**{kind: 0})


@pytest.mark.parametrize("split", [1, 3])
def test_alpha_0_is_the_base_alone_bit_for_bit(split: int) -> None:
    """Even where the Ortho part is not finite: nothing of it counts."""
    base, ortho = random_base(OUT, IN, bits=4, group_size=64), random_ortho(OUT, IN)
    broken = replace(ortho, up_Or=torch.full_like(ortho.up_Or, float("inf")))
    launch = replace(SMALL, split=split)
    alone, _, _ = make_product(base, None, torch.float16, launch)
    x_MI = activations(1, IN, torch.float16)
    expected = in_fp32(alone, x_MI)
    for part in (ortho, broken):
        whole, alpha, _ = make_product(base, part, torch.float16, launch)
        assert torch.equal(in_fp32(whole, x_MI, with_ortho=False), expected)
        alpha.zero_()
        assert torch.equal(in_fp32(whole, x_MI), expected)
    whole, _, _ = make_product(base, ortho, torch.float16, launch)
    assert not torch.equal(in_fp32(whole, x_MI), expected)


def test_products_of_many_sizes_share_one_workspace() -> None:
    sizes = [(OUT, 300), (33, IN)]
    workspace, alpha = Workspace(DEVICE), torch.ones(1, device=DEVICE)
    launch = replace(SMALL, split=2)
    parts = [
        (random_base(out, num_in, bits=4, group_size=64), random_ortho(out, num_in)) for out, num_in in sizes
    ]
    products = []
    for base, ortho in parts:
        tiled = tile_ortho([ortho], torch.arange(len(base.codes_OI)), 32).to(DEVICE)
        tiles = tile_base(base, torch.float16).to(DEVICE)
        products.append(DecodeProduct(tiles, tiled, alpha, workspace, launch))
    for _ in range(2):
        for (out, num_in), product, (base, ortho) in zip(sizes, products, parts, strict=True):
            x_MI = activations(1, num_in, torch.float16)
            assert_no_worse_than_the_twin(in_fp32(product, x_MI, out), x_MI, base, ortho, 1.0)


def test_an_ortho_part_tiled_for_other_blocks_is_refused() -> None:
    base = tile_base(random_base(OUT, IN, bits=4, group_size=64), torch.float16)
    tiled = tile_ortho([random_ortho(OUT, IN)], torch.arange(OUT), 64)
    with pytest.raises(InputError, match="other blocks of rows"):
        DecodeProduct(base, tiled, torch.ones(1), Workspace("cpu"), SMALL)


def test_a_product_counts_the_bytes_it_must_read() -> None:
    base, ortho = random_base(OUT, IN, bits=4, group_size=64), random_ortho(OUT, IN)
    alone, _, _ = make_product(base, None, torch.float16, SMALL)
    whole, _, _ = make_product(base, ortho, torch.float16, SMALL)
    assert alone.num_bytes == tile_base(base, torch.float16).num_bytes
    assert whole.num_bytes == alone.num_bytes + tile_ortho([ortho], torch.arange(OUT), 32).num_bytes
