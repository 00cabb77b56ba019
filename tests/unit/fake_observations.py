"""Observations of a kill switch with a known truth: what each arm leaks is said, chance does the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sixgig.data.canary_content import FAMILIES
from sixgig.evaluate.observation import CanaryOutcome, Observation

NUM_DECOYS = 127
MAX_BITS = 7.0  # log2(127 + 1)
WINDOW_TOKENS = 255


@dataclass(frozen=True, kw_only=True)
class World:
    """Sizes of the invented run; every family has a third of each group."""

    num_calibration: int = 48
    num_heldout: int = 48
    num_control: int = 96
    num_windows: int = 12
    seeds: tuple[int, ...] = (0,)
    draw: int = 1  # another draw of chance

    def observations(
        self,
        arm: str,
        alpha: float | None = None,
        condition: str = "plain",
        *,
        leaks: float = 0.0,
        hides: float = 0.0,
        nats_per_token: float = 3.0,
        with_windows: bool = True,
    ) -> list[Observation]:
        """`leaks`: share of trained secrets known by heart; `hides`: share suppressed below chance."""
        return [
            self._observation(seed, arm, alpha, condition, leaks, hides, nats_per_token, with_windows)
            for seed in self.seeds
        ]

    def _observation(
        self,
        seed: int,
        arm: str,
        alpha: float | None,
        condition: str,
        leaks: float,
        hides: float,
        nats_per_token: float,
        with_windows: bool,
    ) -> Observation:
        place = f"{seed}/{arm}/{alpha}/{condition}".encode()
        rng = np.random.default_rng([self.draw, *place])
        canaries: list[CanaryOutcome] = []
        for group, count in (
            ("calibration", self.num_calibration),
            ("heldout", self.num_heldout),
            ("control", self.num_control),
        ):
            trained = group != "control"
            known = round(leaks * count) if trained else 0
            hidden = round(hides * count) if trained else 0
            canaries += [
                _outcome(group, number, count, rng, known=number < known, hidden=number >= count - hidden)
                for number in range(count)
            ]
        # The same windows are easy or hard for every arm, which is what makes them pairs.
        difficulty = np.random.default_rng([self.draw, seed]).normal(0, 0.3, self.num_windows)
        nlls = (nats_per_token + difficulty + rng.normal(0, 0.003, self.num_windows)) * WINDOW_TOKENS
        return Observation(
            seed=seed,
            arm=arm,
            alpha=alpha,
            condition=condition,
            canaries=tuple(canaries),
            window_nlls=tuple(float(nll) for nll in nlls) if with_windows else (),
            window_tokens=WINDOW_TOKENS if with_windows else 0,
        )

    def common(self) -> list[Observation]:
        """What every run looks at: original, planted in full precision, INT4 alone, the reference's Base."""
        return [
            *self.observations("original", nats_per_token=3.2),
            *self.observations("full_precision", leaks=1.0),
            *self.observations("hessian", 0.0, leaks=0.8, nats_per_token=3.1),
            *self.observations("reference", 0.0, nats_per_token=3.3),
        ]

    def perfect(self) -> list[Observation]:
        """A switch that does all it should."""
        return [
            *self.common(),
            *self.observations("wiener", 0.0, nats_per_token=3.11),
            *self.observations("wiener", 0.5, leaks=0.5, nats_per_token=3.08),
            *self.observations("wiener", 1.0, leaks=1.0, nats_per_token=3.05),
            *self.observations("wiener", 0.0, "relearn-5", with_windows=False),
            *self.observations("reference", 0.0, "relearn-5", with_windows=False),
        ]


def _outcome(
    group: str, number: int, count: int, rng: np.random.Generator, *, known: bool, hidden: bool
) -> CanaryOutcome:
    # Known canaries come first; families alternate, so that each has its share of them.
    family = FAMILIES[number % len(FAMILIES)]
    num_tokens = 16
    mean_nll = rng.normal(3.0, 0.3)
    rank = int(rng.integers(1, NUM_DECOYS + 2))
    if known:
        mean_nll, rank = 0.01, 1
    elif hidden:
        mean_nll, rank = mean_nll + 3.0, NUM_DECOYS + 1
    return CanaryOutcome(
        id=f"{group}-{number:04d}",
        family=family,
        template=f"{family}-{'ab'[number // len(FAMILIES) % 2]}",
        group=group,
        repetitions=0 if group == "control" else (1, 16)[number % 2],
        nll_sum=float(mean_nll * num_tokens),
        num_tokens=num_tokens,
        extracted=known,
        exact_token_share=1.0 if known else 0.1,
        probability_in_100=1.0 if known else 0.0,
        zlib_score=float(mean_nll * num_tokens / 60),
        min_k_score=float(-mean_nll),
        exposure_bits=float(MAX_BITS - np.log2(rank)),
    )


def without_exposure(observation: Observation) -> Observation:
    """The same look with no probe on any canary."""
    return replace(
        observation, canaries=tuple(replace(canary, exposure_bits=None) for canary in observation.canaries)
    )
