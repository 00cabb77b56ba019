"""The other half of a layer as allocations: a gated MLP, a plain one, or a mixture of experts."""

from __future__ import annotations

from .allocator import Block
from .operations import Operations


class Mlp(Operations):
    """The MLP half of a layer."""

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
