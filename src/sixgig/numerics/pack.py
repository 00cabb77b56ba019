"""Codes of 2, 3, 4 or 8 bits as a dense byte stream, row by row, and back.

8 / gcd(bits, 8) codes share a chunk of whole bytes, lowest code in the lowest bits: four 2-bit codes in one
byte, eight 3-bit codes in three, two 4-bit codes in one. A row is padded with zero codes to whole chunks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import InputError, IntegrityError


def pack_codes(codes_OI: Tensor, bits: int) -> Tensor:
    """uint8 codes [O, I] below 2**bits -> uint8 bytes [O, packed_row_bytes(I, bits)].

    Raises InputError for a larger code, whose upper bits would change its neighbours.
    """
    largest = int(codes_OI.max())
    if largest >= 2**bits:
        raise InputError(
            "a code does not fit its bits",
            expected=f"codes of 0 to {2**bits - 1} for {bits} bits",
            received=f"a code of {largest}",
        )
    codes_per_chunk, bytes_per_chunk = _chunk(bits)
    padded = torch.nn.functional.pad(codes_OI, (0, -codes_OI.shape[1] % codes_per_chunk))
    chunks = padded.view(len(codes_OI), -1, codes_per_chunk).to(torch.int32)
    word = torch.zeros_like(chunks[..., 0])
    for position in range(codes_per_chunk):
        word |= chunks[..., position] << (position * bits)
    parts = [(word >> (8 * index)) & 0xFF for index in range(bytes_per_chunk)]
    return torch.stack(parts, dim=-1).to(torch.uint8).flatten(1)


def unpack_codes(packed_OB: Tensor, bits: int, num_in: int) -> Tensor:
    """The inverse of `pack_codes`; [O, num_in]. Raises IntegrityError where the row length does not fit."""
    codes_per_chunk, bytes_per_chunk = _chunk(bits)
    if packed_OB.shape[1] != packed_row_bytes(num_in, bits):
        raise IntegrityError(
            "packed weight has the wrong length",
            expected=f"{packed_row_bytes(num_in, bits)} bytes a row for {num_in} codes of {bits} bits",
            received=f"{packed_OB.shape[1]} bytes",
        )
    parts = packed_OB.view(len(packed_OB), -1, bytes_per_chunk).to(torch.int32)
    word = torch.zeros_like(parts[..., 0])
    for index in range(bytes_per_chunk):
        word |= parts[..., index] << (8 * index)
    mask = 2**bits - 1
    codes = [(word >> (position * bits)) & mask for position in range(codes_per_chunk)]
    return torch.stack(codes, dim=-1).to(torch.uint8).flatten(1)[:, :num_in].contiguous()


def packed_row_bytes(num_in: int, bits: int) -> int:
    """Bytes that one packed row of `num_in` codes takes."""
    codes_per_chunk, bytes_per_chunk = _chunk(bits)
    return -(-num_in // codes_per_chunk) * bytes_per_chunk


def _chunk(bits: int) -> tuple[int, int]:
    shared = math.gcd(bits, 8)
    return 8 // shared, bits // shared
