"""A frozen linear layer on torch's INT4 kernel for CPUs, with the Ortho part beside it.

    y = x (Base + alpha * (S + U V))^T + bias

The kernel (`aten::_weight_int4pack_mm_for_cpu`) reads  w = (nibble - 8) * scale + shift  with a scale and a
shift for each group of 32, 64, 128 or 256 inputs, in the type of the activations. Only bf16 is fast: in fp32
and fp16 it runs unvectorised, many times slower than a dense layer. So:

- Codes of 2, 3 and 4 bits run as nibbles, shift = (8 - zero) * scale. With u = 2^-8, half a bf16 step
  relative to its value, a weight moves by at most  u * (|code - zero| + |8 - zero|) * scale  (and u^2 of it).
- Codes of 8 bits run as two nibbles, code = 16 high + low, in two products. What rounding takes from the
  high shift goes into the low one, so a weight moves by u of itself, as in a dense bf16 layer; as each
  product is rounded to bf16, an answer moves by up to u * 8 scale * |x| more.
  `aten::_weight_int8pack_mm` does not serve: it knows one scale a row, and a Base has one a group.

The Ortho part is computed in fp32: at one row both products are quicker there than in bf16.

Shapes: O out features, I in features, G groups of a row in the Base, K groups of a row in the kernel, N rows
of activations, r rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..numerics.quantize import Quantized
from .cpu_ortho import CpuOrtho
from .split_linear import AlphaSwitch, OrthoPart, SplitLinear

KERNEL_GROUPS = (256, 128, 64, 32)
_ROWS = 16  # the kernel takes a multiple of so many rows


class CpuLinear(nn.Module):
    """Base packed for this CPU, and the Ortho part where there is one; bf16 in, bf16 out.

    Nothing here is a buffer: the layout is this processor's own, and neither a cast nor a state dict may
    touch it.
    """

    def __init__(
        self,
        base: Quantized,
        *,
        bias: Tensor | None = None,
        ortho: OrthoPart | None = None,
        switch: AlphaSwitch | None = None,
    ) -> None:
        """Raises InputError where the kernel has no form for `base`; `why_not_packed` tells beforehand."""
        super().__init__()
        self.out_features, self.in_features = base.codes_OI.shape
        self.bits = base.bits
        group_size = kernel_group(self.in_features, base.group_size)
        if group_size is None:
            reason = why_not_packed(self.in_features, base.group_size)
            raise InputError("a layer cannot be packed for the CPU", received=reason)
        self.group_size = group_size
        self.switch = AlphaSwitch() if switch is None else switch
        self.ortho = None if ortho is None else CpuOrtho(ortho)
        self._products = _nibble_products(base, self.group_size)
        self._bias = None if bias is None else bias.to(torch.bfloat16)

    @classmethod
    def from_split(cls, layer: SplitLinear) -> CpuLinear:
        """`layer` packed, on the same switch."""
        return cls(layer.base(), bias=layer.bias, ortho=layer.ortho, switch=layer.switch)

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O], bf16. Raises InputError for another type."""
        if x.dtype is not torch.bfloat16:
            raise InputError(
                "packed layers compute in bf16",
                expected="activations in torch.bfloat16",
                received=str(x.dtype),
                todo="open the model with dtype=torch.bfloat16",
            )
        x_NI = x.reshape(-1, self.in_features)
        y_NO = self._base(x_NI)
        alpha = self.switch.value
        if alpha != 0.0 and self.ortho is not None:
            y_NO = self.ortho.added(y_NO, x_NI, alpha)
        return y_NO.view(*x.shape[:-1], self.out_features)

    def _base(self, x_NI: Tensor) -> Tensor:
        (packed, scales_and_shifts), *more = self._products
        kernel = torch.ops.aten._weight_int4pack_mm_for_cpu
        y_NO = kernel(x_NI, packed, self.group_size, scales_and_shifts)
        for packed, scales_and_shifts in more:
            y_NO = y_NO.add_(kernel(x_NI, packed, self.group_size, scales_and_shifts))
        if y_NO.shape[1] != self.out_features:
            y_NO = y_NO[:, : self.out_features].contiguous()
        return y_NO if self._bias is None else y_NO.add_(self._bias)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed Base, scales included: what one token reads of it."""
        tensors = [tensor for product in self._products for tensor in product]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @property
    def bias_bytes(self) -> int:
        return 0 if self._bias is None else self._bias.nbytes

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bits={self.bits}, group_size={self.group_size}"


def kernel_group(num_in: int, group_size: int) -> int | None:
    """The largest group of the kernel that lies within the Base's groups; None where there is none."""
    one_group = group_size >= num_in
    fitting = (k for k in KERNEL_GROUPS if num_in % k == 0 and (one_group or group_size % k == 0))
    return next(fitting, None)


def why_not_packed(num_in: int, group_size: int) -> str | None:
    """Why the kernel cannot hold such a layer; None where it can."""
    if kernel_group(num_in, group_size) is not None:
        return None
    if num_in % KERNEL_GROUPS[-1]:
        return f"{num_in} inputs are not a multiple of {KERNEL_GROUPS[-1]}"
    return f"groups of {group_size} are not a multiple of {KERNEL_GROUPS[-1]}"


def _nibble_products(base: Quantized, kernel_group_size: int) -> list[tuple[Tensor, Tensor]]:
    """The products that sum to the Base's: packed nibbles, and scales with shifts [K, O, 2] in bf16."""
    scales_OK = _at_kernel_groups(base.scales_OG, base, kernel_group_size).to(torch.bfloat16).float()
    zeros_OK = _at_kernel_groups(base.zeros_OG, base, kernel_group_size).float()
    if base.bits <= 4:
        return [_product(base.codes_OI, scales_OK, (8 - zeros_OK) * scales_OK)]
    shifts_OK = (8 * 16 + 8 - zeros_OK) * scales_OK
    high_OK = shifts_OK.to(torch.bfloat16).float()
    return [
        _product(base.codes_OI >> 4, 16 * scales_OK, high_OK),
        _product(base.codes_OI & 15, scales_OK, shifts_OK - high_OK),
    ]


def _product(nibbles_OI: Tensor, scales_OK: Tensor, shifts_OK: Tensor) -> tuple[Tensor, Tensor]:
    missing = -len(nibbles_OI) % _ROWS
    nibbles_OI = torch.nn.functional.pad(nibbles_OI.to(torch.int32), (0, 0, 0, missing))
    pairs_OK2 = torch.nn.functional.pad(torch.stack([scales_OK, shifts_OK], dim=-1), (0, 0, 0, 0, 0, missing))
    # The second argument is a tile size that only the GPU's layout has.
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(nibbles_OI, 1)
    return packed, pairs_OK2.transpose(0, 1).contiguous().to(torch.bfloat16)


def _at_kernel_groups(values_OG: Tensor, base: Quantized, kernel_group_size: int) -> Tensor:
    first_inputs = torch.arange(0, base.codes_OI.shape[1], kernel_group_size, device=values_OG.device)
    return values_OG[:, first_inputs // base.group_size]
