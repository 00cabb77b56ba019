"""Dual-dp's observations as curves, all resampled alike: the same secrets and windows are in every one.

One bootstrap for everything: secrets within (seed, template), windows for all seeds at once, draws of noise
within a seed, and the seeds themselves where there is more than one. Differences between two curves are so
paired. Each resample gives every unit a weight (`evaluate.statistics.resampling` says which).

Legend: B resamples, D draws of noise, K steps of a curve, H held-out secrets, C controls, T windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import InputError
from ..evaluate.observation import CanaryOutcome, Observation
from ..evaluate.statistics.resampling import draw_weights, unit_weights
from .dual_dp_config import DualDpConfig
from .dual_dp_seed import noise_arm, noise_condition

NUM_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Step:
    """One point of a curve: a setting of the switch, or a sigma with the switch at 1 (None: no noise)."""

    alpha: float
    sigma: float | None = None

    @property
    def condition(self) -> str:
        return "plain" if self.sigma is None else noise_condition(self.sigma)


@dataclass(frozen=True, kw_only=True)
class SeedCurve:
    """What one seed's model gave along a curve; exposures in bits, losses in nats per token of the secret."""

    exposure_DKH: np.ndarray
    exposure_DKC: np.ndarray
    loss_DKH: np.ndarray
    loss_DKC: np.ndarray
    extracted_DKH: np.ndarray
    nats_DKT: np.ndarray  # per token of public text
    templates_H: tuple[str, ...]
    templates_C: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TradeOff:
    """A curve over all seeds, from the whole model to the most protection, and its resamples."""

    steps: tuple[Step, ...]
    seeds: tuple[SeedCurve, ...]
    gap_K: np.ndarray  # exposure of the planted above the never planted, bits
    gap_BK: np.ndarray
    nats_K: np.ndarray  # log-perplexity of public text
    nats_BK: np.ndarray


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """Of one seed, [B, units] each."""

    heldout_BH: np.ndarray
    control_BC: np.ndarray
    draws_BD: np.ndarray


