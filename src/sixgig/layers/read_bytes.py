"""How many bytes of weights a layer reads for one row of activations, in the form that it has."""

from __future__ import annotations

from torch import nn

from .cpu_linear import CpuLinear
from .split_linear import SplitLinear

_DENSE_BYTES = 2  # split layers keep their dense form in 16 bit where anybody counts


def read_bytes(module: nn.Module, alpha: float) -> int:
    """Of a linear layer: packed, split (its dense form, with S added into it), or plain."""
    if isinstance(module, CpuLinear):
        has_part = module.ortho is not None and alpha != 0.0
        ortho_bytes = module.ortho.num_bytes if has_part and module.ortho else 0
        return module.weight_bytes + module.bias_bytes + ortho_bytes
    if isinstance(module, SplitLinear):
        num_read = module.in_features * module.out_features
        num_read += 0 if module.bias is None else module.bias.numel()
        if module.ortho is not None and alpha != 0.0:
            num_read += module.ortho.up_Or.numel() + module.ortho.down_rI.numel()
        return num_read * _DENSE_BYTES
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
