"""The operations that a decoder's passes are made of, as allocations: norms and products with weights.

Requests and releases are ordered as in transformers 5 on torch 2.11, references held as Python and autograd
do. Small tensors (a number a position and below) are left out where nothing large hangs on them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import gcd

from ...catalogue import ModelSpec
from ..workload import Workload
from .allocator import Allocator, Block

PACKED_TILE_WEIGHTS = 2**22  # layers.packed_linear.TILE_WEIGHTS
LOGIT_ROWS = {"cpu": 128, "cuda": 2048}  # held at a time: numerics.likelihood.default_chunk_rows


@dataclass
class Cache:
    """Keys and values of every layer, grown by concatenation as transformers' DynamicCache does."""

    length: int = 0
    blocks: dict[int, tuple[Block, Block]] = field(default_factory=dict)


@dataclass
class Saved:
    """What one layer keeps for its backward pass, each block with a reference of its own."""

    blocks: dict[str, Block] = field(default_factory=dict)


class Operations:
    """What every part of a layer is made of, for `batch` sequences of `length` tokens on `memory`."""

    def __init__(
        self,
        spec: ModelSpec,
        work: Workload,
        memory: Allocator,
        *,
        batch: int,
        length: int,
        cache: Cache | None = None,
        training: bool = False,
    ) -> None:
        self.spec, self.work, self.memory = spec, work, memory
        self.batch, self.length, self.cache = batch, length, cache
        self.num_positions = batch * length
        self.weight_bytes = 4 if work.bits == 32 else 2
        # Scoring and training in 32 bits run under bf16 autocast, generating does not.
        has_autocast = {"generate": False, "sft": work.training.autocast}
        self.autocast = work.bits == 32 and has_autocast.get(work.task, True)
        self.residual_bytes = self.weight_bytes
        self.compute_bytes = 2 if self.autocast else self.weight_bytes
        self.training, self.recording = training, training
        self.query = spec.num_heads * spec.head_dim
        self.key = spec.num_kv_heads * spec.head_dim
        self.is_gemma = spec.norms_per_layer == 4
        self.repeats_heads = 1 < spec.num_kv_heads < spec.num_heads
        self.saved = Saved()
        self.cast_weights: dict[str, Block] = {}
        self.named: list[Block] = []  # what a layer's code names without needing it, alive until it returns

    # Small words for what follows.

    def new(self, num_elements: float, num_bytes: int, kind: str = "activations") -> Block:
        return self.memory.hold(num_elements * num_bytes, kind)

    def drop(self, *blocks: Block) -> None:
        self.memory.drop(*blocks)

    def save(self, name: str, block: Block) -> None:
        """Keeps `block` for the backward pass, in training only."""
        if self.recording:
            self.saved.blocks[name] = self.memory.keep(block)

    # Forward, operation by operation. Each returns a block that the caller drops.

    def norm(self, name: str, h: Block, num_values: float, num_bytes: int | None = None) -> Block:
        """The norm of a block of `num_bytes` an element (default: the residual's)."""
        num_bytes = num_bytes or self.residual_bytes
        if self.spec.norm_kind == "layer":
            self.save(f"{name}.input", h)
            return self.new(num_values, num_bytes)
        return self._rms_norm(name, h, num_values, num_bytes)

    def _rms_norm(self, name: str, h: Block, num_values: float, num_bytes: int) -> Block:
        """Root mean square in fp32; Llama narrows before it multiplies by the weight, Gemma after."""
        wide = self.memory.keep(h) if num_bytes == 4 else self.new(num_values, 4)
        self.save(f"{name}.input", wide)
        square = self.new(num_values, 4)
        self.drop(square)
        normed = self.new(num_values, 4)
        self.drop(wide)
        if self.is_gemma:
            self.save(f"{name}.normed", normed)
            weighted = self.new(num_values, 4)
            self.drop(normed)
            if num_bytes == 4:
                return weighted
            out = self.new(num_values, num_bytes)
            self.drop(weighted)
            return out
        narrow = self.memory.keep(normed) if num_bytes == 4 else self.new(num_values, num_bytes)
        self.save(f"{name}.normed", narrow)
        out = self.new(num_values, num_bytes)
        self.drop(normed, narrow)
        return out

    def linear(
        self, name: str, x: Block, num_in: int, num_out: int, *, x_bytes: int, part: str = "linear"
    ) -> Block:
        """A product with a weight [num_out, num_in]: dense, under autocast, or packed."""
        bits = self.work.bits if part == "linear" else self.work.head_bits
        if bits < 16:
            return self._packed_linear(num_in, num_out, bits)
        if self.autocast and x_bytes == 4:
            x = self.new(self.num_positions * num_in, 2)
        else:
            x = self.memory.keep(x)
        self.save(f"{name}.input", x)
        weight = self._cast_weight(name, num_in * num_out) if self.autocast else None
        y = self.new(self.num_positions * num_out, self.compute_bytes)
        self.drop(x)
        if weight is not None:
            self.drop(weight)
        return y

    def _cast_weight(self, name: str, num_weights: int) -> Block:
        """Autocast's copy: kept until the context ends where the weight is trained, else for the call."""
        if not self.training:
            return self.new(num_weights, 2, "autocast's copies of weights")
        if name not in self.cast_weights:
            self.cast_weights[name] = self.new(num_weights, 2, "autocast's copies of weights")
        weight = self.memory.keep(self.cast_weights[name])
        self.save(f"{name}.weight", weight)
        return weight

    def end_autocast(self) -> None:
        """The context's own references to the copies go."""
        self.drop(*self.cast_weights.values())
        self.cast_weights.clear()

    def _packed_linear(self, num_in: int, num_out: int, bits: int) -> Block:
        y = self.new(self.num_positions * num_out, self.compute_bytes)
        num_rows = min(num_out, max(1, PACKED_TILE_WEIGHTS // num_in))
        tile = self._unpacked_tile(num_rows * num_in, bits)
        part = self.new(self.num_positions * num_rows, self.compute_bytes)
        self.drop(tile, part)
        return y

    def _unpacked_tile(self, num_weights: int, bits: int) -> Block:
        """`numerics.pack.unpack_codes` and `numerics.quantize.dequantize`, operation by operation."""
        kind = "unpacking weights"
        per_word = 8 // gcd(bits, 8)  # codes that share an int32 word
        num_words = num_weights / per_word
        parts = self.new(num_weights * bits / 8, 4, kind)
        word = self.new(num_words, 4, kind)
        self.drop(self.new(num_words, 4, kind))  # a part, shifted
        codes = []
        for _ in range(per_word):
            shifted = self.new(num_words, 4, kind)
            codes.append(self.new(num_words, 4, kind))
            self.drop(shifted)
        stacked = self.new(num_weights, 4, kind)
        unpacked = self.new(num_weights, 1, kind)
        self.drop(stacked, parts, word, *codes)
        scales = self.new(num_weights, 4, kind)
        zeros = self.new(num_weights, 1, kind)
        wide_codes, wide_zeros = self.new(num_weights, 2, kind), self.new(num_weights, 2, kind)
        centred = self.new(num_weights, 2, kind)
        self.drop(wide_codes, wide_zeros, zeros)
        wide = self.new(num_weights, 4, kind)
        self.drop(centred)
        product = self.new(num_weights, 4, kind)
        self.drop(wide)
        dense = self.new(num_weights, 2, kind)
        self.drop(product, scales, unpacked)
        return dense
