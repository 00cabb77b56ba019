"""Puts torch's INT4 kernel for CPUs in place of split layers, and an 8- or 4-bit copy in that of the head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..layers.cpu_linear import KERNEL_GROUPS, CpuLinear, why_not_packed
from ..layers.split_linear import SplitLinear, split_layers
from ..load.loaded import LoadedModel
from ..numerics.quantize import quantize_in_blocks

HEAD_BITS = (4, 8, 16)
# 8-bit codes hardly depend on it; at 4 bits smaller groups are the better ones for their size.
HEAD_GROUP_SIZES = {4: 32, 8: 64}


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What became of a model's split layers: how many were packed, and why the others were not."""

    num_packed: int
    left: dict[str, str]  # layer -> reason

    @property
    def told(self) -> str | None:
        """The layers that were left, in one line with what that costs; None where there are none."""
        if not self.left:
            return None
        first, reason = next(iter(self.left.items()))
        return (
            f"{len(self.left)} of {len(self.left) + self.num_packed} layers have no packed form ({first}: "
            f"{reason}); they run on dense weights, which take about four times the memory and the time"
        )


def why_no_kernel() -> str | None:
    """Why torch's INT4 kernel is slow on this processor; None where it is fast."""
    capability = torch.backends.cpu.get_cpu_capability()
    if capability in ("AVX2", "AVX512"):
        return None
    return f"torch has no vectorised INT4 kernel for this processor ({capability})"


def pack_for_cpu(loaded: LoadedModel) -> Packed:
    """Replaces every SplitLinear that the kernel can hold, in place; the model computes in bf16 from then on.

    Raises InputError for a model on another device, or in another type than bf16.
    """
    require_cpu_bf16(loaded)
    left, num_packed = {}, 0
    for name, layer in list(split_layers(loaded.network)):
        reason = why_not_packed(layer.in_features, layer.group_size)
        if reason is not None:
            left[name] = reason
            continue
        owner, _, leaf = name.rpartition(".")
        setattr(loaded.network.get_submodule(owner), leaf, CpuLinear.from_split(layer))
        num_packed += 1
    return Packed(num_packed=num_packed, left=left)


def packed_or_itself(layer: nn.Module) -> nn.Module:
    """`layer` packed where it is split and the kernel can hold it; else `layer`."""
    if isinstance(layer, SplitLinear) and why_not_packed(layer.in_features, layer.group_size) is None:
        return CpuLinear.from_split(layer)
    return layer


def packed_head(network: Any, bits: int) -> nn.Module:
    """The output head rounded to the nearest of 4 or 8 bits, a copy of its own where it is tied; 16: itself.

    Raises InputError for other bits, or a hidden size that the kernel cannot hold.
    """
    head = network.get_output_embeddings()
    if bits == 16:
        return head
    if bits not in HEAD_BITS:
        raise InputError("unsupported bits of the head", expected=f"one of {HEAD_BITS}", received=str(bits))
    if reason := why_not_packed(head.in_features, KERNEL_GROUPS[-1]):
        raise InputError("the head cannot be packed", received=reason, todo="leave it at 16 bits")
    base = quantize_in_blocks(head.weight, bits=bits, group_size=HEAD_GROUP_SIZES[bits])
    return CpuLinear(base, bias=head.bias)


def require_cpu_bf16(loaded: LoadedModel) -> None:
    """Raises InputError where the packed layers cannot run."""
    dtype = loaded.network.get_input_embeddings().weight.dtype
    if loaded.device.type != "cpu" or dtype is not torch.bfloat16:
        raise InputError(
            "packed layers for the CPU compute there, in bf16",
            expected="a model opened with device='cpu', dtype=torch.bfloat16",
            received=f"{loaded.device}, {dtype}",
        )
