"""Other projects' quantisers, each through its own code: a weight in, the weight that it computes with out.

None of them is a dependency of this project; a peer that is not installed, or cannot run here, is reported
with its own words. `--peers-path` of quality.py names a folder to import them from.

How they take 576 inputs at 128 a group, of which 4.5 make a row: torchao leaves such a layer unquantised
with a note in its log; HQQ and bitsandbytes cut the flattened weight, so that a group may span two rows; this
project makes the last group of a row shorter. So peers are compared at 64, which divides all rows alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sixgig.errors import SixgigError

GROUP_SIZE = 64
Weigh = Callable[[Tensor, Tensor], Tensor]  # weight [O, I], E x x^T [I, I] -> dequantised weight [O, I]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One row. `bits_per_weight` counts what the peer stores beside its codes; its README or code says so."""

    package: str
    weigh: Weigh
    bits_per_weight: float


class PeerChangedNothing(SixgigError):
    """A peer gave the weight back as it was; scored, it would look like a quantiser without loss."""


def peers() -> dict[str, Peer]:
    """Rows by name, all of 64 weights a group."""
    rows = {}
    for bits in (4, 3):
        # A scale and a zero point of 16 bits each.
        rows[f"peer-hqq-int{bits}"] = _peer("hqq", _hqq(bits), bits + 32 / GROUP_SIZE)
        # A 32-bit scale as its weights are fp32 here, counted as the bf16 it is stored in, and an int8 zero.
        rows[f"peer-torchao-int{bits}"] = _peer("torchao", _torchao(bits), bits + 24 / GROUP_SIZE)
        # A 16-bit scale and a zero point of as many bits as a code.
        rows[f"peer-llmcompressor-gptq-int{bits}"] = _peer(
            "llmcompressor", _llmcompressor(bits), bits + (16 + bits) / GROUP_SIZE
        )
    for kind in ("nf4", "fp4"):
        rows[f"peer-bitsandbytes-{kind}"] = _peer("bitsandbytes", _bitsandbytes(kind), 4 + 32 / GROUP_SIZE)
    return rows


def checked(peer: Peer, weight_OI: Tensor, moment_II: Tensor) -> Tensor:
    """The peer's answer. Raises PeerChangedNothing where it did not quantise, whatever it may have said."""
    done_OI = peer.weigh(weight_OI.clone(), moment_II.clone()).to(weight_OI)
    levels = max(len(row_I.unique()) for row_I in done_OI[:4, :GROUP_SIZE])
    if done_OI.shape != weight_OI.shape or levels > 16:
        raise PeerChangedNothing(
            f"{peer.package} gave the weight back unquantised", received=f"{levels} values in one group"
        )
    return done_OI


def _peer(package: str, weigh: Weigh, bits: float) -> Peer:
    return Peer(package=package, weigh=weigh, bits_per_weight=bits)


def _hqq(bits: int) -> Weigh:
    def weigh(weight_OI: Tensor, moment_II: Tensor) -> Tensor:
        from hqq.core.quantize import Quantizer  # pyright: ignore[reportMissingImports]

        packed, meta = Quantizer.quantize(
            weight_OI,
            nbits=bits,
            group_size=GROUP_SIZE,
            optimize=True,
            axis=1,
            device=str(weight_OI.device),
            compute_dtype=torch.float32,
        )
        return Quantizer.dequantize(packed, meta)

    return weigh


def _torchao(bits: int) -> Weigh:
    def weigh(weight_OI: Tensor, moment_II: Tensor) -> Tensor:
        from torchao.quantization import (  # pyright: ignore[reportMissingImports]
            IntxWeightOnlyConfig,
            MappingType,
            PerGroup,
            quantize_,
        )

        linear = nn.Linear(weight_OI.shape[1], weight_OI.shape[0], bias=False, device=weight_OI.device)
        linear.weight = nn.Parameter(weight_OI, requires_grad=False)
        config = IntxWeightOnlyConfig(
            weight_dtype=getattr(torch, f"int{bits}"),
            granularity=PerGroup(GROUP_SIZE),
            mapping_type=MappingType.ASYMMETRIC,
        )
        quantize_(linear, config)
        weight: Any = linear.weight
        return weight.dequantize()

    return weigh


def _bitsandbytes(kind: str) -> Weigh:
    def weigh(weight_OI: Tensor, moment_II: Tensor) -> Tensor:
        from bitsandbytes import functional  # pyright: ignore[reportMissingImports]

        packed, state = functional.quantize_4bit(weight_OI, blocksize=GROUP_SIZE, quant_type=kind)
        return functional.dequantize_4bit(packed, state)

    return weigh


def _llmcompressor(bits: int) -> Weigh:
    """GPTQ with act-order and static groups on asymmetric min-max grids, as this project's plain GPTQ."""

    def weigh(weight_OI: Tensor, moment_II: Tensor) -> Tensor:
        from compressed_tensors.quantization import (  # pyright: ignore[reportMissingImports]
            ActivationOrdering,
            QuantizationArgs,
            QuantizationStrategy,
        )
        from compressed_tensors.quantization.utils import (  # pyright: ignore[reportMissingImports]
            calculate_qparams,
        )
        from llmcompressor.modifiers.gptq.gptq_quantize import (  # pyright: ignore[reportMissingImports]
            quantize_weight,
        )

        arguments = QuantizationArgs(
            num_bits=bits,
            symmetric=False,
            strategy=QuantizationStrategy.GROUP,
            group_size=GROUP_SIZE,
            actorder=ActivationOrdering.WEIGHT,
        )
        grouped_OGg = weight_OI.view(len(weight_OI), -1, GROUP_SIZE)
        scale_OG, zero_OG = calculate_qparams(grouped_OGg.amin(dim=2), grouped_OGg.amax(dim=2), arguments)
        done = quantize_weight(
            weight_OI[None], moment_II[None], scale_OG[None], zero_OG[None], None, arguments
        )
        return done[0][0]  # the weights, then losses; of the one layer of this batch

    return weigh
