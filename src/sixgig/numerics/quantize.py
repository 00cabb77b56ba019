"""Group-wise asymmetric integer quantisation: round-to-nearest, and GPTQ's error compensation.

A weight [out, in] is cut along `in` into groups; each group of each row has one scale and one integer zero
point, and  w ~ (code - zero) * scale.  The last group is shorter where `in` is no multiple of the group size.

Shapes: O out features, I in features, G = ceil(I / group_size) groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError, NumericalError
from .bits import SUPPORTED_BITS
from .cholesky import inverse_upper_factor
from .finite import all_finite
from .grids import Grid, minmax_grid


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A quantised weight, unpacked. `pack.pack_codes` gives the storage form of `codes_OI`."""

    codes_OI: Tensor  # uint8, 0 .. 2**bits - 1
    scales_OG: Tensor  # float16, > 0
    zeros_OG: Tensor  # uint8, 0 .. 2**bits - 1
    bits: int
    group_size: int

    @property
    def storage_bits(self) -> int:
        """Bits that the packed form takes: codes, 16-bit scales and `bits`-wide zero points."""
        return self.codes_OI.numel() * self.bits + self.scales_OG.numel() * (16 + self.bits)

    def to(self, device: torch.device | str) -> Quantized:
        """The same on another device."""
        return Quantized(
            codes_OI=self.codes_OI.to(device),
            scales_OG=self.scales_OG.to(device),
            zeros_OG=self.zeros_OG.to(device),
            bits=self.bits,
            group_size=self.group_size,
        )


def dequantize(quantized: Quantized, dtype: torch.dtype = torch.float32) -> Tensor:
    """(code - zero) * scale, computed in fp32 and rounded once to `dtype`; [O, I]."""
    num_in = quantized.codes_OI.shape[1]
    scales_OI = _spread(quantized.scales_OG.float(), quantized.group_size, num_in)
    return (centred_codes(quantized).float() * scales_OI).to(dtype)


def centred_codes(quantized: Quantized) -> Tensor:
    """code - zero: the weight in steps of its group's scale; int16 [O, I], from -255 to 255."""
    num_in = quantized.codes_OI.shape[1]
    zeros_OI = _spread(quantized.zeros_OG, quantized.group_size, num_in)
    return quantized.codes_OI.to(torch.int16) - zeros_OI.to(torch.int16)


def quantize_rtn(weight_OI: Tensor, *, bits: int, group_size: int, grid: Grid | None = None) -> Quantized:
    """Round-to-nearest: each weight goes to the nearest code of its own group's grid.

    Without `grid` that is `minmax_grid`'s, which spans [min(w, 0), max(w, 0)] of the group.
    Raises InputError for unsupported bits, NumericalError for NaN or Inf.
    """
    _check(weight_OI, bits, group_size)
    grid = grid or minmax_grid(weight_OI, bits=bits, group_size=group_size)
    num_in = weight_OI.shape[1]
    codes_OI = _codes(
        weight_OI.float(),
        _spread(grid.scales_OG.float(), group_size, num_in),
        _spread(grid.zeros_OG, group_size, num_in),
        bits,
    )
    return _quantized(codes_OI, grid, bits, group_size)


def quantize_in_blocks(weight_OI: Tensor, *, bits: int, group_size: int, block_rows: int = 8192) -> Quantized:
    """`quantize_rtn` of some rows after the others, for a vocabulary's many: the same, in less memory."""
    parts = [
        quantize_rtn(weight_OI[start : start + block_rows], bits=bits, group_size=group_size)
        for start in range(0, len(weight_OI), block_rows)
    ]
    return Quantized(
        codes_OI=torch.cat([part.codes_OI for part in parts]),
        scales_OG=torch.cat([part.scales_OG for part in parts]),
        zeros_OG=torch.cat([part.zeros_OG for part in parts]),
        bits=bits,
        group_size=group_size,
    )


@dataclass(frozen=True, kw_only=True)
class Steering:
    """What GPTQ knows of a layer's inputs: the order in which columns are taken, and U in that order."""

    order_I: Tensor
    factor_II: Tensor  # upper Cholesky factor of the inverse of H; fp32


