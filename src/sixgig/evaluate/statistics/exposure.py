"""Exposure: how many bits of guessing a model saves whoever looks for the secret.

Source: Carlini et al. 2019, "The Secret Sharer", section 4 (definition 4, estimated by sampling the space as
in section 4.3): log2 |R| - log2 rank. Deviation: R is a sample, the secret and its decoys, so the largest
measurable exposure is log2(decoys + 1).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import gammaln

from ...errors import InputError
from .intervals import finite


def exposure_bits(canary_nll: np.ndarray, decoy_nlls: np.ndarray) -> np.ndarray:
    """Exposure in bits `[...]` of canaries `[...]` among their decoys `[..., num_decoys]`, all NLLs in nats.

    rank = 1 + #(decoys strictly lower) + #(decoys equal) / 2, so that a model which scores all alike neither
    gains nor loses by the order of the decoys. Ties lower the mean under chance a little (all tied: just
    under 1 bit); with float32 sums over a secret they are rare.
    """
    canary_nll, decoy_nlls = finite("NLLs of canaries", canary_nll), finite("NLLs of decoys", decoy_nlls)
    if decoy_nlls.shape[:-1] != canary_nll.shape or decoy_nlls.ndim == 0:
        raise InputError(
            "decoys do not fit their canaries",
            expected=f"shape {(*canary_nll.shape, 'num_decoys')}",
            received=str(decoy_nlls.shape),
        )
    lower = (decoy_nlls < canary_nll[..., None]).sum(axis=-1)
    ties = (decoy_nlls == canary_nll[..., None]).sum(axis=-1)
    return max_exposure_bits(decoy_nlls.shape[-1]) - np.log2(1 + lower + ties / 2)


def max_exposure_bits(num_decoys: int) -> float:
    """Exposure of a secret that ranks first: log2(num_decoys + 1)."""
    return math.log2(num_decoys + 1)


def chance_exposure_bits(num_decoys: int) -> float:
    """Mean exposure when every rank is as likely: log2 R - log2(R!) / R, with R = num_decoys + 1."""
    size = num_decoys + 1
    return math.log2(size) - float(gammaln(size + 1)) / math.log(2) / size
