"""A frozen linear layer whose weight stays packed in 2, 3, 4 or 8 bits and is unpacked a tile at a time.

The plain, slow twin of a fused kernel: it shows what such a kernel must compute, and it already saves the
memory, since no more than one tile of the weight is ever dense.

Shapes: O out features, I in features, B bytes of a packed row, G groups of a row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..numerics.pack import pack_codes, packed_row_bytes, unpack_codes
from ..numerics.quantize import Quantized, dequantize, quantize_rtn

TILE_WEIGHTS = 2**22  # dense weights at a time; a tile in the making takes about 13 bytes a weight


class PackedLinear(nn.Module):
    """`F.linear(x, dequantize(weight, x.dtype), bias)`, without ever holding the dense weight.

    Rows of a weight are independent, so the tile's size changes no number. The weight gets no gradient.
    """

    codes_OB: Tensor
    scales_OG: Tensor
    zeros_OG: Tensor
    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bits: int,
        group_size: int,
        bias: Tensor | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Codes and zero points all 0, scales 1: a weight of zeros, to be filled."""
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bits, self.group_size = bits, group_size
        num_groups = -(-in_features // group_size)
        row_bytes = packed_row_bytes(in_features, bits)
        u8 = {"dtype": torch.uint8, "device": device}
        self.register_buffer("codes_OB", torch.zeros(out_features, row_bytes, **u8))
        ones = torch.ones(out_features, num_groups, dtype=torch.float16, device=device)
        self.register_buffer("scales_OG", ones)
        self.register_buffer("zeros_OG", torch.zeros(out_features, num_groups, **u8))
        self.register_buffer("bias", bias)

    @classmethod
    def from_dense(
        cls, weight_OI: Tensor, bias: Tensor | None = None, *, bits: int, group_size: int
    ) -> PackedLinear:
        """Round-to-nearest of a dense weight [O, I]. Raises as `quantize_rtn`."""
        quantized = quantize_rtn(weight_OI, bits=bits, group_size=group_size)
        num_out, num_in = weight_OI.shape
        layer = cls(num_in, num_out, bits=bits, group_size=group_size, bias=bias, device=weight_OI.device)
        layer.codes_OB = pack_codes(quantized.codes_OI, bits)
        layer.scales_OG, layer.zeros_OG = quantized.scales_OG, quantized.zeros_OG
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O], in the type of `x`."""
        y = x.new_empty(*x.shape[:-1], self.out_features)
        num_rows = max(1, TILE_WEIGHTS // self.in_features)
        for start in range(0, self.out_features, num_rows):
            rows = slice(start, start + num_rows)
            y[..., rows] = F.linear(x, dequantize(self._tile(rows), x.dtype))
        return y if self.bias is None else y.add_(self.bias.to(x.dtype))

    def _tile(self, rows: slice) -> Quantized:
        return Quantized(
            codes_OI=unpack_codes(self.codes_OB[rows], self.bits, self.in_features),
            scales_OG=self.scales_OG[rows],
            zeros_OG=self.zeros_OG[rows],
            bits=self.bits,
            group_size=self.group_size,
        )

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bits={self.bits}, group_size={self.group_size}"
