"""Fitting the Base's scales on the real model: INT4 comes closer to the weights that it was rounded from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sixgig.catalogue import EMBEDDED
from sixgig.data.batches import TokenSequence, batches, collate
from sixgig.data.corpora import load_public_text, token_windows
from sixgig.load.fetch import is_fetched, model_folder
from sixgig.load.loaded import LoadedModel, load
from sixgig.transform.fit_scales import ScaleFitConfig, fit_scales, unrounded_weights
from sixgig.transform.network import install_split
from sixgig.transform.sieve import make_sieve
from sixgig.transform.split import PUBLIC, split_layers_of
from sixgig.transform.split_layer import Arm, OrthoConfig
from sixgig.transform.training import mixed_precision, weighted_nll_sum

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(not is_fetched(EMBEDDED), reason=f"needs the model: sixgig fetch {EMBEDDED}"),
]


def windows(loaded: LoadedModel, part: str, count: int) -> list[TokenSequence]:
    """The package's own text in windows of 128 tokens."""
    ids = token_windows(np.asarray(loaded.encode(load_public_text(part, data_dir=None).text)), 128, count)
    return [TokenSequence(ids=tuple(map(int, row)), weights=(1.0,) * len(row)) for row in ids]


@torch.no_grad()
def perplexity(loaded: LoadedModel, texts: list[TokenSequence]) -> float:
    with mixed_precision(loaded.device):
        total, weight = weighted_nll_sum(loaded, collate(texts))
    return math.exp(float(total) / weight)


def test_fitted_scales_take_back_part_of_what_rounding_cost() -> None:
    loaded = load(model_folder(EMBEDDED), device=torch.device("cpu"))
    test, train = windows(loaded, "test", 8), windows(loaded, "train", 24)
    whole = perplexity(loaded, test)
    arm = Arm(sieve=make_sieve("none"), ortho=OrthoConfig(rank=0), keep_unrounded=True)
    public = {PUBLIC: list(batches(windows(loaded, "calibration", 1), 1))}
    layers = split_layers_of(loaded, {"none": arm}, public, {}, seed=0)["none"]
    install_split(loaded, layers, with_ortho=False)
    rounded = perplexity(loaded, test)
    config = ScaleFitConfig(num_steps=12, learning_rate=4e-3)
    fitted = fit_scales(
        loaded, layers, unrounded_weights(layers).items(), list(batches(train, 2)), config, seed=0
    )
    install_split(loaded, fitted, with_ortho=False)
    after = perplexity(loaded, test)
    print(f"perplexity: whole {whole:.2f}, INT4 {rounded:.2f}, fitted {after:.2f}")
    assert rounded > 1.1 * whole
    assert after < rounded - 0.3 * (rounded - whole)
