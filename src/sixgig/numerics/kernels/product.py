"""Launching the decoding kernel: one object a stacked matrix, with everything chosen before the first
token."""

# Triton's own types do not describe its launches.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...errors import InputError
from .decode_product import decode_product_kernel
from .exchange import EMPTY
from .layout import TiledBase, block_columns
from .ortho_layout import SLOT_ENTRIES, TILE_SLOTS, TiledOrtho
from .ortho_product import MOST_COMPONENTS

MAX_ROWS = 16
_SLICE_COLUMNS = 1024  # of V that one helper program reads in one task
TRITON_TYPES = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How the work is cut: rows and warps a program, programs that share a block of rows, loads under way."""

    block_rows: int = 64
    split: int = 1  # programs that share a block of rows
    num_warps: int = 4
    num_stages: int = 3
    max_inner_helpers: int = 128  # programs that multiply with V
    max_sparse_helpers: int = 168  # programs that multiply with S

    def __post_init__(self) -> None:
        for kind in ("max_inner_helpers", "max_sparse_helpers"):
            if getattr(self, kind) < 1:  # what nobody makes would be waited for without end
                raise InputError(
                    f"{kind} is too small", expected="1 or more", received=f"{getattr(self, kind)}"
                )

    @classmethod
    def for_shape(cls, num_out: int) -> Launch:
        """Two warps of 32 rows a program, and about 512 programs: the fastest of those tried on an H200
        (docs/journal.md)."""
        programs = 512 // -(-num_out // 64)
        return cls(split=max(1, min(8, 1 << max(programs.bit_length() - 1, 0))), num_warps=2)


@dataclass(frozen=True, kw_only=True)
class NormFactor:
    """Sums of squares [parts, 16] fp32 of the rows whose RMSNorm factor the input still lacks."""

    squares: Tensor
    num_parts: int
    eps: float


@dataclass(frozen=True, kw_only=True)
class Residual:
    """The residual stream [M, O] that y is added to, the next norm's gain [O], and room for sums of
    squares."""

    stream_MO: Tensor
    gain_O: Tensor
    squares: Tensor  # fp32 [row blocks, 16]


class Workspace:
    """Scratch memory, counters and places of the exchange that products of one device share: launches come
    one after another. All room is asked for before the first launch, since graphs keep addresses.

    The helpers' sums with V are read by every block of rows and emptied by none, so that each product has its
    own places for them and the host empties all at once.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._sizes = {"partial": 1, "counters": 1, "inner": 0, "kept": 1}
        self._tensors: dict[str, Tensor] = {}

    def reserve(self, *, partial: int, counters: int, kept: int, inner: int) -> slice:
        """Room for one product, in elements; where its sums with V lie in `inner`."""
        assert not self._tensors
        for name, count in (("partial", partial), ("counters", counters), ("kept", kept)):
            self._sizes[name] = max(self._sizes[name], count)
        first = self._sizes["inner"]
        self._sizes["inner"] += inner
        return slice(first, first + inner)

    def empty_inner(self) -> None:
        self.inner.fill_(EMPTY)

    @property
    def is_at_rest(self) -> bool:
        """What launches are to leave behind them: nothing. (The sums with V are the host's to empty.)"""
        return not self.counters.any() and bool((self.kept == EMPTY).all())

    def reset(self) -> None:
        """Should a launch have been broken off."""
        self.counters.zero_()
        self.kept.fill_(EMPTY)

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("_") or name not in self._sizes:
            raise AttributeError(name)
        if name not in self._tensors:
            make: dict[str, Any] = {"dtype": torch.int32, "device": self.device}
            if name == "partial":
                self._tensors[name] = torch.empty(self._sizes[name], device=self.device)
            else:
                first = 0 if name == "counters" else EMPTY
                self._tensors[name] = torch.full((self._sizes[name],), first, **make)
        return self._tensors[name]


