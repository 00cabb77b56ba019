"""What the arms of saving-genius are called: int3, int3-fisher-1pct, int3-fisher-1pct-fitted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .saving_genius_config import PLAIN_SCORES, SavingGeniusConfig
from .split_rows import FULL

DIGITS_SKILL, INVENTED_SKILL = "digits", "invented"  # addition in real and in invented digits
ON_INVENTED = f"-{INVENTED_SKILL}"  # of a score: calibrated on addition in invented digits


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a score's name says, as in fisher-both-global-invented.

    >>> Score.of("fisher-both-global-invented")
    Score(kind='fisher', point='both', is_global=True, on_invented=True)
    """

    kind: str
    point: str = "full"  # "full" | "base" | "both": the model whose gradients are taken
    is_global: bool = False
    on_invented: bool = False

    @classmethod
    def of(cls, name: str) -> Score:
        kind, *marks = name.split("-")
        point = next((mark for mark in marks if mark in ("base", "both")), "full")
        return cls(kind=kind, point=point, is_global="global" in marks, on_invented=INVENTED_SKILL in marks)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A Base of `bits`, and the Ortho part that `score` chooses at `share`; none where `score` is None."""

    bits: int
    score: str | None = None
    share: float = 0.0
    fitted: bool = False

    @property
    def name(self) -> str:
        """
        >>> Arm(bits=3).name, Arm(bits=3, score="fisher", share=0.01, fitted=True).name
        ('int3', 'int3-fisher-1pct-fitted')
        """
        if self.score is None:
            return f"int{self.bits}"
        return f"int{self.bits}-{self.score}-{100 * self.share:g}pct" + ("-fitted" if self.fitted else "")


def arms(config: SavingGeniusConfig) -> list[Arm]:
    """Every rounded arm of a run, in the order in which they are looked at."""
    found = [Arm(bits=config.bits)]
    found += [
        Arm(bits=config.bits, score=score, share=share)
        for share in config.shares
        for score in _scores(config)
    ]
    if config.low_bits:
        found.append(Arm(bits=config.low_bits))
        found += [
            Arm(bits=config.low_bits, score=score, share=config.top_share)
            for score in config.scores
            if score in PLAIN_SCORES
        ]
    if "lowrank" in config.fitted:
        found += [Arm(bits=config.bits, score="lowrank", share=share) for share in config.fitted_shares]
    return [*found, *fitted_arms(config)]


def fitted_arms(config: SavingGeniusConfig) -> list[Arm]:
    """Those whose Ortho part is fitted on the frozen Base."""
    return [
        Arm(bits=config.bits, score=score, share=share, fitted=True)
        for share in config.fitted_shares
        for score in config.fitted
    ]


def unfitted(arm: Arm) -> Arm:
    return replace(arm, fitted=False)


def arm_names(config: SavingGeniusConfig) -> list[str]:
    return [FULL, *(arm.name for arm in arms(config))]


def _scores(config: SavingGeniusConfig) -> Iterator[str]:
    yield from config.scores
    if config.contrast:
        yield from (f"{score}{ON_INVENTED}" for score in config.scores if score in ("moment", "fisher"))
