"""Sieves: each chooses what leaves a layer before it is quantised. One file a sieve, one interface.

Their files import torch only where they compute: a run's settings name sieves, and are checked without torch.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ...errors import InputError, UnknownNameError
from .base import Evidence, InputStatistics, Sieve
from .fisher_contrast import FisherContrastSieve
from .hessian import HessianSieve
from .input_projection import InputProjectionSieve
from .isolated import IsolatedSieve
from .kfac import KfacSieve
from .learned import LearnedSieve
from .natural_gradient import NaturalGradientSieve
from .nulls import LookAlikeSieve, NoneSieve, RandomSieve, WrongSetSieve
from .subnet import SubnetSieve
from .wiener import WienerSieve

SIEVES: dict[str, type] = {
    sieve.name: sieve
    for sieve in (
        WienerSieve,
        IsolatedSieve,
        HessianSieve,
        NoneSieve,
        RandomSieve,
        WrongSetSieve,
        LookAlikeSieve,
        InputProjectionSieve,
        NaturalGradientSieve,
        LearnedSieve,
        FisherContrastSieve,
        SubnetSieve,
        KfacSieve,
    )
}


def make_sieve(name: str, **settings: Any) -> Sieve:
    """The sieve `name` with its settings. Raises UnknownNameError for either, with the nearest names."""
    if name not in SIEVES:
        raise UnknownNameError("sieve", name, SIEVES)
    known = {field.name for field in dataclasses.fields(SIEVES[name])}
    for setting in settings:
        if not known:
            raise InputError(f"the sieve {name} has no settings", received=setting)
        if setting not in known:
            raise UnknownNameError(f"setting of the sieve {name}", setting, known)
    return SIEVES[name](**settings)


__all__ = ["SIEVES", "Evidence", "InputStatistics", "Sieve", "make_sieve"]
