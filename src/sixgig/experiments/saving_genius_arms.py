"""The weights of each arm of saving-genius, one layer at a time: nothing here decides what is a success."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..transform.skill import (
    num_kept,
    rounded,
    score_of,
    shared_counts,
    with_entries,
    with_factors,
    with_random_entries,
)
from ..transform.split_layer import LayerSplit
from .saving_genius_config import SavingGeniusConfig
from .saving_genius_names import Arm, Score

ReadImportance = Callable[[Score, str], Tensor]  # (score, layer) -> [O, I] or [I]


@dataclass(frozen=True, kw_only=True)
class ArmMaker:
    """Makes any arm's layers, before any fit, from the whole weights; on `device`."""

    config: SavingGeniusConfig
    seed: int
    layer_names: tuple[str, ...]
    read_weight: Callable[[str], Tensor]
    read_importance: ReadImportance
    device: torch.device

    def layers(self, arm: Arm) -> Iterator[tuple[str, LayerSplit]]:
        """Every layer's name and split."""
        counts = self._shared_counts(arm)
        for name in self.layer_names:
            weight_OI, plain = self._rounded(name, arm.bits)
            k = counts.get(name, num_kept(weight_OI.numel(), arm.share))
            yield name, self._with_ortho(name, plain, weight_OI, arm, k)

    def _rounded(self, name: str, bits: int) -> tuple[Tensor, LayerSplit]:
        weight_OI = self.read_weight(name).to(self.device, torch.float32)
        return weight_OI, rounded(weight_OI, bits=bits, group_size=self.config.group_size)

    def _with_ortho(self, name: str, plain: LayerSplit, weight_OI: Tensor, arm: Arm, k: int) -> LayerSplit:
        if arm.score is None:
            return plain
        score = Score.of(arm.score)
        if score.kind == "random":
            return with_random_entries(plain, weight_OI, k, seed=self.seed, name=name)
        if score.kind == "lowrank":
            moment_I = self._importance(Score(kind="moment"), name)
            return with_factors(plain, weight_OI, moment_I, k, self.config.factor_bits)
        return with_entries(plain, weight_OI, self._importance(score, name), k)

    def _shared_counts(self, arm: Arm) -> dict[str, int]:
        """k of each layer where one threshold is for all of them; else nothing."""
        if arm.score is None or not Score.of(arm.score).is_global:
            return {}
        score = Score.of(arm.score)

        def scores() -> Iterator[tuple[str, Tensor]]:
            for name in self.layer_names:
                weight_OI, plain = self._rounded(name, arm.bits)
                yield name, score_of(plain, weight_OI, self._importance(score, name))

        return shared_counts(scores, arm.share)

    def _importance(self, score: Score, name: str) -> Tensor:
        return self.read_importance(score, name).to(self.device, torch.float32)
