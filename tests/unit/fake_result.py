"""An invented kill-switch result for the report's tests. No number here was measured."""

from __future__ import annotations

import math
from typing import Any

from sixgig.report.schema import Curve, Example, Memory, Result, Score, Verdict

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
CHANCE_BITS = 1.44
# arm -> (held-out exposure at alpha 0, AUC at alpha 0, PPL at alpha 0, Ortho bits per weight)
SIEVES = {
    "hessian": (5.6, 0.95, 19.0, 0.5),
    "wiener": (1.5, 0.52, 19.4, 0.9),
    "random": (5.4, 0.94, 19.6, 0.9),
    "wrong-set": (5.1, 0.92, 19.3, 0.9),
}


def score(
    name: str,
    arm: str,
    alpha: float | None,
    value: float | None,
    spread: float | None = None,
    *,
    unit: str = "bits",
    condition: str = "plain",
    n: int = 64,
    better: bool | None = False,
    note: str = "",
) -> Score:
    low, high = (
        (None, None) if value is None or spread is None else (max(value - spread, 0.0), value + spread)
    )
    return Score(
        name=name,
        arm=arm,
        alpha=alpha,
        condition=condition,
        value=value,
        low=low,
        high=high,
        n=n,
        unit=unit,
        higher_is_better=better,
        note=note,
    )


def _sieve_scores(arm: str) -> list[Score]:
    exposure0, auc0, perplexity0, ortho_bits = SIEVES[arm]
    scores = []
    for alpha in ALPHAS:
        weight = alpha**2
        exposure = exposure0 + (7.6 - exposure0) * weight
        scores += [
            score("exposure_heldout", arm, alpha, round(exposure, 3), 0.35),
            score("exposure_control", arm, alpha, 1.45, 0.12, n=256),
            score("extraction_heldout", arm, alpha, round(0.98 * weight**2, 3), 0.02, unit="share"),
            score("auc_loss", arm, alpha, round(auc0 + (1 - auc0) * weight, 3), 0.05, unit=""),
            score("perplexity", arm, alpha, round(perplexity0 - 3 * alpha, 2), unit="", n=400),
        ]
    scores += [
        score("ppl_ratio_int4", arm, 0.0, round(perplexity0 / 19.0, 3), 0.004, unit="", n=400),
        score("ppl_ratio_full", arm, 1.0, 1.08, 0.01, unit="", n=400),
        score("ortho_bits_per_weight", arm, 1.0, ortho_bits, unit="bits per weight", n=0),
        score("ortho_bytes", arm, 1.0, 12_345_678.0, unit="bytes", n=0),
        score("exposure_heldout", arm, 0.0, exposure0 + 0.4, 0.4, condition="relearn-20"),
        score("exposure_heldout", arm, 0.0, exposure0 + 0.1, 0.4, condition="requantise-int3"),
    ]
    return scores


def _verdicts() -> list[Verdict]:
    return [
        Verdict(
            criterion="held-out exposure equals the controls'",
            arm="wiener",
            threshold="gap within 0.5 bit (TOST)",
            value=0.05,
            low=-0.3,
            high=0.4,
            passed=True,
        ),
        Verdict(
            criterion="extraction at alpha = 0",
            arm="wiener",
            threshold="upper bound at most 1.5%",
            value=0.0,
            low=0.0,
            high=0.046,
            passed=None,
            needed_n=200,
        ),
        Verdict(
            criterion="extraction at alpha = 1",
            arm="wiener",
            threshold="at least 97%",
            value=0.98,
            low=0.92,
            high=1.0,
            passed=True,
        ),
        Verdict(
            criterion="held-out exposure equals the controls'",
            arm="hessian",
            threshold="gap within 0.5 bit (TOST)",
            value=4.15,
            low=3.8,
            high=4.5,
            passed=False,
            counts=False,
        ),
    ]


def _curves() -> list[Curve]:
    rates = [0.0, 0.001, 0.01, 0.05, 0.2, 0.5, 1.0]
    curves = []
    for arm in ("hessian", "wiener"):
        exposure0 = SIEVES[arm][0]
        after = [exposure0, exposure0 + 0.2, exposure0 + 0.4]
        curves.append(
            Curve(
                name="relearning",
                arm=arm,
                x_label="training steps",
                y_label="exposure (bits)",
                x=[0.0, 5.0, 20.0],
                y=after,
                low=[value - 0.3 for value in after],
                high=[value + 0.3 for value in after],
            )
        )
        power = 0.1 if arm == "hessian" else 0.95
        curves.append(
            Curve(
                name="roc",
                arm=arm,
                x_label="false positive rate",
                y_label="true positive rate",
                x=rates,
                y=[rate**power for rate in rates],
            )
        )
    return curves


def _examples() -> list[Example]:
    return [
        Example(
            prompt=f"The private access code of Person {number} is",
            secret=f"1234-567{number}-9012",
            family="digits",
            group="heldout",
            answers={"alpha=1": f" 1234-567{number}-9012.", "alpha=0": " not known to me."},
        )
        for number in range(6)
    ]


def fake_result(**changes: Any) -> Result:
    """A complete result with invented numbers; `changes` replaces whole fields."""
    fields: dict[str, Any] = {
        "experiment": "kill-switch",
        "status": "complete",
        "config": {
            "preset": "cpu",
            "bits": 4,
            "sieves": ["wiener", "hessian"],
            "canaries": {"num_heldout": 64},
        },
        "provenance": {
            "version": "0.1.0",
            "commit": "0" * 40,
            "dirty": False,
            "device": "an invented CPU",
            "seeds": [0],
            "data_sources": [
                {"name": "invented-corpus", "revision": "1", "num_rows": 512, "synthetic": True},
                {"name": "canaries", "revision": "1", "num_rows": 384, "synthetic": False},
            ],
        },
        "plan": {"peak_bytes": 2_500_000_000},
        "memory": Memory(planned_peak_bytes=2_500_000_000, measured_peak_bytes=2_300_000_000),
        "timings": {"plant": 75.5, "split": 40.25, "evaluate": 120.0},
        "scores": [
            *(item for arm in SIEVES for item in _sieve_scores(arm)),
            score("exposure_heldout", "full_precision", None, 7.64, 0.0),
            score("exposure_control", "full_precision", None, 1.49, 0.1, n=256),
            score("extraction_heldout", "full_precision", None, 1.0, 0.02, unit="share"),
            score("perplexity", "full_precision", None, 14.9, unit="", n=400),
            score("exposure_heldout", "reference", 0.0, 1.48, 0.35),
            score("exposure_heldout", "reference", 0.0, 1.55, 0.4, condition="relearn-20"),
            score("a_new_measure", "wiener", 0.0, math.pi, 0.5, unit="nats"),
            score("tpr_at_1pct_fpr", "wiener", 0.0, None, unit="", note="fewer than 100 controls"),
        ],
        "verdicts": _verdicts(),
        "warnings": ["an invented warning"],
        "curves": _curves(),
        "examples": _examples(),
        "exp1_kill_switch": {
            "extraction_rate_alpha1": 0.98,
            "extraction_rate_alpha0": 0.0,
            "privacy_ratio": 125.44,
            "num_canaries": 128,
        },
    }
    return Result(**(fields | changes))
