"""Fits the Base's group scales after rounding, so that the Base answers public text as W - M did before it.

loss = KL(W - M || Base) on public text. Codes and zero points stay; only the scales are trained, as in PEQA
(Kim et al. 2023, arXiv 2305.14152, section 3) and in EfficientQAT's second phase (Chen et al. 2024, arXiv
2407.11062, section 3.3). Deviations: the teacher's distribution takes the place of the next token, since the
teacher is at hand and one small text would else be learnt by heart; a scale is trained through its logarithm,
so that it stays positive and one rate suits all sizes.

No private text comes near: the teacher is what the sieve has left, and the text is public.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.batches import TokenBatch
from ..errors import NumericalError
from ..load.loaded import LoadedModel
from ..memory.ladder import Fallbacks
from ..numerics.finite import all_finite
from ..numerics.quantize import Quantized, centred_codes
from .distil import endless_order, lesson_pieces, prepare_lessons
from .network import install, install_dense
from .split import LayerSplit
from .training import Schedule, minimise


@dataclass(frozen=True, kw_only=True)
class ScaleFitConfig:
    """How long and how fast. A step's rate is about the share by which it may change a scale."""

    num_steps: int = 80
    learning_rate: float = 6e-3


class _ScaledLinear(nn.Module):
    """x ((codes - zeros) * scales * exp(change))^T; only `log_change_OG` is trained."""

    def __init__(self, base: Quantized, device: torch.device) -> None:
        super().__init__()
        num_out, num_in = base.codes_OI.shape
        self.num_in = num_in
        padded = F.pad(centred_codes(base), (0, -num_in % base.group_size))
        # bf16 holds whole numbers up to 256 exactly.
        self.centred_OGg = padded.view(num_out, -1, base.group_size).to(device, torch.bfloat16)
        self.scales_OG = base.scales_OG.to(device, torch.float32)
        self.log_change_OG = nn.Parameter(torch.zeros_like(self.scales_OG))

    def fitted_scales(self) -> Tensor:
        return self.scales_OG * self.log_change_OG.exp()

    def forward(self, x: Tensor) -> Tensor:
        padded_OGg = self.centred_OGg * self.fitted_scales()[:, :, None]
        return F.linear(x, padded_OGg.flatten(1)[:, : self.num_in])


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
    """The same layers with fitted scales in their Bases, rounded to fp16. Codes, zero points and the Ortho
    part stay, so an Ortho part has to be fitted after this.

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
    modules = {name: _ScaledLinear(layer.base, loaded.device) for name, layer in layers.items()}
    install(loaded.network, modules)
    generator = np.random.default_rng(np.random.SeedSequence([seed, 0x5CA1E]))
    order = endless_order(generator, len(lessons), config.num_steps)
    minimise(
        [module.log_change_OG for module in modules.values()],
        lambda step, num_pieces: lesson_pieces(loaded, lessons[order[step]], num_pieces),
        Schedule(learning_rate=config.learning_rate, num_steps=config.num_steps),
        what="fitting the Base's scales",
        after_step=lambda step, loss: after_step(step, config.num_steps, loss),
        announce=announce,
        fallbacks=fallbacks,
    )
    return {
        name: replace(layer, base=replace(layer.base, scales_OG=_stored(modules[name], name)))
        for name, layer in layers.items()
    }


def unrounded_weights(layers: Mapping[str, LayerSplit]) -> dict[str, Tensor]:
    """W - M [O, I] of layers that were split with `keep_unrounded`, by layer name."""
    kept = {name: layer.unrounded_OI for name, layer in layers.items()}
    assert all(weight_OI is not None for weight_OI in kept.values()), "split without keep_unrounded"
    return {name: weight_OI for name, weight_OI in kept.items() if weight_OI is not None}


def _stored(module: _ScaledLinear, name: str) -> Tensor:
    scales_OG = module.fitted_scales().detach().cpu().to(torch.float16)
    if not all_finite(scales_OG) or bool((scales_OG <= 0).any()):
        raise NumericalError("fitted scales left the range of fp16", where=f"layer {name}")
    return scales_OG
