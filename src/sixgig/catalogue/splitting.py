"""Which models can be split, planted and stored as Base and Ortho; every other is refused by name.

The catalogue describes more families than the split has been tried on: what it says about the others is for
planning and fetching.
"""

from __future__ import annotations

from ..errors import InputError
from .spec import ModelSpec

SPLIT_ARCHITECTURES = ("LlamaForCausalLM",)
_TODO = "take a model of the Llama family: sixgig models"


def require_splittable(spec: ModelSpec) -> None:
    """Raises `InputError` saying why this model is not split."""
    reason = why_not_split(spec)
    if reason is not None:
        raise InputError(reason, received=f"{spec.name} ({spec.architecture})", todo=_TODO)


def why_not_split(spec: ModelSpec) -> str | None:
    """The reason, or None where splitting is supported."""
    if spec.num_experts:
        # Fused experts are no linear layers: the split would leave most of the weights as they are.
        return "mixtures of experts cannot be split yet"
    if spec.attention_bias or spec.output_bias or spec.mlp_bias:
        # Layers without bias are put in place; to go on would change the model without a word.
        return "models whose linear layers have biases cannot be split yet"
    if spec.architecture not in SPLIT_ARCHITECTURES:
        return "splitting has not been tried on this architecture"
    return None
