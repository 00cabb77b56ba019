"""An invented kill switch of a dozen sieves, for the tests of what sets them side by side."""

from __future__ import annotations

from fake_result import fake_result, score

from sixgig.report.schema import Result, Score

# sieve -> (gap at alpha 0, gap after relearning, perplexity / plain INT4, Ortho bits a weight, seconds)
SIEVES = {
    "wiener": (0.09, 0.12, 0.80, 0.37, 61.0),
    "isolated": (-0.06, -0.04, 0.81, 0.37, 55.0),
    "hessian": (6.20, 6.30, 1.00, 2.05, 12.0),
    "none": (6.22, 6.35, 0.79, 0.37, 48.0),
    "random": (6.19, 6.25, 0.83, 0.37, 52.0),
    "wrong-set": (0.87, 2.10, 0.82, 0.37, 60.0),
    "look-alike": (0.11, 0.15, 0.80, 0.37, 62.0),
    "input-projection": (0.40, 0.90, 0.95, 0.37, 63.0),
    "natural-gradient": (0.55, 3.10, 0.86, 0.37, 180.0),
    "learned": (0.02, 4.20, 0.82, 0.37, 240.0),
    "fisher-contrast": (1.10, 5.20, 1.60, 0.60, 75.0),
    "subnet": (-0.70, 3.90, 0.90, 0.50, 210.0),
    "kfac": (5.10, 6.00, 1.04, 0.37, 90.0),
}


def comparison(sieves: dict[str, tuple[float, float, float, float, float]] = SIEVES) -> Result:
    """What `-s sieves=all` finds: `isolated` is looked at with alpha = 1 alone."""
    scores = [_gap("reference", sieves.get("isolated", (0.0, 0.0))[0])]
    if "isolated" in sieves:
        gap, relearned, ratio, *_ = sieves["isolated"]
        scores += [_gap("reference", relearned, "relearn-20"), _ratio("reference", ratio)]
    for arm, (gap, relearned, ratio, bits, seconds) in sieves.items():
        if arm != "isolated":
            scores += [_gap(arm, gap), _gap(arm, relearned, "relearn-20")]
        if arm not in ("isolated", "hessian"):
            scores.append(_ratio(arm, ratio))
        scores += [
            score("ppl_ratio_full", arm, 1.0, 0.97, 0.01, unit="ratio", n=128),
            score("extraction_heldout", arm, 1.0, 0.99, 0.02, unit="share", n=102),
            score("ortho_bits_per_weight", arm, None, bits, unit="bits", n=0),
            score("making_seconds", arm, None, seconds, unit="s", n=0),
        ]
    return fake_result(scores=scores, config={"sieves": list(sieves)})


def _gap(arm: str, value: float, condition: str = "plain") -> Score:
    found = score("exposure_gap", arm, 0.0, value, condition=condition, n=306)
    return found.model_copy(update={"low": value - 0.16, "high": value + 0.15})


def _ratio(arm: str, value: float) -> Score:
    return score("ppl_ratio_int4", arm, 0.0, value, 0.012, unit="ratio", n=128)
