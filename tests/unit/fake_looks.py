"""Invented looks and times for the scores of the null test and of performance. Nothing here was measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from sixgig.evaluate.multiple_choice import Outcome
from sixgig.experiments.null_test_scores import Look, NullTestScores
from sixgig.experiments.performance_scores import PerformanceScores, Times
from sixgig.experiments.split_rows import FULL, SPLIT, Key

INT4 = "int4"
SUBJECTS = {"tides": 300.0, "old_maps": 100.0}


def outcomes(right: float, *, seed: int = 0, count: int = 80) -> tuple[Outcome, ...]:
    """Of `count` questions about a share `right` answered rightly; easier ones come first."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        answer = int(rng.integers(4))
        is_right = (number + 0.5) / count < right
        nlls = 2.0 + rng.random(4)
        nlls[answer if is_right else (answer + 1) % 4] = 1.0
        found.append(
            Outcome(
                id=f"q-{number}",
                subject=list(SUBJECTS)[number % 2],
                nlls=tuple(nlls.tolist()),
                answer=answer,
            )
        )
    return tuple(found)


def looks(*, num_windows: int = 40, mmlu: bool = True) -> dict[Key, Look]:
    """INT4 costs 0.1 nats a token, alpha = 1 takes back 0.07 of them, alpha = 0 is INT4 itself."""
    rng = np.random.default_rng(1)
    full = 100 * (3 + rng.normal(size=num_windows) * 0.3)
    plain = full + 100 * (0.1 + 0.01 * rng.normal(size=num_windows))
    whole = full + 100 * (0.03 + 0.01 * rng.normal(size=num_windows))
    answers = {"full": outcomes(0.7), "plain": outcomes(0.6), "whole": outcomes(0.65)}
    if not mmlu:
        answers = dict.fromkeys(answers, ())
    return {
        (FULL, None): Look(nlls=full, answers=answers["full"]),
        (INT4, None): Look(nlls=plain, answers=answers["plain"]),
        (SPLIT, 0.0): Look(nlls=plain.copy(), answers=answers["plain"]),
        (SPLIT, 1.0): Look(nlls=whole, answers=answers["whole"]),
    }


def null_test_scores(found: dict[Key, Look] | None = None, **changes: Any) -> NullTestScores:
    found = found or looks()
    fields: dict[str, Any] = {
        "looks": found,
        "num_scored": [100] * len(found[FULL, None].nlls),
        "plain_arm": INT4,
        "compared": {"num_tokens": 8, "num_logits": 800, "alpha0": 0.0, "alpha1": 3.0},
        "facts": {"base_bytes": 1000.0, "ortho_bytes": 100.0, "ortho_bits_per_weight": 0.5},
        "subject_sizes": SUBJECTS,
    }
    return NullTestScores(**(fields | changes))


def times(latency_ms: float, *, noise: float = 0.002, seed: int = 0, num_rounds: int = 30) -> Times:
    """Rounds whose disturbances, up to threefold, are the same for every arm; `noise` is an arm's own."""
    shared = 1 + 2 * np.random.default_rng(99).random(num_rounds)
    own = 1 + noise * np.random.default_rng(seed).normal(size=num_rounds)
    tokens = np.outer(latency_ms / 1000 * shared * own, np.ones(8))
    return Times(prefill=0.05 * shared, tokens=tokens, bytes_per_token=1e8, held_bytes=2 * 10**8, joules=())


def performance_scores(alpha0: float = 1.0, **changes: Any) -> PerformanceScores:
    """INT4 at 10 ms, full precision at 20, alpha = 0 at `alpha0` times INT4's, alpha = 1 a tenth slower."""
    found: dict[Key, Times] = {
        (FULL, None): times(20, seed=1),
        (INT4, None): times(10, seed=2),
        (SPLIT, 0.0): times(10 * alpha0, seed=3),
        (SPLIT, 1.0): times(11, seed=4),
    }
    fields: dict[str, Any] = {
        "times": found,
        "plain_arm": INT4,
        "prompt_tokens": 16,
        "bandwidth": 2e10,
        "no_energy": "invented: no counter",
    }
    return PerformanceScores(**(fields | changes))


def with_last_bit(look: Look) -> Look:
    """One window's NLL moved by the least that a number can."""
    nlls = look.nlls.copy()
    nlls[3] = np.nextafter(nlls[3], np.inf)
    return replace(look, nlls=nlls)
