"""Attention as allocations: projections, rotation, cache, and scores by each of torch's ways.

The fused kernels keep their inputs and output; eager attention and torch's composition in fp32 keep a number
for every pair of positions and head.
"""

from __future__ import annotations

from .allocator import Block
from .operations import Operations


class Attention(Operations):
    """The attention half of a layer."""

    def rotary(self, x: Block, num_values: float) -> Block:
        """x * cos + rotate_half(x) * sin; under autocast in fp32, since cos and sin are."""
        wide = max(self.compute_bytes, self.residual_bytes)
        share = num_values * self.spec.rotary_share
        by_cos = self.new(share, wide)
        negative = self.new(share / 2, self.compute_bytes)
        rotated = self.new(share, self.compute_bytes)
        self.drop(negative)
        by_sin = self.new(share, wide)
        self.drop(rotated)
        out = self.new(share, wide)
        self.drop(by_cos, by_sin)
        return out

    def attention(self, index: int, x: Block) -> Block:
        """q, k, v, rotary, cache, scores, output projection."""
        n, d = self.num_positions, self.spec.hidden_size
        q = self._projected(f"{index}.q", x, self.query)
        k = self._projected(f"{index}.k", x, self.key)
        v = self.linear(f"{index}.v", x, d, self.key, x_bytes=self.residual_bytes)
        q, old_q = self.rotary(q, n * self.query), q
        k, old_k = self.rotary(k, n * self.key), k
        if self.spec.rotary_share < 1:  # the rotated share and the rest of each head are put together
            parts = [old_q, old_k, q, k]  # named in the module's code, so that they live until its end
            q, k = self.new(n * self.query, self.compute_bytes), self.new(n * self.key, self.compute_bytes)
        else:
            parts = []
            self.drop(old_q, old_k)
        num_keys = self.length
        if self.cache is not None:
            num_keys = self.cache.length + self.length
            k, v = self._update_cache(index, k, v, num_keys)
        out = self._scores(index, q, k, v, num_keys)
        y = self.linear(f"{index}.o", out, self.query, d, x_bytes=self.compute_bytes)
        self.drop(q, k, v, out, *parts)
        return y

    def _projected(self, name: str, x: Block, width: int) -> Block:
        """q or k, normed where the model does that."""
        y = self.linear(name, x, self.spec.hidden_size, width, x_bytes=self.residual_bytes)
        if self.spec.qk_norm == "none":
            return y
        normed = self.norm(f"{name}.norm", y, self.num_positions * width, self.compute_bytes)
        self.drop(y)
        return normed

    def _update_cache(self, index: int, k: Block, v: Block, num_keys: int) -> tuple[Block, Block]:
        assert self.cache is not None
        size = self.batch * num_keys * self.key
        old = self.cache.blocks.get(index)
        fresh = []
        for position in range(2):
            fresh.append(self.new(size, self.compute_bytes, "key/value cache"))
            if old is not None:
                self.drop(old[position])
        self.cache.blocks[index] = (fresh[0], fresh[1])
        self.drop(k, v)
        return self.memory.keep(fresh[0]), self.memory.keep(fresh[1])

    def _scores(self, index: int, q: Block, k: Block, v: Block, num_keys: int) -> Block:
        name = f"{index}.scores"
        if self.work.attention == "eager":
            return self._eager(name, q, k, v, num_keys)
        if self._has_window(index, num_keys):
            return self._windowed(name, q, k, v, num_keys)
        if self.compute_bytes == 4 and self.spec.num_heads != self.spec.num_kv_heads:
            return self._math(name, num_keys)  # no fused kernel takes fp32 with shared key/value heads
        return self._fused(name, q, k, v)

    def _has_window(self, index: int, num_keys: int) -> bool:
        """Whether a layer's window is shorter than the keys: only then is there a mask.

        Which layers slide is not in the spec; as many as slide are taken from the front.
        """
        window = self.spec.sliding_window
        is_sliding = index < self.spec.num_sliding_layers
        return is_sliding and window is not None and self.length > 1 and num_keys > window

    def _fused(self, name: str, q: Block, k: Block, v: Block) -> Block:
        """Flash or memory-efficient attention: keeps its inputs, its output and a number a row."""
        n, c = self.num_positions, self.compute_bytes
        if self.autocast:
            q, k = self.new(n * self.query, 2), self.new(n * self.key, 2)
        else:
            q, k = self.memory.keep(q), self.memory.keep(k)
        out = self.new(n * self.query, c)
        log_sum = self.new(n * self.spec.num_heads, 4)
        for part, block in (("q", q), ("k", k), ("v", v), ("out", out), ("log_sum", log_sum)):
            self.save(f"{name}.{part}", block)
        self.drop(q, k, log_sum)
        if self.spec.rotary_share < 1 and c == 2:
            # A q that was put together lies head by head, flash attention's output like it: it is turned.
            out, by_head = self.new(n * self.query, c), out
            self.drop(by_head)
        return out

    def _windowed(self, name: str, q: Block, k: Block, v: Block, num_keys: int) -> Block:
        """As `_fused`, with the mask as numbers; keys and values are repeated for their heads.

        Those of a single head are not copied: to repeat one head is a matter of strides.
        """
        n, c = self.num_positions, self.compute_bytes
        num_values = self.batch * num_keys * (self.query if self.repeats_heads else self.key)
        if self.repeats_heads:
            k, v = self.new(num_values, max(c, self.residual_bytes)), self.new(num_values, c)
        else:
            k, v = self.memory.keep(k), self.memory.keep(v)
        if self.autocast:
            k, wide = self.new(num_values, 2), k
            self.drop(wide)
        q = self.new(n * self.query, 2) if self.autocast else self.memory.keep(q)
        bias = self.new(n * num_keys, c)
        out = self.new(n * self.query, c)
        for part, block in (("q", q), ("k", k), ("v", v), ("bias", bias), ("out", out)):
            self.save(f"{name}.{part}", block)
        self.drop(q, k, v, bias)
        return out

    def _eager(self, name: str, q: Block, k: Block, v: Block, num_keys: int) -> Block:
        """softmax(q k^T + mask) v in separate operations, the softmax in fp32."""
        c = self.compute_bytes
        pairs = self.num_positions * num_keys * self.spec.num_heads
        num_values = self.batch * num_keys * self.query
        if not self.repeats_heads and not self.training:
            keys, values = self.memory.keep(k), self.memory.keep(v)  # nothing to repeat, or by strides alone
        else:
            keys, values = self.new(num_values, max(c, self.residual_bytes)), self.new(num_values, c)
        if self.autocast:
            q, k = self.new(self.num_positions * self.query, 2), self.new(num_values, 2)
        else:
            q, k = self.memory.keep(q), self.memory.keep(keys)
        self.save(f"{name}.q", q)
        self.save(f"{name}.k", k)
        scores = self.new(pairs, c)
        self.drop(q, k)
        scaled = self.new(pairs, c)
        self.drop(scores)
        masked = self.new(pairs, max(c, self.residual_bytes))
        self.drop(scaled)
        wide = self.memory.keep(masked) if self.autocast or c == 4 else self.new(pairs, 4)
        weights = self.new(pairs, 4)
        self.drop(wide)
        self.save(f"{name}.softmax", weights)
        if self.autocast:  # q is in fp32, so that the weights stay in it until the product with the values
            self.drop(masked)
            narrow = self.new(pairs, c)
        else:
            narrow = self.memory.keep(weights) if c == 4 else self.new(pairs, c)
            self.drop(masked)
        self.named.append(self.memory.keep(weights if self.autocast else narrow))
        self.drop(weights)
        mixed = self.new(self.num_positions * self.query, c)
        out = self.new(self.num_positions * self.query, c)
        self.save(f"{name}.weights", narrow)
        self.save(f"{name}.values", values)
        self.drop(keys, values, narrow, mixed)
        return out

    def _math(self, name: str, num_keys: int) -> Block:
        """torch's own composition in fp32: scaled copies of q and k, scores, softmax."""
        n, pairs = self.num_positions, self.num_positions * num_keys * self.spec.num_heads
        num_values = self.batch * num_keys * self.query
        keys, values = self.new(num_values, 4), self.new(num_values, 4)
        q, k = self.new(n * self.query, 4), self.new(num_values, 4)
        scores = self.new(pairs, 4)
        weights = self.new(pairs, 4)
        self.drop(scores)
        out = self.new(n * self.query, 4)
        for part, block in (("q", q), ("k", k), ("v", values), ("softmax", weights)):
            self.save(f"{name}.{part}", block)
        self.drop(keys, values, q, k, weights)
        return out