class DualDpPools:
    """`curves`: by arm. The sieve's own name is its Ortho part turned down, `SIEVE-noise-WAY` the noise."""

    def __init__(
        self, config: DualDpConfig, observations: Sequence[Observation], *, bootstrap_seed: int = 0
    ) -> None:
        self.config = config
        self._seen = {(o.seed, o.arm, o.alpha, o.condition): o for o in observations}
        self._rng = np.random.default_rng(bootstrap_seed)

    @cached_property
    def curves(self) -> dict[str, TradeOff]:
        found: dict[str, TradeOff] = {}
        for sieve in self.config.sieves:
            alphas = sorted(self.config.alphas, reverse=True)
            found[sieve] = self._trade_off(sieve, sieve, [Step(alpha=alpha) for alpha in alphas])
            for way in self.config.ways:
                noisy = [Step(alpha=1.0, sigma=sigma) for sigma in self.config.sigmas(way)]
                arm = noise_arm(sieve, way)
                found[arm] = self._trade_off(sieve, arm, [Step(alpha=1.0), *noisy])
        return found

    @property
    def num_secrets(self) -> int:
        """Planted and never planted, over all seeds: the units of a gap."""
        first = next(iter(self.curves.values()))
        return sum(len(seed.templates_H) + len(seed.templates_C) for seed in first.seeds)

    @property
    def num_windows(self) -> int:
        return next(iter(self.curves.values())).seeds[0].nats_DKT.shape[2]

    def resampled_auc(self, curve: TradeOff) -> tuple[np.ndarray, np.ndarray]:
        """AUC [K] of telling planted from never planted by the loss, and [B, K]: over pairs within (seed,
        template), and the mean over draws. Resamples without a pair (with a handful of secrets) are left out.
        """
        wins_BK, pairs_B, wins_K, pairs = 0.0, 0.0, 0.0, 0.0
        for number, (seed, weights) in enumerate(zip(curve.seeds, self._weights, strict=True)):
            same_HC = np.array(seed.templates_H)[:, None] == np.array(seed.templates_C)[None, :]
            ahead = (np.sign(seed.loss_DKC[:, :, None, :] - seed.loss_DKH[:, :, :, None]) + 1) / 2 * same_HC
            mean_KHC = ahead.mean(axis=0)
            wins_K = wins_K + mean_KHC.sum(axis=(1, 2))
            pairs += float(same_HC.sum())
            left = np.einsum("bh,dkhc->bdkc", weights.heldout_BH, ahead)
            wins_BDK = np.einsum("bdkc,bc->bdk", left, weights.control_BC)
            seed_B = self._seeds_BS[:, number]
            wins_BK = wins_BK + seed_B[:, None] * self._over_draws(wins_BDK, weights)
            all_B = np.einsum("bh,hc,bc->b", weights.heldout_BH, same_HC.astype(float), weights.control_BC)
            pairs_B = pairs_B + seed_B * all_B
        wins_BK, pairs_B = np.asarray(wins_BK), np.asarray(pairs_B)
        usable = pairs_B > 0
        return np.asarray(wins_K) / pairs, wins_BK[usable] / pairs_B[usable, None]

    # ---- from observations to curves -------------------------------------------------------------------

    def _trade_off(self, sieve: str, arm: str, steps: Sequence[Step]) -> TradeOff:
        seeds = tuple(self._seed_curve(seed, sieve, arm, steps) for seed in self.config.seeds)
        gaps = [s.exposure_DKH.mean(axis=(0, 2)) - s.exposure_DKC.mean(axis=(0, 2)) for s in seeds]
        return TradeOff(
            steps=tuple(steps),
            seeds=seeds,
            gap_K=np.mean(gaps, axis=0),
            gap_BK=self._over_seeds(
                [self._gap_BK(seed, weights) for seed, weights in zip(seeds, self._weights, strict=True)]
            ),
            nats_K=np.mean([seed.nats_DKT.mean(axis=(0, 2)) for seed in seeds], axis=0),
            nats_BK=self._over_seeds(
                [self._nats_BK(seed, weights) for seed, weights in zip(seeds, self._weights, strict=True)]
            ),
        )

    def _seed_curve(self, seed: int, sieve: str, arm: str, steps: Sequence[Step]) -> SeedCurve:
        """Every step has `num_draws` columns; without noise all draws are one and the same look."""
        looks = [
            [self._look(seed, sieve, arm, step, draw) for step in steps]
            for draw in range(self.config.num_draws)
        ]
        held, control = (
            [[_probed(look, group) for look in row] for row in looks] for group in ("heldout", "control")
        )
        return SeedCurve(
            exposure_DKH=_array(held, lambda one: one.exposure_bits),
            exposure_DKC=_array(control, lambda one: one.exposure_bits),
            loss_DKH=_array(held, lambda one: one.nll_sum / one.num_tokens),
            loss_DKC=_array(control, lambda one: one.nll_sum / one.num_tokens),
            extracted_DKH=_array(held, lambda one: one.extracted),
            nats_DKT=np.array([[np.array(o.window_nlls) / o.window_tokens for o in row] for row in looks]),
            templates_H=tuple(one.template for one in held[0][0]),
            templates_C=tuple(one.template for one in control[0][0]),
        )

    def _look(self, seed: int, sieve: str, arm: str, step: Step, draw: int) -> Observation:
        if step.sigma is None:
            return self._seen[seed, sieve, step.alpha, "plain"]
        return self._seen[seed, arm, step.alpha, noise_condition(step.sigma, draw)]

    # ---- resampling ------------------------------------------------------------------------------------

    @cached_property
    def _weights(self) -> list[_Weights]:
        """Of every seed, as its first look has its secrets."""
        found = []
        for seed in self.config.seeds:
            look = self._seen[seed, self.config.sieves[0], 1.0, "plain"]
            groups = {name: [one.template for one in _probed(look, name)] for name in ("heldout", "control")}
            num_draws = self.config.num_draws
            found.append(
                _Weights(
                    heldout_BH=unit_weights(groups["heldout"], NUM_RESAMPLES, self._rng),
                    control_BC=unit_weights(groups["control"], NUM_RESAMPLES, self._rng),
                    draws_BD=_drawn(num_draws, self._rng),
                )
            )
        return found

    @cached_property
    def _seeds_BS(self) -> np.ndarray:
        return _drawn(len(self.config.seeds), self._rng)

    @cached_property
    def _windows_BT(self) -> np.ndarray:
        look = self._seen[self.config.seeds[0], self.config.sieves[0], 1.0, "plain"]
        return draw_weights(len(look.window_nlls), NUM_RESAMPLES, self._rng)

    def _gap_BK(self, seed: SeedCurve, weights: _Weights) -> np.ndarray:
        means = [
            np.einsum("bn,dkn->bdk", weights_Bn / weights_Bn.sum(axis=1, keepdims=True), exposure_DKn)
            for weights_Bn, exposure_DKn in (
                (weights.heldout_BH, seed.exposure_DKH),
                (weights.control_BC, seed.exposure_DKC),
            )
        ]
        return self._over_draws(means[0] - means[1], weights)

    def _nats_BK(self, seed: SeedCurve, weights: _Weights) -> np.ndarray:
        shares_BT = self._windows_BT / self._windows_BT.sum(axis=1, keepdims=True)
        return self._over_draws(np.einsum("bt,dkt->bdk", shares_BT, seed.nats_DKT), weights)

    def _over_draws(self, values_BDK: np.ndarray, weights: _Weights) -> np.ndarray:
        return np.einsum("bd,bdk->bk", weights.draws_BD, values_BDK) / self.config.num_draws

    def _over_seeds(self, values: Sequence[np.ndarray]) -> np.ndarray:
        return np.einsum("bs,sbk->bk", self._seeds_BS, np.stack(values)) / len(values)


def _drawn(count: int, rng: np.random.Generator) -> np.ndarray:
    """[B, count]; one alone has no spread to draw from."""
    return draw_weights(count, NUM_RESAMPLES, rng) if count > 1 else np.ones((NUM_RESAMPLES, 1))


def _probed(look: Observation, group: str) -> list[CanaryOutcome]:
    found = [one for one in look.canaries if one.group == group and one.exposure_bits is not None]
    if not found:
        raise InputError(
            f"a look without exposures of the group {group}", where=f"{look.arm}, {look.condition}"
        )
    return found


def _array(outcomes: list[list[list[CanaryOutcome]]], value) -> np.ndarray:
    """[D, K, units]. Every look has the same secrets in the same order, since all come from one."""
    ids = [one.id for one in outcomes[0][0]]
    assert all([one.id for one in look] == ids for row in outcomes for look in row)
    return np.array([[[float(value(one)) for one in look] for look in row] for row in outcomes])