class DecodeProduct:
    """y = x (Base + alpha (S + U V))^T for 1 to 16 rows; see `decode_product`."""

    def __init__(
        self,
        base: TiledBase,
        ortho: TiledOrtho | None,
        alpha: Tensor | None,
        workspace: Workspace,
        launch: Launch,
        *,
        epilogue: str = "plain",
    ) -> None:
        """`alpha`: fp32 [1] on the device."""
        if ortho is not None and ortho.block_rows != launch.block_rows:
            raise InputError(
                "an Ortho part tiled for other blocks of rows",
                expected=f"{launch.block_rows} rows",
                received=f"{ortho.block_rows} rows",
            )
        assert (ortho is None) == (alpha is None)
        self.base, self.ortho, self.alpha = base, ortho, alpha
        self._workspace, self._launch, self._epilogue = workspace, launch, epilogue
        self.num_row_blocks = -(-base.num_out // launch.block_rows)
        self._num_blocks = base.num_blocks
        self._split = min(launch.split, self._num_blocks)
        self._slice = _SLICE_COLUMNS if base.num_in <= 8 * _SLICE_COLUMNS else 2 * _SLICE_COLUMNS
        self._num_slices = -(-base.num_in // self._slice)
        self._num_inner_helpers, self._num_helpers = 0, 0
        self._usual_slots, self._slices = 1, 1
        if ortho is not None:
            tasks, tiles = ortho.num_components * self._num_slices, ortho.num_slots // TILE_SLOTS
            self._usual_slots, self._slices = self._looked_at(ortho)
            self._num_inner_helpers = min(tasks, launch.max_inner_helpers)
            self._num_helpers = self._num_inner_helpers + min(tiles, launch.max_sparse_helpers)
        partial = self.num_row_blocks * self._split * MAX_ROWS * launch.block_rows
        inner = 0 if ortho is None else self._num_slices * MAX_ROWS * ortho.num_components
        kept = 0 if ortho is None else ortho.num_slots * MAX_ROWS
        self._inner = workspace.reserve(
            partial=partial if self._split > 1 else 1,
            counters=self.num_row_blocks,
            kept=max(kept, 1),
            inner=inner,
        )

    def _looked_at(self, ortho: TiledOrtho) -> tuple[int, int]:
        """How many slots of a row and slices of V one look takes: enough to give each thread a number of its
        own (see `exchange.look`)."""
        num_threads = 32 * self._launch.num_warps
        components = max(1, min(ortho.width, MOST_COMPONENTS))
        return (
            max(ortho.usual_slots, num_threads // self._launch.block_rows),
            max(triton.next_power_of_2(self._num_slices), num_threads // components),
        )

    @property
    def num_bytes(self) -> int:
        """What one launch must read of Base and, at alpha other than 0, Ortho part."""
        return self.base.num_bytes + (0 if self.ortho is None else self.ortho.num_bytes)

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
        """Writes `out`: y [M, O]; for "residual" the stream times gain [M, O]; for "swiglu" [M, O / 2].

        `x_MI` and, but for a plain epilogue, `out` are contiguous and of the Base's activation type. Without
        Ortho part the launch is that of a Base alone, the same to the bit. `is_emptied`: the workspace's
        inner sums were emptied since this product's last launch; else its own are now. `lets_next_come`: a
        dependent launch may come up at once (compute capability 9.0).
        """
        base, launch, scratch = self.base, self._launch, self._workspace
        ortho = self.ortho if with_ortho else None
        num_helpers = 0 if ortho is None else self._num_helpers
        num_rows = len(x_MI)
        assert num_rows <= MAX_ROWS
        assert (x_MI.shape[1], x_MI.dtype) == (base.num_in, base.dtype)
        assert x_MI.is_contiguous()
        assert out.is_contiguous()
        unused = scratch.partial
        inner = scratch.inner[self._inner] if ortho is not None else unused
        if ortho is not None and not is_emptied:
            inner.fill_(EMPTY)
        decode_product_kernel[(num_helpers + self.num_row_blocks * self._split,)](
            x_MI,
            base.words_NPOW,
            base.grids_GO,
            out,
            base.num_in,
            base.num_out,
            num_rows,
            self._num_blocks,
            scratch.partial,
            scratch.counters,
            unused if norm is None else norm.squares,
            0 if norm is None else norm.num_parts,
            0.0 if norm is None else norm.eps,
            unused if residual is None else residual.stream_MO,
            unused if residual is None else residual.gain_O,
            unused if residual is None else residual.squares,
            unused if self.alpha is None else self.alpha,
            num_helpers,
            self._num_inner_helpers,
            0 if ortho is None else ortho.num_components,
            unused if ortho is None else ortho.down_RI,
            unused if ortho is None else ortho.up_Ow,
            unused if ortho is None else ortho.segments_B,
            inner,
            0 if ortho is None else ortho.num_slots,
            unused if ortho is None else ortho.starts_O,
            unused if ortho is None else ortho.columns_Te,
            unused if ortho is None else ortho.values_Te,
            scratch.kept,
            BITS=base.bits,
            GROUP=base.group_size,
            DTYPE=TRITON_TYPES[base.dtype],
            SLOTS=8 if num_rows <= 8 else 16,
            ROWS=1 if num_rows == 1 else MAX_ROWS,
            BLOCK_O=launch.block_rows,
            SPLIT=self._split,
            STAGES=launch.num_stages,
            num_warps=launch.num_warps,
            EVEN_I=base.num_in % block_columns(base.bits) == 0,
            EVEN_O=base.num_out % launch.block_rows == 0,
            EPILOGUE=self._epilogue,
            NORM_PARTS=0 if norm is None else triton.next_power_of_2(norm.num_parts),
            HAS_ORTHO=ortho is not None,
            RANK=0 if ortho is None else ortho.width,
            SLICE=self._slice,
            NUM_SLICES=self._num_slices,
            CHUNK=self._slice if num_rows == 1 else 128,
            HAS_SPARSE=ortho is not None and ortho.num_slots > 0,
            TILE=TILE_SLOTS,
            ENTRIES=SLOT_ENTRIES,
            USUAL_SLOTS=self._usual_slots,
            SLICES=self._slices,
            LETS_NEXT_COME=lets_next_come,
        )
