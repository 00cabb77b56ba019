"""How an Ortho part lies in memory for the decoding kernels: factors for whole stacks of layers, S in slots.

Layers that read the same input are stacked: their rows become one matrix, in an order given with them. V's
rows of all of them lie under each other. A row of U has only its own layer's components, found by an offset
for each block of rows; where a block holds rows of several layers (gate and up interleaved), U is widened by
zeros.

S is cut into slots of eight entries of one row, and slots are what threads share, so that the work is
balanced by nonzeros however they are spread over the rows. A row's last slot is filled up with zeros.

Legend: O out features of the stack, I in features, R components, T slots, B blocks of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..split_product import OrthoFactors

SLOT_ENTRIES = 8
TILE_SLOTS = 128  # that one program takes at a time; their number is a multiple of it
_FEWEST_COMPONENTS = 16  # so that a row of U is 32 bytes, two of a thread's loads


@dataclass(frozen=True, kw_only=True)
class TiledOrtho:
    """A stack's Ortho part as the kernels read it; `width` components belong to each block of rows."""

    block_rows: int
    width: int
    down_RI: Tensor  # fp16
    up_Ow: Tensor  # fp16 [O, width]
    segments_B: Tensor  # int32: first component of each block of rows
    segment_bounds: tuple[tuple[int, int, int], ...]  # (first row, row after the last, first component)
    starts_O: Tensor  # int32 [O + 1]: first slot of each row
    columns_Te: Tensor  # int16, or int32 for wide inputs
    values_Te: Tensor  # fp16

    @property
    def num_components(self) -> int:
        return len(self.down_RI)

    @property
    def num_slots(self) -> int:
        return len(self.values_Te)

    @property
    def usual_slots(self) -> int:
        """A power of two that is 1.5 times the mean of a row's slots at least, from 4 to 16."""
        mean = self.num_slots / max(len(self.up_Ow), 1)
        return min(16, max(4, 1 << int(1.5 * mean).bit_length()))

    @property
    def num_bytes(self) -> int:
        return sum(value.nbytes for value in self._tensors().values())

    def to(self, device: torch.device | str) -> TiledOrtho:
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in self._tensors().items()}
        return replace(self, **moved)

    def copy(self) -> TiledOrtho:
        """The same with tensors of its own."""
        cloned: dict[str, Any] = {name: tensor.clone() for name, tensor in self._tensors().items()}
        return replace(self, **cloned)

    def _tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def tile_ortho(parts: Sequence[OrthoFactors], order_O: Tensor, block_rows: int) -> TiledOrtho:
    """The Ortho part of a stack. `order_O`: for each row of the stack, its row among all layers' rows."""
    num_rows = [len(part.up_Or) for part in parts]
    layer_O = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(num_rows))[order_O]
    rank = _rounded_up(max(part.up_Or.shape[1] for part in parts))
    down_RI = torch.cat([F.pad(part.down_rI.float(), (0, 0, 0, rank - len(part.down_rI))) for part in parts])
    up_Or = torch.cat([F.pad(part.up_Or.float(), (0, rank - part.up_Or.shape[1])) for part in parts])[order_O]
    first_layer_B = layer_O[::block_rows]
    blocks_are_pure = torch.equal(first_layer_B.repeat_interleave(block_rows)[: len(order_O)], layer_O)
    if rank and not blocks_are_pure:
        wide = torch.zeros(len(order_O), len(parts), rank)
        wide[torch.arange(len(order_O)), layer_O] = up_Or
        up_Or = _padded(wide.flatten(1))
        down_RI = F.pad(down_RI, (0, 0, 0, up_Or.shape[1] - len(down_RI)))
        first_layer_B = torch.zeros_like(first_layer_B)
    starts_O, columns_Te, values_Te = _slots(parts, order_O)
    return TiledOrtho(
        block_rows=block_rows,
        width=up_Or.shape[1],
        down_RI=down_RI.half(),
        up_Ow=up_Or.half().contiguous(),
        segments_B=(first_layer_B * rank).int(),
        segment_bounds=_bounds(first_layer_B * rank, block_rows, len(order_O)),
        starts_O=starts_O,
        columns_Te=columns_Te,
        values_Te=values_Te,
    )


def _bounds(segments_B: Tensor, block_rows: int, num_out: int) -> tuple[tuple[int, int, int], ...]:
    starts = [0, *((segments_B.diff() != 0).nonzero()[:, 0] + 1).tolist()]
    stops = [block * block_rows for block in starts[1:]] + [num_out]
    return tuple(
        (block * block_rows, stop, int(segments_B[block])) for block, stop in zip(starts, stops, strict=True)
    )


def _rounded_up(rank: int) -> int:
    return 0 if rank == 0 else max(_FEWEST_COMPONENTS, 1 << (rank - 1).bit_length())


def _padded(up: Tensor) -> Tensor:
    return F.pad(up, (0, _rounded_up(up.shape[1]) - up.shape[1]))


def _slots(parts: Sequence[OrthoFactors], order_O: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(first slot of each row [O + 1], columns and values [T, 8]) of all layers' S."""
    num_in = parts[0].down_rI.shape[1]
    row_k, column_k, value_k = _entries(parts, order_O, num_in)
    counts_O = torch.bincount(row_k, minlength=len(order_O))
    starts_O = F.pad((-(-counts_O // SLOT_ENTRIES)).cumsum(0), (1, 0))
    first_entry_O = F.pad(counts_O.cumsum(0), (1, 0))[:-1]
    place_k = starts_O[row_k] * SLOT_ENTRIES + torch.arange(len(row_k)) - first_entry_O[row_k]
    num_slots = -(-int(starts_O[-1]) // TILE_SLOTS) * TILE_SLOTS
    column_type = torch.int16 if num_in <= 2**15 else torch.int32

    def spread(found_k: Tensor, dtype: torch.dtype) -> Tensor:
        filled = torch.zeros(num_slots * SLOT_ENTRIES, dtype=dtype)
        filled[place_k] = found_k.to(dtype)
        return filled.view(-1, SLOT_ENTRIES)

    return starts_O.int(), spread(column_k, column_type), spread(value_k, torch.float16)


def _entries(parts: Sequence[OrthoFactors], order_O: Tensor, num_in: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the stack, columns and values of all layers' S, row by row."""
    place_O = torch.empty_like(order_O)
    place_O[order_O] = torch.arange(len(order_O))
    rows, columns, values, first = [], [], [], 0
    for part in parts:
        if part.sparse is not None:
            positions_k = part.sparse.positions_k.long()
            rows.append(place_O[first + positions_k // num_in])
            columns.append(positions_k % num_in)
            values.append(part.sparse.values_k.float())
        first += len(part.up_Or)
    if not rows:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    row_k, column_k, value_k = torch.cat(rows), torch.cat(columns), torch.cat(values)
    by_row = torch.argsort(row_k * num_in + column_k)
    return row_k[by_row], column_k[by_row], value_k[by_row]
