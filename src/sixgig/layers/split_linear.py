"""A linear layer as quantised Base plus removable Ortho part, with a live switch between them.

    y = x (dequant(Base) + alpha * (S + U V))^T + bias

The Base stays packed; its dequantised form is kept in the activations' type while the layer is in use, since
this layer is about correctness and measurement. alpha = 0 takes a path that touches nothing of the Ortho
part, so it equals the Base alone bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..numerics.pack import pack_codes, unpack_codes
from ..numerics.quantize import Quantized, dequantize
from ..numerics.sparse import SparsePart


@dataclass
class AlphaSwitch:
    """One number that all split layers of a model read at every forward pass."""

    value: float = 0.0


@dataclass(frozen=True, kw_only=True)
class OrthoPart:
    """What one layer adds at alpha = 1: U V, and S where there is one. fp32 tensors."""

    up_Or: Tensor
    down_rI: Tensor
    sparse: SparsePart | None = None

    @property
    def shapes(self) -> set[tuple[int, ...]]:
        """The shapes [O, I] that the parts are made for; a sound part has one."""
        ranks = (self.up_Or.shape[1], self.down_rI.shape[0])
        product = (self.up_Or.shape[0], self.down_rI.shape[1])
        found = {product if ranks[0] == ranks[1] else (product[0], *ranks, product[1])}
        return found if self.sparse is None else found | {self.sparse.shape}

    def dense(self) -> Tensor:
        """U V + S in fp32 [O, I]."""
        product_OI = self.up_Or.float() @ self.down_rI.float()
        return product_OI if self.sparse is None else product_OI + self.sparse.dense()

    def storage_bits(self, factor_bits: int) -> int:
        """Bits that this part takes on disk: factors, at 8 bits with two fp32 scales a component, and S."""
        rank = self.up_Or.shape[1]
        scales = 2 * 32 * rank if factor_bits == 8 else 0
        factors = (self.up_Or.numel() + self.down_rI.numel()) * factor_bits + scales
        return factors + (0 if self.sparse is None else self.sparse.storage_bits)


class SplitLinear(nn.Module):
    """Drop-in for nn.Linear; holds the Base always and the Ortho part only when one is attached."""

    packed_OB: Tensor
    scales_OG: Tensor
    zeros_OG: Tensor
    bias: Tensor | None

    def __init__(self, base: Quantized, bias: Tensor | None, switch: AlphaSwitch) -> None:
        super().__init__()
        self.out_features, self.in_features = base.codes_OI.shape
        self.bits, self.group_size = base.bits, base.group_size
        self.register_buffer("packed_OB", pack_codes(base.codes_OI, base.bits))
        self.register_buffer("scales_OG", base.scales_OG)
        self.register_buffer("zeros_OG", base.zeros_OG)
        self.register_buffer("bias", bias)
        self.switch = switch
        self.ortho: OrthoPart | None = None
        self._dense_OI: Tensor | None = None
        self._factors: tuple[Tensor, Tensor] | None = None
        self._dense_is_for: tuple[float, torch.dtype] | None = None

    def base(self) -> Quantized:
        """The Base, unpacked."""
        return Quantized(
            codes_OI=unpack_codes(self.packed_OB, self.bits, self.in_features),
            scales_OG=self.scales_OG,
            zeros_OG=self.zeros_OG,
            bits=self.bits,
            group_size=self.group_size,
        )

    def attach(self, ortho: OrthoPart | None) -> None:
        """Puts an Ortho part in place, or takes it out (None). alpha decides how much of it counts."""
        expected = (self.out_features, self.in_features)
        if ortho is not None and ortho.shapes != {expected}:
            raise InputError(
                "Ortho part of another layer",
                expected=f"shape {expected}",
                received=f"shapes {sorted(ortho.shapes)}",
            )
        self.ortho = ortho
        self._forget()

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.switch.value
        dtype = _compute_dtype(x)
        dense_OI = self._dense(alpha if self._has_sparse() else 0.0, dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        y = F.linear(x, dense_OI, bias)
        if self.ortho is None or alpha == 0.0:
            return y
        up_Or, down_rI = self._lowrank(dtype)
        # One pass over y: y + alpha (x V^T) U^T.
        inner = F.linear(x, down_rI)
        sum_NO = torch.addmm(y.flatten(0, -2), inner.flatten(0, -2), up_Or.T, alpha=alpha)
        return sum_NO.view(y.shape)

    def effective_weight(self, alpha: float) -> Tensor:
        """dequant(Base) + alpha * (S + U V) in fp32 [O, I]: the specification of `forward`."""
        weight_OI = dequantize(self.base())
        if self.ortho is None or alpha == 0.0:
            return weight_OI
        return weight_OI + alpha * self.ortho.dense()

    def _has_sparse(self) -> bool:
        return self.ortho is not None and self.ortho.sparse is not None

    def _dense(self, alpha: float, dtype: torch.dtype) -> Tensor:
        if self._dense_OI is None or self._dense_is_for != (alpha, dtype):
            weight_OI = dequantize(self.base(), torch.float32)
            if alpha != 0.0 and self.ortho is not None and self.ortho.sparse is not None:
                sparse = self.ortho.sparse
                weight_OI.view(-1).index_add_(
                    0, sparse.positions_k.long(), alpha * sparse.values_k.to(weight_OI.dtype)
                )
            self._dense_OI, self._dense_is_for = weight_OI.to(dtype), (alpha, dtype)
        return self._dense_OI

    def _lowrank(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        assert self.ortho is not None
        if self._factors is None or self._factors[0].dtype != dtype:
            self._factors = (self.ortho.up_Or.to(dtype), self.ortho.down_rI.to(dtype))
        return self._factors

    def _forget(self) -> None:
        self._dense_OI, self._factors, self._dense_is_for = None, None, None

    def _apply(self, fn, recurse: bool = True):
        # Both parts follow to another device but keep their types: rounding the scales to bf16 would make
        # another Base. What is computed in the activations' type is made anew from them.
        self._forget()
        scales_OG = _moved(fn, self.scales_OG)
        if self.ortho is not None:
            sparse = self.ortho.sparse
            moved = sparse and SparsePart(
                positions_k=fn(sparse.positions_k), values_k=_moved(fn, sparse.values_k), shape=sparse.shape
            )
            self.ortho = OrthoPart(
                up_Or=_moved(fn, self.ortho.up_Or), down_rI=_moved(fn, self.ortho.down_rI), sparse=moved
            )
        super()._apply(fn, recurse)
        self.scales_OG = scales_OG
        return self

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self._forget()
        super()._load_from_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bits={self.bits}, group_size={self.group_size}"


def _moved(fn: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """`tensor` where `fn` puts it, in its own type: `fn` sees its bits as integers, which no cast touches."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return fn(tensor.view(integers)).view(tensor.dtype)


def _compute_dtype(x: Tensor) -> torch.dtype:
    # Under autocast the dense form is kept in autocast's type, so that it is not cast at every pass.
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def split_layers(model: nn.Module) -> Iterator[tuple[str, SplitLinear]]:
    """All split layers of `model`, by name, in the model's order."""
    for name, module in model.named_modules():
        if isinstance(module, SplitLinear):
            yield name, module


def set_alpha(model: nn.Module, alpha: float) -> None:
    """Turns the switch of every split layer of `model`, packed ones too; takes effect at the next forward
    pass.

    Raises InputError when `model` has no split layer, or has no Ortho part and alpha is not 0.
    """
    layers: list[Any] = [m for m in model.modules() if isinstance(getattr(m, "switch", None), AlphaSwitch)]
    if not layers:
        raise InputError("this model is not split, so it has no alpha", todo="split it first: sixgig split")
    if alpha != 0.0 and all(layer.ortho is None for layer in layers):
        raise InputError(
            "only the Base is here, so alpha cannot be raised",
            received=f"alpha={alpha}",
            todo="open the split with its ortho/ folder",
        )
    for layer in layers:
        layer.switch.value = alpha
