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
        """AdamW on everything that has a gradient; the foreach kernel takes the roots of all squares at once."""
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

    def linear_back(
        self, name: str, gradient: Block, num_in: int, num_out: int, *, wide_input: bool
    ) -> Block:
        """Takes the output's gradient; gives the input's. `wide_input`: the input was the residual's type."""
        n, c = self.num_positions, self.compute_bytes
        of_weight = self.new(num_in * num_out, c, GRADIENTS)
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

    def norm_back(self, name: str, gradient: Block, residual: Block | None) -> Block:
        """Takes the norm's output gradient and the residual path's, gives their sum (both references)."""
        values = self.num_positions * self.spec.hidden_size
        r = self.residual_bytes
        of_weight, of_normed = self.new(values, r), self.new(values, r)
        reducing = self.new(values, 8 if values < 2**21 else 2)
        self.drop(reducing, of_weight, gradient)
        self.take(f"{name}.normed")
        if r != 4:
            of_normed, narrow = self.new(values, 4), of_normed
            self.drop(narrow)
        by_root = self.new(values, 4)
        of_root = self.new(values, 4)
        self.drop(of_root, of_normed)
        if r == 4 and residual is not None:
            self.drop(by_root)  # added to the residual's, in place
            by_root = None
        of_mean = self.new(values, 4)
        power, doubled = self.new(values, 4), self.new(values, 4)
        of_square = self.new(values, 4)
        self.drop(doubled, power, of_mean)
        if by_root is not None:
            self.drop(by_root)
        self.take(f"{name}.input")
        if r == 4 and residual is not None:
            self.drop(of_square)
            return residual
        if residual is None:
            return of_square
        narrow = self.new(values, r)
        self.drop(of_square, narrow)
        return residual

    def layer_back(self, index: int, gradient: Block) -> Block:
        """One decoder layer, from its output's gradient to its input's."""
        normed = self.mlp_back(index, self._narrow(gradient))
        gradient = self.norm_back(f"{index}.norm2", normed, gradient)
        normed = self.attention_back(index, self._narrow(gradient))
        return self.norm_back(f"{index}.norm1", normed, gradient)

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
            gradient = of_active
        of_gate = self.new(n * width, c)
        self.drop(gradient)
        self.take(f"{index}.gate")
        of_gate = self.linear_back(f"{index}.gate", of_gate, d, width, wide_input=True)
        if of_x is not None:
            self.drop(of_x)
        return of_gate

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
            more = self.linear_back(f"{index}.{name}", turned, d, width, wide_input=True)
            self.drop(more)
        return of_x

    def _scores_back(self, name: str, gradient: Block) -> tuple[Block, Block, Block]:
        n, c = self.num_positions, self.compute_bytes
        shared = self.spec.num_heads != self.spec.num_kv_heads
        if self.work.attention == "eager" or (c == 4 and shared):
            return self._composed_back(name, gradient)
        of_q, of_k, of_v = self.new(n * self.query, c), self.new(n * self.key, c), self.new(n * self.key, c)
        # fp32 sums for q, and where heads share keys and values, those of every head before they are added.
        scratch = self.new(n * self.query * (8 if shared else 4) + n * self.spec.num_heads * 4, 1)
        self.drop(scratch, gradient)
        for part in ("q", "k", "v", "out", "log_sum"):
            self.take(f"{name}.{part}")
        if self.autocast:
            of_q, narrow = self.new(n * self.query, 4), of_q
            self.drop(narrow)
            of_k, narrow = self.new(n * self.key, 4), of_k
            self.drop(narrow)
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
        for part in ("q", "k", "v", "keys", "values"):
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
