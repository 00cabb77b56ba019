"""Which models can be split, planted and stored as Base and Ortho; every other is refused by name.

An architecture is in the list when tests/unit/test_families.py takes a small model of its true structure
through every step: the walk over its layers, the split, both fits, planting, relearning, every look (whose
likelihoods must be those of transformers' own logits), and the stored Base that transformers opens alone.
"""

from __future__ import annotations

from ..errors import InputError
from .spec import ModelSpec

SPLIT_ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "PhiForCausalLM",
    "Gemma3ForCausalLM",
)
_TODO = "take a dense model: sixgig models"


def require_splittable(spec: ModelSpec) -> None:
    """Raises `InputError` saying why this model is not split."""
    reason = why_not_split(spec)
    if reason is not None:
        raise InputError(reason, received=f"{spec.name} ({spec.architecture})", todo=_TODO)


def why_not_split(spec: ModelSpec) -> str | None:
    """The reason, or None where splitting is supported."""
    if spec.num_experts:
        return (
            "mixtures of experts cannot be split yet: their experts are fused into one tensor a layer, no "
            "linear layers, and would stay whole in the Base"
        )
    if spec.architecture not in SPLIT_ARCHITECTURES:
        return "splitting has not been tried on this architecture"
    return None
