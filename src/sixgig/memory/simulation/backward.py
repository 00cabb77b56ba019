"""The way back: gradients as allocations, and the optimizer's step.

Order and temporaries follow autograd of torch 2.11 on the operations of `passes`, read off the allocator's
own history on a GPU. A gradient that several users of a tensor send is summed in place, except where noted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .allocator import Allocator, Block
from .passes import Pass

GRADIENTS, MOMENTS = "gradients", "optimizer"
LOGITS = "logits and their gradient"
LOSS_ROWS = 256  # of a chunked loss


@dataclass
class Trained:
    """What outlives a pass: each parameter's gradient and AdamW's two moments, by the parameter's name."""

    memory: Allocator
    weight_bytes: int
    within_backward: bool = False
    gradients: dict[str, Block] = field(default_factory=dict)
    moments: dict[str, tuple[Block, ...]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def accumulate(self, name: str, gradient: Block, num_weights: int) -> None:
        """The gradient becomes the parameter's own, or is added to it and goes."""
        self.sizes[name] = num_weights
        if name in self.gradients:
            self.memory.drop(gradient)
            return
        self.gradients[name] = gradient
        if self.within_backward:
            self._make_moments(name)
            self.memory.drop(self.gradients.pop(name))

    def step(self, kind: str) -> None:
        """AdamW on all that has a gradient; the foreach kernel takes the roots of all squares at once."""
        for name in self.gradients:
            self._make_moments(name)
        if kind == "foreach":
            roots = [
                self.memory.hold(self.sizes[name] * self.weight_bytes, MOMENTS) for name in self.gradients
            ]
            self.memory.drop(*roots)
        self.memory.drop(*self.gradients.values())
        self.gradients.clear()

    def _make_moments(self, name: str) -> None:
        if name not in self.moments:
            size = self.sizes[name] * self.weight_bytes
            hold = self.memory.hold
            self.moments[name] = (hold(4, MOMENTS), hold(size, MOMENTS), hold(size, MOMENTS))


class TrainingPass(Pass):
    """A pass that can be walked back. `trained` takes the gradients."""

    trained: Trained

    def take(self, name: str) -> None:
        """Drops what was saved under `name`, where there was anything."""
        if (block := self.saved.blocks.pop(name, None)) is not None:
            self.drop(block)

    def forget(self) -> None:
        """Gives up the way back: all that was saved for it goes."""
        self.end_autocast()
        self.drop(*self.saved.blocks.values())
        self.saved.blocks.clear()

    def linear_back(
        self, name: str, gradient: Block, num_in: int, num_out: int, *, wide_input: bool
    ) -> Block:
        """Takes the output's gradient; gives the input's. `wide_input`: the input was the residual's type."""
        n, c = self.num_positions, self.compute_bytes
        of_weight = self.new(num_in * num_out, c, GRADIENTS)
        self.memory.multiply("backward")  # autograd's thread
        of_input = self.new(n * num_in, c)
        self.drop(gradient)
        self.take(f"{name}.weight")
        self.take(f"{name}.input")
        if self.autocast and wide_input:
            of_input, narrow = self.new(n * num_in, 4), of_input
            self.drop(narrow)
        self._give(name, of_weight, num_in * num_out)
        return of_input

    def _give(self, name: str, gradient: Block, num_weights: int) -> None:
        if self.autocast:
            gradient, narrow = self.new(num_weights, 4, GRADIENTS), gradient
            self.drop(narrow)
        self.trained.accumulate(name, gradient, num_weights)

    def _narrow(self, gradient: Block) -> Block:
        """The residual's gradient in the computing type, for a branch that ended in it."""
        if not self.autocast:
            return self.memory.keep(gradient)
        return self.new(self.num_positions * self.spec.hidden_size, 2)

    def norm_back(
        self, name: str, gradient: Block, residual: Block | None, *, num_values: float, num_bytes: int
    ) -> Block:
        """Takes the output's gradient; gives the input's, added to the residual path's if there is one."""
        if self.spec.norm_kind == "layer":
            of_input = self.new(num_values, num_bytes)
            self.drop(gradient)
            self.take(f"{name}.input")
        else:
            of_input = self._rms_norm_back(name, gradient, num_values, num_bytes)
        if residual is None:
            return of_input
        self.drop(of_input)  # added to the residual's in place
        return residual

    def _rms_norm_back(self, name: str, gradient: Block, num_values: float, num_bytes: int) -> Block:
        """The product with the weight, the root of the mean, the square; all but the first in fp32."""
        if self.is_gemma and num_bytes != 4:
            gradient, narrow = self.new(num_values, 4), gradient
            self.drop(narrow)
        width = 4 if self.is_gemma else num_bytes
        of_weight, of_normed = self.new(num_values, width), self.new(num_values, width)
        # Sums over positions take a scratch of two fp32 copies while the matrix is small.
        scratch = self.new(min(num_values * 2, 2**21), 4)
        self.drop(scratch, of_weight, gradient)
        self.take(f"{name}.normed")
        return self._root_back(name, of_normed, num_values, num_bytes, width)

    def _root_back(
        self, name: str, of_normed: Block, num_values: float, num_bytes: int, width: int = 4
    ) -> Block:
        """From the gradient of the input over its root mean square, in `width` bytes, to the input's."""
        if width != 4:
            of_normed, narrow = self.new(num_values, 4), of_normed
            self.drop(narrow)
        by_root = self.new(num_values, 4)
        of_root = self.new(num_values, 4)
        self.drop(of_root, of_normed)
        of_mean = self.new(num_values, 4)
        power, doubled = self.new(num_values, 4), self.new(num_values, 4)
        of_square = self.new(num_values, 4)
        self.drop(doubled, power, of_mean, of_square)
        self.take(f"{name}.input")
        if num_bytes == 4:
            return by_root
        narrow = self.new(num_values, num_bytes)
        self.drop(by_root)
        return narrow

    def layer_back(self, index: int, gradient: Block) -> Block:
        """One decoder layer, from its output's gradient to its input's."""
        values, r = self.num_positions * self.spec.hidden_size, self.residual_bytes
        if self.spec.parallel_block:
            normed = self.mlp_back(index, self.memory.keep(gradient))
            self.drop(self.attention_back(index, self.memory.keep(gradient)))
            return self.norm_back(f"{index}.norm1", normed, gradient, num_values=values, num_bytes=r)
        branch = self._branch_back(f"{index}.norm2b", self._narrow(gradient), values)
        normed = self.mlp_back(index, branch)
        gradient = self.norm_back(f"{index}.norm2", normed, gradient, num_values=values, num_bytes=r)
        branch = self._branch_back(f"{index}.norm1b", self._narrow(gradient), values)
        normed = self.attention_back(index, branch)
        return self.norm_back(f"{index}.norm1", normed, gradient, num_values=values, num_bytes=r)

    def _branch_back(self, name: str, gradient: Block, num_values: float) -> Block:
        """Gemma's norm at the end of a half."""
        if not self.is_gemma:
            return gradient
        return self.norm_back(name, gradient, None, num_values=num_values, num_bytes=self.compute_bytes)

    def mlp_back(self, index: int, gradient: Block) -> Block:
        n, d, width = self.num_positions, self.spec.hidden_size, self.spec.intermediate_size
        c = self.compute_bytes
        gradient = self.linear_back(f"{index}.down", gradient, width, d, wide_input=False)
        of_x = None
        if self.spec.mlp_kind == "gated":
            of_active, of_up = self.new(n * width, c), self.new(n * width, c)
            self.drop(gradient)
            self.take(f"{index}.active")
            self.take(f"{index}.up")
            of_x = self.linear_back(f"{index}.up", of_up, d, width, wide_input=True)
            of_gate = self.new(n * width, c)
            self.drop(of_active)
        else:
            of_gate = self._composed_gelu_back(index, gradient, n * width)
        self.take(f"{index}.gate")
        of_gate = self.linear_back(f"{index}.gate", of_gate, d, width, wide_input=True)
        if of_x is not None:
            self.drop(of_x)
        return of_gate

    def _composed_gelu_back(self, index: int, gradient: Block, num_values: float) -> Block:
        c = self.compute_bytes
        of_half, of_shifted = self.new(num_values, c), self.new(num_values, c)
        self.drop(gradient)
        self.take(f"{index}.gelu.half")
        self.take(f"{index}.gelu.shifted")
        of_tanh = self.new(num_values, c)
        self.drop(of_shifted)
        self.take(f"{index}.gelu.tanh")
        scaled = self.new(num_values, c)
        self.drop(of_tanh)
        powers = [self.new(num_values, c) for _ in range(3)]  # of the cube's gradient
        self.drop(scaled, *powers)
        return of_half

    def attention_back(self, index: int, gradient: Block) -> Block:
        n, d, q, k = self.num_positions, self.spec.hidden_size, self.query, self.key
        gradient = self.linear_back(f"{index}.o", gradient, q, d, wide_input=False)
        of_q, of_k, of_v = self._scores_back(f"{index}.scores", gradient)
        of_k = self._rotary_back(of_k, n * k)
        of_q = self._rotary_back(of_q, n * q)
        of_x = self.linear_back(f"{index}.v", of_v, d, k, wide_input=True)
        for name, part, width in (("k", of_k, k), ("q", of_q, q)):
            turned = self.new(n * width, self.compute_bytes)
            self.drop(part)
            if self.spec.qk_norm != "none":
                turned = self.norm_back(
                    f"{index}.{name}.norm", turned, None, num_values=n * width, num_bytes=self.compute_bytes
                )
            more = self.linear_back(f"{index}.{name}", turned, d, width, wide_input=True)
            self.drop(more)
        return of_x

    def _scores_back(self, name: str, gradient: Block) -> tuple[Block, Block, Block]:
        n, c = self.num_positions, self.compute_bytes
        shared = self.spec.num_heads != self.spec.num_kv_heads
        has_window = f"{name}.bias" in self.saved.blocks
        if self.work.attention == "eager" or (c == 4 and shared and not has_window):
            return self._composed_back(name, gradient)
        width = self.query if has_window and self.repeats_heads else self.key
        of_q, of_k, of_v = self.new(n * self.query, c), self.new(n * width, c), self.new(n * width, c)
        # fp32 sums for q, and where heads share keys and values, those of every head before they are added.
        scratch = self.new(n * self.query * (8 if shared else 4) + n * self.spec.num_heads * 4, 1)
        self.drop(scratch, gradient)
        for part in ("q", "k", "v", "out", "log_sum", "bias"):
            self.take(f"{name}.{part}")
        if self.autocast:
            of_q, narrow = self.new(n * self.query, 4), of_q
            self.drop(narrow)
            of_k, narrow = self.new(n * width, 4), of_k
            self.drop(narrow)
        if width != self.key:  # the sums over the heads that one key and value head was repeated for
            of_v, each = self.new(n * self.key, c), of_v
            self.drop(each)
            of_k, each = self.new(n * self.key, max(c, self.residual_bytes)), of_k
            self.drop(each)
        return of_q, of_k, of_v

    def _composed_back(self, name: str, gradient: Block) -> tuple[Block, Block, Block]:
        """Scores in separate operations: gradients of weights, of the softmax, of scores, then of q, k, v."""
        n, c = self.num_positions, self.compute_bytes
        pairs = n * self.length * self.spec.num_heads
        turned = self.new(n * self.query, c)
        of_values = self.new(n * self.query, c)
        of_weights = self.new(pairs, c)
        self.drop(gradient, turned)
        self.take(f"{name}.weights")
        if c != 4:
            of_weights, narrow = self.new(pairs, 4), of_weights
            self.drop(narrow)
        product = self.new(pairs, 4)
        of_scores = self.new(pairs, 4)
        self.drop(product, of_weights)
        self.take(f"{name}.softmax")
        if c != 4:
            of_scores, wide = self.new(pairs, c), of_scores
            self.drop(wide)
        if self.work.attention == "eager":
            of_scores, unscaled = self.new(pairs, c), of_scores
            self.drop(unscaled)
        of_q, of_keys = self.new(n * self.query, c), self.new(n * self.query, c)
        self.drop(of_scores)
        for part in ("q", "k", "v", "values"):
            self.take(f"{name}.{part}")
        wide = max(c, self.residual_bytes)
        of_q, narrow = self.new(n * self.query, wide), of_q
        self.drop(narrow)
        of_k, of_v = self.new(n * self.key, wide), self.new(n * self.key, c)
        self.drop(of_keys, of_values)
        return of_q, of_k, of_v

    def _rotary_back(self, gradient: Block, num_values: float) -> Block:
        wide, c = max(self.compute_bytes, self.residual_bytes), self.compute_bytes
        by_sin = self.new(num_values, wide)
        if wide != c:
            by_sin, widened = self.new(num_values, c), by_sin
            self.drop(widened)
        half, rotated = self.new(num_values / 2, c), self.new(num_values, c)
        self.drop(half)
        total = self.new(num_values, c)
        self.drop(rotated, by_sin)
        by_cos = self.new(num_values, wide)
        if wide != c:
            by_cos, widened = self.new(num_values, c), by_cos
            self.drop(widened)
        self.drop(gradient, by_cos)
        return total
