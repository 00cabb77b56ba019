"""One pass of tokens through a decoder as allocations: the embedding, its layers, what lives as long as it.

The order is that of transformers 5's code, operation by operation (`operations`, `attention`, `mlp`);
families differ in the places that their spec names.
"""

from __future__ import annotations

from collections.abc import Sequence

from .allocator import Block
from .attention import Attention
from .mlp import Mlp
from .operations import Cache, Saved

__all__ = ["Cache", "Pass", "Saved"]


class Pass(Attention, Mlp):
    """Plays passes of `batch` sequences of `length` tokens on `memory`."""

    def layer(self, index: int, h: Block) -> Block:
        """One decoder layer; `h` stays the caller's."""
        num_values = self.num_positions * self.spec.hidden_size
        normed = self.norm(f"{index}.norm1", h, num_values)
        y = self.attention(index, normed)
        if self.spec.parallel_block:
            out = self._joined(index, normed, y, num_values)
            self._return()
            return out
        self.drop(normed)
        y = self._after(f"{index}.norm1b", y, num_values)
        middle = self.new(num_values, self.residual_bytes)
        self.drop(y)
        normed = self.norm(f"{index}.norm2", middle, num_values)
        y = self.mlp(index, normed)
        self.drop(normed)
        y = self._after(f"{index}.norm2b", y, num_values)
        out = self.new(num_values, self.residual_bytes)
        self.drop(y, middle)
        self._return()
        return out

    def _return(self) -> None:
        self.drop(*self.named)
        self.named.clear()

    def _after(self, name: str, y: Block, num_values: float) -> Block:
        """Gemma's second norm of each half, on what is about to be added."""
        if not self.is_gemma:
            return y
        normed = self.norm(name, y, num_values, self.compute_bytes)
        self.drop(y)
        return normed

    def _joined(self, index: int, normed: Block, attended: Block, num_values: float) -> Block:
        """A block whose attention and MLP read the same norm: attended + mlp(normed) + h."""
        y = self.mlp(index, normed)
        both, out = self.new(num_values, self.residual_bytes), self.new(num_values, self.residual_bytes)
        self.drop(both, normed, attended, y)
        return out

    def embed(self) -> Sequence[Block]:
        """Hidden states; then what lives as long as the pass: they themselves, cos and sin, a mask."""
        h = self.new(self.num_positions * self.spec.hidden_size, self.residual_bytes)
        self.memory.multiply("forward")  # the angles' are the first product
        # generate() gives every sequence positions of its own, other callers let all share one row.
        num_angles = self.spec.head_dim * self.spec.rotary_share
        num_angles *= self.length if self.cache is None else self.num_positions
        blocks = [h, self.memory.keep(h)]
        blocks += [self.new(num_angles, self.residual_bytes) for _ in range(4 if self.is_gemma else 2)]
        if num_bytes := self.mask_bytes:
            blocks.append(self.new(num_bytes, 1))
        return blocks

    @property
    def mask_bytes(self) -> int:
        """Eager attention adds a mask in numbers, one a sequence; a fused kernel needs one for a window."""
        num_keys = self.length + (self.cache.length if self.cache else 0)
        if self.work.attention == "eager":
            num_kinds = 2 if 0 < self.spec.num_sliding_layers < self.spec.num_layers else 1
            return num_kinds * self.num_positions * num_keys * self.residual_bytes
        window = self.spec.sliding_window
        return 0 if window is None or num_keys <= window else self.length * num_keys
