"""Gaussian noise on a split model's weights: on the Ortho part as stored, on its product, on everything.

The noise of a matrix is `sigma` times the root mean square of that matrix. This is no differential privacy:
the scale is read off the private weights themselves and bounds no record's influence, so no epsilon follows
from it. What the noise hides is measured.

Legend: O outputs, I inputs, r rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..errors import UnknownNameError
from ..layers.split_linear import OrthoPart, set_alpha
from ..load.loaded import LoadedModel
from ..numerics.quantize import dequantize
from ..transform.network import install_dense, install_split
from ..transform.split_layer import LayerSplit


def install_noisy(
    loaded: LoadedModel, layers: Mapping[str, LayerSplit], way: str, sigma: float, *, seed: int, draw: int
) -> None:
    """Puts the whole model (alpha = 1) with noise in place of `loaded`'s linear layers.

    ortho    W = Base + (U + n)(V + n) + (S + n)   what a publisher of an Ortho part could do to it
    product  W = Base + (U V + S + n)              the same as one matrix, as large as the model itself
    all      W = (Base + U V + S) + n              what the other two are held against

    One `draw` is the same standard normal numbers at every sigma, so that a draw's points are one curve. They
    are drawn on the model's device: a card's are other ones than a CPU's.
    """
    entropy = np.random.SeedSequence([seed, draw, 0xD0B])
    generator = torch.Generator(loaded.device).manual_seed(int(entropy.generate_state(1)[0]))
    if way == "ortho":
        parts = {name: _noisy_part(layer.ortho, sigma, generator) for name, layer in layers.items()}
        noisy_layers = {name: replace(layer, ortho=parts[name]) for name, layer in layers.items()}
        install_split(loaded, noisy_layers, with_ortho=True)
        set_alpha(loaded.network, 1.0)
    elif way in ("product", "all"):
        # bf16, as every look multiplies in it; the sums before it are in fp32.
        install_dense(loaded, _noisy_weights(layers, way, sigma, generator), dtype=torch.bfloat16)
    else:
        raise UnknownNameError("way to add noise", way, ("ortho", "product", "all"))


def noisy(values: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """`values` in fp32 plus `sigma` times their root mean square in standard normal numbers, on the
    generator's device."""
    values = values.to(generator.device, torch.float32)
    rms = values.square().mean().sqrt() if values.numel() else values.new_zeros(())
    return values + sigma * rms * torch.randn(values.shape, generator=generator, device=generator.device)


def _noisy_part(ortho: OrthoPart, sigma: float, generator: torch.Generator) -> OrthoPart:
    sparse = ortho.sparse
    return OrthoPart(
        up_Or=noisy(ortho.up_Or, sigma, generator),
        down_rI=noisy(ortho.down_rI, sigma, generator),
        sparse=sparse and replace(sparse, values_k=noisy(sparse.values_k, sigma, generator).cpu()),
    )


def _noisy_weights(
    layers: Mapping[str, LayerSplit], way: str, sigma: float, generator: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    """Each layer's weight [O, I], one in memory at a time."""
    for name, layer in layers.items():
        base_OI = dequantize(layer.base.to(generator.device))
        ortho_OI = _moved(layer.ortho, generator.device).dense()
        if way == "all":
            yield name, noisy(base_OI + ortho_OI, sigma, generator)
        else:
            yield name, base_OI + noisy(ortho_OI, sigma, generator)


def _moved(ortho: OrthoPart, device: torch.device) -> OrthoPart:
    sparse = ortho.sparse
    if sparse is not None:
        places_k, values_k = sparse.positions_k.to(device), sparse.values_k.to(device)
        sparse = replace(sparse, positions_k=places_k, values_k=values_k)
    return OrthoPart(up_Or=ortho.up_Or.to(device), down_rI=ortho.down_rI.to(device), sparse=sparse)
