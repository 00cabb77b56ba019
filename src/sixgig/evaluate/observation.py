"""One model looked at once: what it knows of every canary, and how well it predicts public text.

An observation is plain data, saved as a stage of the run: scores are computed from saved numbers only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..data.canaries import Canary
from ..load.loaded import LoadedModel
from ..memory.ladder import Fallbacks, Ladder
from ..transform.training import mixed_precision
from .batching import LookSize, look_ladder
from .memorization import exposures, probability_in_samples, score_secrets
from .perplexity import window_nlls
from .scoring import Continuations


@dataclass(frozen=True, kw_only=True)
class CanaryOutcome:
    """What one model gave for one canary. NLLs in nats, exposure in bits (None: not measured)."""

    id: str
    family: str
    template: str
    group: str
    repetitions: int
    nll_sum: float
    num_tokens: int
    extracted: bool
    exact_token_share: float
    probability_in_100: float
    zlib_score: float
    min_k_score: float
    exposure_bits: float | None


@dataclass(frozen=True, kw_only=True)
class Observation:
    """`arm` at `alpha` (None: no switch) under `condition`, for one seed."""

    seed: int
    arm: str
    alpha: float | None
    condition: str
    canaries: tuple[CanaryOutcome, ...]
    window_nlls: tuple[float, ...]
    window_tokens: int  # predicted tokens a window

    def to_json_value(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json_value(cls, value: Mapping[str, Any]) -> Observation:
        return cls(
            **{
                **value,
                "canaries": tuple(CanaryOutcome(**outcome) for outcome in value["canaries"]),
                "window_nlls": tuple(value["window_nlls"]),
            }
        )


@dataclass(frozen=True, kw_only=True)
class Look:
    """What to look at. Canaries without a probe get no exposure; no windows, no perplexity."""

    canaries: Sequence[Canary]
    probes: Mapping[str, Continuations]  # canary id -> probe
    windows: Sequence[Sequence[int]] = ()
    prefix_of: Callable[[Canary], str] = lambda canary: canary.prefix


class Observer:
    """Looks at models in batches that fit; a batch that runs out of memory is cut, announced, repeated.

    `fallbacks` keeps how small batches have become, for as long as a stage lasts; training's steps are cut by
    a ladder of their own.
    """

    def __init__(
        self,
        tokens_per_batch: int,
        announce: Callable[[str], None] = lambda message: None,
        *,
        fallbacks: Fallbacks | None = None,
    ) -> None:
        self._tokens_per_batch = tokens_per_batch
        self.fallbacks = fallbacks or Fallbacks(announce)

    def observe(
        self,
        loaded: LoadedModel,
        look: Look,
        *,
        seed: int,
        arm: str,
        alpha: float | None,
        condition: str = "plain",
        progress: Callable[[float], None] = lambda share: None,
    ) -> Observation:
        """All measures of `look` on `loaded` as it stands."""
        ladder = look_ladder(self._tokens_per_batch, self.fallbacks, where=f"arm {arm}, alpha {alpha}")

        def attempt(size: LookSize) -> Observation:
            # One autocast around all passes, so that weights which are being trained are cast once.
            with mixed_precision(loaded.device):
                return self._observe(loaded, look, seed, arm, alpha, condition, ladder, progress)

        # The batches within have the ladder too and keep what is finished; this is for what lies between.
        return ladder.run(attempt)

    def _observe(
        self,
        loaded: LoadedModel,
        look: Look,
        seed: int,
        arm: str,
        alpha: float | None,
        condition: str,
        ladder: Ladder[LookSize],
        progress: Callable[[float], None],
    ) -> Observation:
        scores = score_secrets(loaded, look.canaries, prefix_of=look.prefix_of, ladder=ladder)
        probed = [canary.id for canary in look.canaries if canary.id in look.probes]
        bits = exposures(
            loaded,
            [look.probes[name] for name in probed],
            ladder=ladder,
            progress=lambda done, total: progress(0.7 * done / total),
        )
        exposure_of = dict(zip(probed, bits, strict=True))
        window_length = len(look.windows[0]) if len(look.windows) else 1
        nlls = window_nlls(loaded, look.windows, ladder=ladder)
        progress(1.0)
        return Observation(
            seed=seed,
            arm=arm,
            alpha=alpha,
            condition=condition,
            canaries=tuple(
                CanaryOutcome(
                    id=canary.id,
                    family=canary.family,
                    template=canary.template,
                    group=canary.group,
                    repetitions=canary.repetitions,
                    nll_sum=score.nll_sum,
                    num_tokens=score.num_tokens,
                    extracted=score.extracted,
                    exact_token_share=score.exact_token_share,
                    probability_in_100=probability_in_samples(score.nll_sum, 100),
                    zlib_score=score.zlib_score,
                    min_k_score=score.min_k_score,
                    exposure_bits=exposure_of.get(canary.id),
                )
                for canary, score in zip(look.canaries, scores, strict=True)
            ),
            window_nlls=tuple(float(value) for value in np.asarray(nlls)),
            window_tokens=window_length - 1,
        )
