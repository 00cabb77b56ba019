"""Linear layers that compute with the Base's weights while something of them is trained.

`ScaledLinear` trains a group's scale, through its logarithm. `RoundedLinear` trains the codes too: it keeps a
value in steps of the scale behind every code, and the gradient passes the rounding straight through
(Bengio et al. 2013, arXiv 1308.3432). Entries that an Ortho part keeps are held at what they are there.

Shapes: O out features, I in features, G groups of g inputs each.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import NumericalError
from ..numerics.finite import all_finite
from ..numerics.quantize import Quantized, centred_codes
from ..numerics.sparse import SparsePart

_INSIDE = 0.49  # of a step: how far from its code's middle a value may begin


class ScaledLinear(nn.Module):
    """x ((codes - zeros) * scales * exp(change))^T + bias; only `log_change_OG` is trained.

    `whole`, where given, holds the entries of W that stay as they are, whatever the scales. `bias` is the
    model's own, or None.
    """

    bias: Tensor | None

    def __init__(
        self,
        base: Quantized,
        device: torch.device,
        whole: SparsePart | None = None,
        bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("bias", bias)
        self.num_in = base.codes_OI.shape[1]
        # bf16 holds whole numbers up to 256 exactly.
        self.centred_OGg = _grouped(centred_codes(base), base).to(device, torch.bfloat16)
        self.scales_OG = base.scales_OG.to(device, torch.float32)
        self.log_change_OG = nn.Parameter(torch.zeros_like(self.scales_OG))
        self.whole = whole
        if whole is not None:
            self.positions_k = whole.positions_k.to(device, torch.int64)
            self.values_k = whole.values_k.to(device, torch.float32)

    def trained(self) -> list[nn.Parameter]:
        return [self.log_change_OG]

    def fitted_scales(self) -> Tensor:
        return self.scales_OG * self.log_change_OG.exp()

    def forward(self, x: Tensor) -> Tensor:
        weight_OI = self.weight_OGg().flatten(1)[:, : self.num_in]
        if self.whole is not None:
            flat = weight_OI.flatten().index_copy(0, self.positions_k, self.values_k)
            weight_OI = flat.view(weight_OI.shape)
        return F.linear(x, weight_OI, self.bias)

    def weight_OGg(self) -> Tensor:
        return self.centred_OGg * self.fitted_scales()[:, :, None]

    def stored(self, base: Quantized, name: str) -> Quantized:
        """`base` with what was fitted, in its stored types. Raises NumericalError naming the layer."""
        scales_OG = self.fitted_scales().detach().cpu().to(torch.float16)
        if not all_finite(scales_OG) or bool((scales_OG <= 0).any()):
            raise NumericalError("fitted scales left the range of fp16", where=f"layer {name}")
        return replace(base, scales_OG=scales_OG)


class RoundedLinear(ScaledLinear):
    """x (round(steps) * scales * exp(change))^T + bias, codes held within their bits; both are trained.

    `steps_OGg` is a weight in steps of its scale, counted from the zero point. It begins at the weight
    itself, moved into its code's cell, so that the first codes are those of `base`. It moves with its scale:
    at codes that stay, this is `ScaledLinear`.
    """

    def __init__(
        self,
        base: Quantized,
        unrounded_OI: Tensor,
        device: torch.device,
        whole: SparsePart | None = None,
        bias: Tensor | None = None,
    ) -> None:
        super().__init__(base, device, whole, bias)
        centred_OGg = self.centred_OGg.float()
        del self.centred_OGg  # it is what this module makes itself
        weight_OGg = _grouped(unrounded_OI.to(device, torch.float32), base)
        steps_OGg = weight_OGg / self.scales_OG[:, :, None]
        self.steps_OGg = nn.Parameter(steps_OGg.clamp(centred_OGg - _INSIDE, centred_OGg + _INSIDE))
        self.zeros_OG1 = base.zeros_OG.to(device, torch.float32)[:, :, None]
        self.max_code = 2**base.bits - 1

    def trained(self) -> list[nn.Parameter]:
        return [self.log_change_OG, self.steps_OGg]

    def weight_OGg(self) -> Tensor:
        rounded: Any = _Rounded.apply(self.steps_OGg, self.zeros_OG1, self.max_code)
        return rounded * self.fitted_scales()[:, :, None]

    def stored(self, base: Quantized, name: str) -> Quantized:
        scaled = super().stored(base, name)
        codes_OGg = _codes(self.steps_OGg.detach(), self.zeros_OG1, self.max_code)
        codes_OI = codes_OGg.flatten(1)[:, : self.num_in].to("cpu", torch.uint8).contiguous()
        return replace(scaled, codes_OI=codes_OI)


class _Rounded(torch.autograd.Function):
    """code - zero of the nearest code; the gradient passes straight through, but not from beyond the grid."""

    @staticmethod
    def forward(ctx: Any, steps_OGg: Tensor, zeros_OG1: Tensor, max_code: int) -> Tensor:
        ctx.save_for_backward((steps_OGg >= -zeros_OG1 - 0.5) & (steps_OGg <= max_code - zeros_OG1 + 0.5))
        return _codes(steps_OGg, zeros_OG1, max_code) - zeros_OG1

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (inside_OGg,) = ctx.saved_tensors
        return gradients[0] * inside_OGg, None, None


def _codes(steps_OGg: Tensor, zeros_OG1: Tensor, max_code: int) -> Tensor:
    return (steps_OGg.round() + zeros_OG1).clamp(0, max_code)


def _grouped(values_OI: Tensor, base: Quantized) -> Tensor:
    num_out, num_in = values_OI.shape
    return F.pad(values_OI, (0, -num_in % base.group_size)).view(num_out, -1, base.group_size)
