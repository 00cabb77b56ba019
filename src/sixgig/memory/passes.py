"""One pass of tokens through a decoder as allocations: what each operation of transformers' code holds.

The order of requests and releases is that of transformers 5's Llama code on torch 2.11, operation by
operation, references as Python and autograd hold them; other families differ in the places their spec names.
Small tensors (a number a position and below) are left out where nothing large hangs on them.

Letters: N positions, D hidden, I intermediate, H query heads, K key/value heads, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import gcd

from ..catalogue import ModelSpec
from .allocator import Allocator, Block
from .workload import Workload

PACKED_TILE_WEIGHTS = 2**22  # layers.packed_linear.TILE_WEIGHTS


@dataclass
class Cache:
    """Keys and values of every layer, grown by concatenation as transformers' DynamicCache does."""

    length: int = 0
    blocks: dict[int, tuple[Block, Block]] = field(default_factory=dict)


@dataclass
class Saved:
    """What one layer keeps for its backward pass, each block with a reference of its own."""

    blocks: dict[str, Block] = field(default_factory=dict)


class Pass:
    """Plays passes of `batch` sequences of `length` tokens on `memory`."""

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

    def mlp(self, index: int, x: Block) -> Block:
        """act(gate x) * up x, then down; or up, act, down; or a mixture of such."""
        if self.spec.num_experts:
            return self._experts(index, x)
        n, d, width = self.num_positions, self.spec.hidden_size, self.spec.intermediate_size
        r, c = self.residual_bytes, self.compute_bytes
        gate = self.linear(f"{index}.gate", x, d, width, x_bytes=r)
        self.save(f"{index}.gate", gate)
        if self.spec.mlp_kind == "gated":
            active = self.new(n * width, c)
            self.drop(gate)
            up = self.linear(f"{index}.up", x, d, width, x_bytes=r)
            product = self.new(n * width, c)
            self.save(f"{index}.active", active)
            self.save(f"{index}.up", up)
            self.drop(active, up)
        else:
            product = self._composed_gelu(index, n * width)
            self.drop(gate)
        y = self.linear(f"{index}.down", product, width, d, x_bytes=c)
        self.drop(product)
        return y

    def _composed_gelu(self, index: int, num_values: float) -> Block:
        """0.5 x (1 + tanh(...)) in separate operations: three at once, three kept for the way back."""
        c = self.compute_bytes
        half, tanh = self.new(num_values, c), self.new(num_values, c)
        shifted = self.new(num_values, c)
        for part, block in (("half", half), ("tanh", tanh), ("shifted", shifted)):
            self.save(f"{index}.gelu.{part}", block)
        self.drop(tanh)
        out = self.new(num_values, c)
        self.drop(half, shifted)
        return out

    def _experts(self, index: int, x: Block) -> Block:
        """Routed experts: inputs gathered by expert for many positions, weights for a single one."""
        spec, c = self.spec, self.compute_bytes
        chosen = self.num_positions * spec.num_experts_per_token
        wide, narrow = 2 * spec.expert_intermediate_size, spec.expert_intermediate_size
        d = spec.hidden_size
        shared = self._shared_expert(index, x)
        if self.length == 1:
            weights = [self.new(chosen * size * d, c) for size in (wide, narrow)]
            y = self.new(self.num_positions * d, c)
            self.drop(*weights, *shared)
            return y
        gathered = self.new(chosen * d, c)
        first = self.new(chosen * wide, c)
        first, before = self.new(chosen * wide, c), first
        self.drop(before)
        active = self.new(chosen * narrow, c)
        product = self.new(chosen * narrow, c)
        self.drop(active, first)
        blocks = [self.new(chosen * d, c)]
        self.drop(product)
        blocks += [self.new(chosen * d, c), self.new(chosen * d, c)]
        y = self.new(self.num_positions * d, c)
        self.drop(gathered, *blocks, *shared)
        return y

    def _shared_expert(self, index: int, x: Block) -> list[Block]:
        width, d, n = self.spec.shared_expert_intermediate_size, self.spec.hidden_size, self.num_positions
        if not width:
            return []
        c, r = self.compute_bytes, self.residual_bytes
        gate = self.linear(f"{index}.shared.gate", x, d, width, x_bytes=r)
        active = self.new(n * width, c)
        self.drop(gate)
        up = self.linear(f"{index}.shared.up", x, d, width, x_bytes=r)
        product = self.new(n * width, c)
        self.drop(active, up)
        y = self.linear(f"{index}.shared.down", product, width, d, x_bytes=c)
        self.drop(product)
        return [y]

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
        """Eager attention adds a mask in numbers, one a sequence; a fused kernel has one for a window only."""
        num_keys = self.length + (self.cache.length if self.cache else 0)
        if self.work.attention == "eager":
            num_kinds = 2 if 0 < self.spec.num_sliding_layers < self.spec.num_layers else 1
            return num_kinds * self.num_positions * num_keys * self.residual_bytes
        window = self.spec.sliding_window
        return 0 if window is None or num_keys <= window else self.length * num_keys
