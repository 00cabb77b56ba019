"""Products of many rows: the packed codes turn into dense rows, chunk by chunk, and S and U V come on top."""

from __future__ import annotations

import pytest
import torch
from kernel_tools import (
    DEVICE,
    DTYPES,
    IN,
    INTERPRETED,
    OUT,
    activations,
    assert_rounds_to,
    random_base,
    random_ortho,
    rms,
    true_weight,
)

from sixgig.numerics.kernels.layout import tile_base
from sixgig.numerics.kernels.ortho_layout import tile_ortho
from sixgig.numerics.kernels.prefill_product import dense_rows, prefill_product
from sixgig.numerics.quantize import dequantize
from sixgig.numerics.split_product import split_product

CASES = [(bits, group, dtype) for bits in (2, 3, 4, 8) for group in (64, 128) for dtype in DTYPES]


@pytest.mark.parametrize(("bits", "group_size", "dtype"), CASES)
def test_dense_rows_are_the_dequantised_base(bits: int, group_size: int, dtype: torch.dtype) -> None:
    base = random_base(OUT, IN, bits=bits, group_size=group_size)
    out_CI = torch.full((40, IN), float("nan"), dtype=dtype, device=DEVICE)
    dense_rows(tile_base(base, dtype).to(DEVICE), None, None, 13, out_CI)
    assert_rounds_to(out_CI.cpu(), dequantize(base, dtype)[13:53])


@pytest.mark.parametrize("chunk_bytes", [1, 64 * 2 * IN, 2**20])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_prompts_product_is_near_its_twin(dtype: torch.dtype, chunk_bytes: int) -> None:
    """Its weight is rounded twice, once more where S is added, and U V's part by itself.

    bf16 rounds the factors too, which are kept in fp16.
    """
    base, ortho = random_base(OUT, IN, bits=4, group_size=64), random_ortho(OUT, IN)
    tiles = tile_base(base, dtype).to(DEVICE)
    tiled = tile_ortho([ortho], torch.arange(OUT), 32).to(DEVICE)
    x_MI = activations(20, IN, dtype)
    for value in (1.0, -0.5, 0.0):
        alpha = torch.full((1,), value, device=DEVICE)
        y_MO = prefill_product(x_MI, tiles, tiled, alpha, chunk_bytes=chunk_bytes)
        truth_MO = x_MI.cpu().double() @ true_weight(base, ortho, value).T
        twin_MO = split_product(x_MI.cpu(), base, ortho, value)
        limit = 1.5 if dtype == torch.float16 else 4 if INTERPRETED else 2
        assert rms(y_MO.cpu() - truth_MO) <= limit * rms(twin_MO - truth_MO)
    assert torch.equal(y_MO, prefill_product(x_MI, tiles, None, None, chunk_bytes=chunk_bytes))


def test_a_prompts_product_of_stacked_layers_keeps_their_components_apart() -> None:
    ranks = (5, 17)
    base = random_base(128, IN, bits=4, group_size=64)
    parts = [random_ortho(64, IN, rank=rank, seed=rank) for rank in ranks]
    tiled = tile_ortho(parts, torch.arange(128), 32)
    assert len(tiled.segment_bounds) == 2
    x_MI = activations(4, IN, torch.float16)
    tiles, alpha = tile_base(base, torch.float16).to(DEVICE), torch.ones(1, device=DEVICE)
    y_MO = prefill_product(x_MI, tiles, tiled.to(DEVICE), alpha).cpu()
    weight_OI = true_weight(base) + torch.cat([part.dense() for part in parts]).double()
    truth_MO = x_MI.cpu().double() @ weight_OI.T
    assert rms(y_MO - truth_MO) <= 2e-3 * rms(truth_MO)
