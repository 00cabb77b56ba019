"""What tests of the kernels share: random matrices in every corner of their grids, truth in fp64, and errors.

On a CPU the kernels run in Triton's interpreter. It rounds to fp16 as a card does, but cuts numbers off where
they become bf16, so that a rounding there may be off by a unit in the last place and not by half of one.

Shapes: M rows of activations, O out features, I in features, r rank.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from fakes import randn
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not here (on Linux the dev extra brings it)")

from sixgig.numerics.kernels.layout import tile_base
from sixgig.numerics.kernels.ortho_layout import TiledOrtho, tile_ortho
from sixgig.numerics.kernels.product import DecodeProduct, Launch, Workspace
from sixgig.numerics.quantize import Quantized, dequantize
from sixgig.numerics.sparse import SparsePart, keep_top_k
from sixgig.numerics.split_product import OrthoFactors, split_product

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
INTERPRETED = DEVICE.type == "cpu"
DTYPES = [torch.float16, torch.bfloat16]
OUT, IN = 70, 600  # no multiple of a block either way
SMALL = Launch(block_rows=32, max_inner_helpers=2, max_sparse_helpers=2)  # fewer helpers than tasks
UNIT = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}  # of the last place, relative


def random_base(num_out: int, num_in: int, *, bits: int, group_size: int, seed: int = 0) -> Quantized:
    """Codes and zero points over their whole range; steps of about 1 / sqrt(I) in all."""
    generator = torch.Generator().manual_seed(seed)
    num_groups = -(-num_in // group_size)
    scales_OG = (0.5 + torch.rand(num_out, num_groups, generator=generator)) / (2**bits * num_in**0.5)
    return Quantized(
        codes_OI=torch.randint(0, 2**bits, (num_out, num_in), generator=generator, dtype=torch.uint8),
        scales_OG=scales_OG.half(),
        zeros_OG=torch.randint(0, 2**bits, (num_out, num_groups), generator=generator, dtype=torch.uint8),
        bits=bits,
        group_size=group_size,
    )


def random_ortho(
    num_out: int, num_in: int, *, rank: int = 5, num_sparse: int = 300, seed: int = 1
) -> OrthoFactors:
    """Numbers that fp16 holds; of S a third lies in row 1 as far as it has room, and row 0 is empty."""
    sparse = None
    if num_sparse:
        score_OI = randn(num_out, num_in, seed=seed).abs()
        score_OI[0] = -1
        score_OI[1:2, : num_sparse // 3] = 100
        values_OI = (randn(num_out, num_in, seed=seed + 1) / 4).half().float()
        sparse = keep_top_k(values_OI, score_OI, num_sparse)
    return OrthoFactors(
        up_Or=(randn(num_out, rank, seed=seed + 2) / 4).half(),
        down_rI=(randn(rank, num_in, seed=seed + 3) / num_in**0.5).half(),
        sparse=sparse,
    )


def true_weight(base: Quantized, ortho: OrthoFactors | None = None, alpha: float = 0.0) -> Tensor:
    """Base + alpha (S + U V) in fp64 [O, I]."""
    weight_OI = dequantize(base, torch.float64)
    if ortho is None:
        return weight_OI
    sparse_OI = 0 if ortho.sparse is None else ortho.sparse.dense(torch.float64)
    return weight_OI + alpha * (sparse_OI + ortho.up_Or.double() @ ortho.down_rI.double())


def moved(part: Any, device: torch.device) -> Any:
    """`part` (dataclasses all the way down) with its tensors on `device`."""
    if isinstance(part, Tensor):
        return part.to(device)
    if not is_dataclass(part) or isinstance(part, type):
        return part
    return type(part)(**{field.name: moved(getattr(part, field.name), device) for field in fields(part)})


def rms(error: Tensor) -> float:
    return float(error.double().square().mean().sqrt())


def assert_rounds_to(found: Tensor, expected: Tensor, *, units: float = 0.0) -> None:
    """`found` is `expected` to the bit, or within `units` in the last place of its own type.

    Where the interpreter cuts bf16 off, one unit more is allowed for each of up to two roundings.
    """
    assert found.dtype == expected.dtype
    if INTERPRETED and found.dtype == torch.bfloat16:
        units += 2
    allowed = units * UNIT[found.dtype] * expected.double().abs() + units * 1e-6
    assert bool(((found.double() - expected.double()).abs() <= allowed).all())


def sparse_part(entries: dict[tuple[int, int], float], shape: tuple[int, int]) -> SparsePart:
    """A part with just these entries."""
    positions = sorted(row * shape[1] + column for row, column in entries)
    values = [entries[divmod(position, shape[1])] for position in positions]
    return SparsePart(
        positions_k=torch.tensor(positions, dtype=torch.int32), values_k=torch.tensor(values), shape=shape
    )


def make_product(
    base: Quantized,
    ortho: OrthoFactors | None,
    dtype: torch.dtype,
    launch: Launch,
    *,
    epilogue: str = "plain",
) -> tuple[DecodeProduct, Tensor, Workspace]:
    """The product on `DEVICE`, its alpha (1 at first) and its scratch memory."""
    alpha, workspace = torch.ones(1, device=DEVICE), Workspace(DEVICE)
    tiled: TiledOrtho | None = None
    if ortho is not None:
        tiled = tile_ortho([ortho], torch.arange(len(base.codes_OI)), launch.block_rows).to(DEVICE)
    product = DecodeProduct(
        tile_base(base, dtype).to(DEVICE),
        tiled,
        None if tiled is None else alpha,
        workspace,
        launch,
        epilogue=epilogue,
    )
    return product, alpha, workspace


def activations(num_rows: int, num_in: int, dtype: torch.dtype, seed: int = 9) -> Tensor:
    """Standard normal numbers on `DEVICE`."""
    return randn(num_rows, num_in, seed=seed).to(DEVICE, dtype)


def in_fp32(product: DecodeProduct, x_MI: Tensor, num_out: int = OUT, **how: bool) -> Tensor:
    """What a plain product writes where it is given fp32 to write to."""
    out_MO = torch.full((len(x_MI), num_out), float("nan"), device=DEVICE)
    product(x_MI, out_MO, **how)
    return out_MO


def assert_no_worse_than_the_twin(
    y_MO: Tensor, x_MI: Tensor, base: Quantized, ortho: OrthoFactors | None, alpha: float
) -> None:
    """`y_MO`: fp32, from a kernel. Rounded it is no further from the truth than `split_product`."""
    base, ortho = moved(base, x_MI.device), moved(ortho, x_MI.device)
    truth_MO = x_MI.double() @ true_weight(base, ortho, alpha).T
    twin_MO = split_product(x_MI, base, ortho, alpha)
    assert rms(y_MO.to(x_MI.dtype) - truth_MO) <= rms(twin_MO - truth_MO)
    # Sums of a card's matrix unit are cut off; the interpreter's are not.
    assert rms(y_MO - truth_MO) <= (2e-6 if INTERPRETED else 2e-5) * rms(truth_MO)
