"""Fits the Base's group scales after rounding, so that the Base answers public text as W - M did before it.

loss = KL(W - M || Base) on public text. Codes and zero points stay; only the scales are trained, as in PEQA
(Kim et al. 2023, arXiv 2305.14152, section 3) and in EfficientQAT's second phase (Chen et al. 2024, arXiv
2407.11062, section 3.3). With `codes_too` the codes are trained as well, as in LLM-QAT (Liu et al. 2023,
arXiv 2305.17888), for models small enough to keep fp32 values and their moments. Deviations: the teacher's
distribution takes the place of the next token, since the teacher is at hand and one small text would else be
learnt by heart; a scale is trained through its logarithm, so that it stays positive and one rate suits all
sizes.

No private text comes near: the teacher is what the sieve has left, and the text is public.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..data.batches import TokenBatch
from ..load.loaded import LoadedModel
from ..memory.ladder import Fallbacks
from ..numerics.quantize import Quantized, dequantize
from ..numerics.sparse import SparsePart
from .distil import endless_order, lesson_pieces, prepare_lessons
from .network import bias_of, install, install_dense
from .split_layer import LayerSplit
from .trained_linear import RoundedLinear, ScaledLinear
from .training import Schedule, minimise


@dataclass(frozen=True, kw_only=True)
class ScaleFitConfig:
    """How long and how fast. A step's rate is about the share by which it may change a scale."""

    num_steps: int = 80
    learning_rate: float = 6e-3
    codes_too: bool = False  # the codes are trained as well; 12 bytes a weight more while that lasts
    with_entries: bool = (
        False  # Base + S is brought near W - M, and not the Base alone; U V has no part in it
    )


def fit_scales(
    loaded: LoadedModel,
    layers: Mapping[str, LayerSplit],
    unrounded: Iterable[tuple[str, Tensor]],
    public: Sequence[TokenBatch],
    config: ScaleFitConfig,
    *,
    seed: int,
    after_step: Callable[[int, int, float], None] = lambda step, num_steps, loss: None,
    announce: Callable[[str], None] = lambda message: None,
    fallbacks: Fallbacks | None = None,
) -> dict[str, LayerSplit]:
    """The same layers with fitted scales in their Bases, rounded to fp16. Zero points stay, and codes unless
    the configuration says otherwise. The Ortho part stays too, so that U V has to be fitted after this; with
    `with_entries` the entries of S are made whole on the fitted Base.

    Replaces the linear layers of `loaded`, first by W - M, then by the Base under training; the caller
    installs what it needs next.

    Args:
        unrounded: every layer's name and W - M [O, I].
        public: batches of public text; each is a step, taken in random order, all before any comes again.
    Raises:
        NumericalError naming the layer whose scales left fp16's range.
    """
    install_dense(loaded, unrounded, dtype=torch.bfloat16)
    lessons = prepare_lessons(loaded, public)
    modules = {
        name: _student(layer, config, loaded.device, bias_of(loaded.network, name))
        for name, layer in layers.items()
    }
    install(loaded.network, modules)
    generator = np.random.default_rng(np.random.SeedSequence([seed, 0x5CA1E]))
    order = endless_order(generator, len(lessons), config.num_steps)
    minimise(
        [parameter for module in modules.values() for parameter in module.trained()],
        lambda step, num_pieces: lesson_pieces(loaded, lessons[order[step]], num_pieces),
        Schedule(learning_rate=config.learning_rate, num_steps=config.num_steps),
        what="fitting the Base's scales",
        after_step=lambda step, loss: after_step(step, config.num_steps, loss),
        announce=announce,
        fallbacks=fallbacks,
    )
    return {name: _fitted(layer, modules[name], name) for name, layer in layers.items()}


def unrounded_weights(layers: Mapping[str, LayerSplit]) -> dict[str, Tensor]:
    """W - M [O, I] of layers that were split with `keep_unrounded`, by layer name."""
    kept = {name: layer.unrounded_OI for name, layer in layers.items()}
    assert all(weight_OI is not None for weight_OI in kept.values()), "split without keep_unrounded"
    return {name: weight_OI for name, weight_OI in kept.items() if weight_OI is not None}


def _student(
    layer: LayerSplit, config: ScaleFitConfig, device: torch.device, bias: Tensor | None
) -> ScaledLinear:
    whole = _whole_entries(layer) if config.with_entries else None
    if not config.codes_too:
        return ScaledLinear(layer.base, device, whole, bias)
    assert layer.unrounded_OI is not None, "split without keep_unrounded"
    return RoundedLinear(layer.base, layer.unrounded_OI, device, whole, bias)


def _fitted(layer: LayerSplit, module: ScaledLinear, name: str) -> LayerSplit:
    """The layer on its fitted Base; S, where the fit knew of it, makes its entries whole again."""
    base = module.stored(layer.base, name)
    if module.whole is None:
        return replace(layer, base=base)
    missing_k = module.whole.values_k - _entries(base, module.whole.positions_k)
    sparse = replace(module.whole, values_k=missing_k)
    return replace(layer, base=base, ortho=replace(layer.ortho, sparse=sparse))


def _whole_entries(layer: LayerSplit) -> SparsePart | None:
    """What Base + S hold at the entries of S: those of W."""
    sparse = layer.ortho.sparse
    if sparse is None:
        return None
    return replace(sparse, values_k=sparse.values_k + _entries(layer.base, sparse.positions_k))


def _entries(base: Quantized, positions_k: Tensor) -> Tensor:
    return dequantize(base).flatten()[positions_k.long()]