def steering(second_moment_II: Tensor, damping: float = 0.01) -> Steering:
    """For `quantize_gptq`; once for all weights that read one input.

    Args:
        second_moment_II: mean x x^T over public positions, fp32. It enters as H, its inverse's Cholesky
            factor steers the compensation.
        damping: share of mean(diag(H)) added to the diagonal.
    Raises:
        NumericalError where H is not positive definite.
    """
    order_I = torch.argsort(second_moment_II.diagonal(), descending=True, stable=True)
    return Steering(order_I=order_I, factor_II=inverse_upper_factor(second_moment_II, order_I, damping))


def quantize_gptq(
    weight_OI: Tensor,
    second_moment_II: Tensor | Steering,
    *,
    bits: int,
    group_size: int,
    damping: float = 0.01,
    block_size: int = 128,
    grid: Grid | None = None,
    kept_OI: Tensor | None = None,
) -> Quantized:
    """Column by column, each column's rounding error pushed onto the columns not yet rounded.

    Frantar et al. 2022 (arXiv 2210.17323), algorithm 1, with columns taken in order of falling diag(H)
    (the paper's later "act-order") and every group's grid fixed from the original weight beforehand, so
    that the stored layout stays in natural column order.

    Args:
        second_moment_II, damping: as `steering` takes them; or what that gave, and then no damping is used.
        grid: `minmax_grid`'s where none is given.
        kept_OI: true where an entry is also kept elsewhere, as it is in `weight_OI`. It counts as exact, so
            that what was pushed onto it goes on to the columns after it; its code is its nearest.
    """
    _check(weight_OI, bits, group_size)
    num_in = weight_OI.shape[1]
    # First, since it takes the most room for a moment.
    given = second_moment_II
    steered = given if isinstance(given, Steering) else steering(given, damping)
    order_I, factor_II = steered.order_I, steered.factor_II
    grid = grid or minmax_grid(weight_OI, bits=bits, group_size=group_size)
    original_OI = weight_OI.float()[:, order_I]
    working_OI = original_OI if kept_OI is None else original_OI.clone()
    kept_OI = None if kept_OI is None else kept_OI[:, order_I]
    scales_OI = _spread(grid.scales_OG.float(), group_size, num_in)[:, order_I]
    zeros_OI = _spread(grid.zeros_OG, group_size, num_in)[:, order_I]

    codes_OI = torch.empty_like(working_OI, dtype=torch.uint8)
    for start in range(0, num_in, block_size):
        stop = min(start + block_size, num_in)
        errors_OB = torch.empty_like(working_OI[:, start:stop])
        for column in range(start, stop):
            scale_O, zero_O = scales_OI[:, column], zeros_OI[:, column]
            value_O = working_OI[:, column]
            if kept_OI is not None:
                value_O = torch.where(kept_OI[:, column], original_OI[:, column], value_O)
            code_O = _codes(value_O, scale_O, zero_O, bits)
            codes_OI[:, column] = code_O
            rounded_O = (code_O.float() - zero_O.float()) * scale_O
            if kept_OI is not None:
                rounded_O = torch.where(kept_OI[:, column], original_OI[:, column], rounded_O)
            error_O = (working_OI[:, column] - rounded_O) / factor_II[column, column]
            working_OI[:, column:stop] -= torch.outer(error_O, factor_II[column, column:stop])
            errors_OB[:, column - start] = error_O
        working_OI[:, stop:] -= errors_OB @ factor_II[start:stop, stop:]

    natural_OI = torch.empty_like(codes_OI)
    natural_OI[:, order_I] = codes_OI
    return _quantized(natural_OI, grid, bits, group_size)


def _quantized(codes_OI: Tensor, grid: Grid, bits: int, group_size: int) -> Quantized:
    return Quantized(
        codes_OI=codes_OI,
        scales_OG=grid.scales_OG,
        zeros_OG=grid.zeros_OG,
        bits=bits,
        group_size=group_size,
    )


def _check(weight_OI: Tensor, bits: int, group_size: int) -> None:
    if bits not in SUPPORTED_BITS:
        raise InputError("unsupported bit width", expected=f"one of {SUPPORTED_BITS}", received=str(bits))
    if group_size < 1:
        raise InputError("group size must be positive", received=str(group_size))
    if not all_finite(weight_OI):
        raise NumericalError("NaN or Inf in a weight to quantise")


def _spread(values_OG: Tensor, group_size: int, num_in: int) -> Tensor:
    return values_OG.repeat_interleave(group_size, dim=1)[:, :num_in]


def _codes(weight: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    return (weight / scale + zero.float()).round().clamp(0, 2**bits - 1).to(torch.uint8)
