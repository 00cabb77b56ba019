"""A dense matrix in the place of a packed one: torch's own product, then the same epilogue as a kernel of
its own."""

# Triton's own types do not describe its launches.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .first_and_dense import finish_dense_kernel
from .product import TRITON_TYPES, NormFactor, Residual

_BLOCK_ROWS = 64


class DenseProduct:
    """The interface of `DecodeProduct` for a weight [O, I] in the activations' type."""

    def __init__(self, weight_OI: Tensor | None, epilogue: str = "plain") -> None:
        assert weight_OI is not None
        self._weight_OI, self._epilogue = weight_OI, epilogue
        self.num_row_blocks = -(-len(weight_OI) // _BLOCK_ROWS)

    @property
    def num_bytes(self) -> int:
        return self._weight_OI.nbytes

    def __call__(
        self,
        x_MI: Tensor,
        out: Tensor,
        *,
        norm: NormFactor | None = None,
        residual: Residual | None = None,
        with_ortho: bool = True,
        is_emptied: bool = False,
        lets_next_come: bool = False,
    ) -> None:
        num_out, num_in = self._weight_OI.shape
        y_MO = torch.mm(x_MI, self._weight_OI.T)
        unused = y_MO
        finish_dense_kernel[(self.num_row_blocks,)](
            y_MO,
            out,
            num_in,
            num_out,
            len(x_MI),
            unused if norm is None else norm.squares,
            0 if norm is None else norm.num_parts,
            0.0 if norm is None else norm.eps,
            unused if residual is None else residual.stream_MO,
            unused if residual is None else residual.gain_O,
            unused if residual is None else residual.squares,
            DTYPE=TRITON_TYPES[x_MI.dtype],
            SLOTS=8 if len(x_MI) <= 8 else 16,
            BLOCK_O=_BLOCK_ROWS,
            EPILOGUE=self._epilogue,
            NORM_PARTS=0 if norm is None else triton.next_power_of_2(norm.num_parts),
        )
