"""What comes before and after a product in its launch, packed or dense: as plain torch has it, rounded where
transformers rounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from kernel_tools import (
    DEVICE,
    DTYPES,
    IN,
    INTERPRETED,
    OUT,
    SMALL,
    activations,
    assert_rounds_to,
    in_fp32,
    make_product,
    random_base,
    rms,
    true_weight,
)
from torch import Tensor

from sixgig.numerics.kernels.dense_product import DenseProduct
from sixgig.numerics.kernels.product import (
    MAX_ROWS,
    DecodeProduct,
    NormFactor,
    Residual,
)
from sixgig.numerics.quantize import Quantized, dequantize


def packed_and_dense(
    dtype: torch.dtype, epilogue: str, split: int
) -> tuple[Quantized, DecodeProduct, DenseProduct]:
    """A Base's product and that of its dense weight, the latter rounded to `dtype`."""
    base = random_base(OUT, IN, bits=4, group_size=64)
    packed, _, _ = make_product(base, None, dtype, replace(SMALL, split=split), epilogue=epilogue)
    return base, packed, DenseProduct(dequantize(base, dtype).to(DEVICE), epilogue)


def before_epilogue(base: Quantized, dense: bool, x_MI: Tensor, split: int) -> Tensor:
    """y [M, O] in the activations' type."""
    if dense:
        return torch.mm(x_MI, dequantize(base, x_MI.dtype).to(DEVICE).T)
    plain, _, _ = make_product(base, None, x_MI.dtype, replace(SMALL, split=split))
    return in_fp32(plain, x_MI).to(x_MI.dtype)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(
    ("dtype", "num_rows", "split"), [(DTYPES[0], 1, 2), (DTYPES[0], 9, 1), (DTYPES[1], 3, 1)]
)
def test_residual_adds_to_the_stream_and_leaves_the_next_norm_its_sums(
    dtype: torch.dtype, num_rows: int, split: int, dense: bool
) -> None:
    base, packed, plain = packed_and_dense(dtype, "residual", split)
    product = plain if dense else packed
    x_MI = activations(num_rows, IN, dtype)
    before_MO, gain_O = activations(num_rows, OUT, dtype, 3), 1 + activations(1, OUT, dtype, 4)[0] / 8
    after_MO = before_MO + before_epilogue(base, dense, x_MI, split)
    stream_MO, out_MO = before_MO.clone(), torch.empty_like(before_MO)
    squares = torch.full((product.num_row_blocks, MAX_ROWS), float("nan"), device=DEVICE)
    product(x_MI, out_MO, residual=Residual(stream_MO=stream_MO, gain_O=gain_O, squares=squares))
    if INTERPRETED and dtype == torch.bfloat16:  # y and the sum are cut off there, by their own units each
        torch.testing.assert_close(stream_MO, after_MO, rtol=2**-7, atol=2**-6)
    else:
        assert torch.equal(stream_MO, after_MO)
    assert_rounds_to(out_MO, stream_MO * gain_O)
    sums_M = stream_MO.float().square().sum(dim=1)
    torch.testing.assert_close(squares[:, :num_rows].sum(dim=0), sums_M)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(("dtype", "num_rows"), [(DTYPES[0], 1), (DTYPES[0], 9), (DTYPES[1], 3)])
def test_swiglu_joins_rows_that_alternate(dtype: torch.dtype, num_rows: int, dense: bool) -> None:
    base, packed, plain = packed_and_dense(dtype, "swiglu", 1)
    x_MI = activations(num_rows, IN, dtype)
    y_MO = before_epilogue(base, dense, x_MI, 1)
    channels = torch.full((num_rows, OUT // 2), float("nan"), dtype=dtype, device=DEVICE)
    (plain if dense else packed)(x_MI, channels)
    # exp is not the same to the last bit everywhere, so SiLU may round the other way.
    assert_rounds_to(channels, F.silu(y_MO[:, 0::2]) * y_MO[:, 1::2], units=2)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_norm_may_come_after_the_product(dtype: torch.dtype, dense: bool) -> None:
    """transformers' norm and a product, against a product of what is not normed yet: sums of three makers."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    base, packed, plain = packed_and_dense(dtype, "plain", 1)
    norm = LlamaRMSNorm(IN, eps=1e-5).to(DEVICE, dtype)
    norm.weight.data = 1 + activations(1, IN, dtype, 4)[0] / 8
    x_MI = activations(3, IN, dtype) / 4
    squares = torch.full((4, MAX_ROWS), float("nan"), device=DEVICE)
    for part, columns in enumerate(x_MI.float().split(200, dim=1)):
        squares[part, :3] = columns.square().sum(dim=1)
    out_MO = torch.empty(3, OUT, device=DEVICE, dtype=torch.float32)
    factor = NormFactor(squares=squares, num_parts=3, eps=norm.variance_epsilon)
    (plain if dense else packed)(x_MI * norm.weight.data, out_MO, norm=factor)
    weight_OI = true_weight(base).to(DEVICE)
    exact_MI = x_MI.double() * (x_MI.double().square().mean(1, keepdim=True) + 1e-5).rsqrt()
    truth_MO = exact_MI * norm.weight.data.double() @ weight_OI.T
    with torch.no_grad():
        twin_MO = F.linear(norm(x_MI), weight_OI.to(dtype))
    assert rms(out_MO - truth_MO) <= rms(twin_MO - truth_MO)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dense_product_is_torchs_own(dtype: torch.dtype) -> None:
    weight_OI, x_MI = activations(OUT, IN, dtype, 1), activations(9, IN, dtype)
    product = DenseProduct(weight_OI)
    out_MO = torch.empty(9, OUT, dtype=dtype, device=DEVICE)
    product(x_MI, out_MO)
    assert torch.equal(out_MO, torch.mm(x_MI, weight_OI.T))
    assert product.num_bytes == 2 * OUT * IN
