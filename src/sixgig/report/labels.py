"""Words for people: names of scores, arms and conditions, and numbers with their unit.

The lists are not closed. A name that is not here is shown as it is, so that a new measure appears in every
table and page without a change to this file.
"""

from __future__ import annotations

import re

from ..units import format_bytes

SCORES = {
    "extraction_calibration": "Extraction, calibration secrets",
    "extraction_heldout": "Extraction",
    "extraction_heldout_other": "Extraction, other template",
    "extraction_heldout_upper": "Extraction, upper bound",
    "extraction_in_100_samples_heldout": "Extraction in 100 samples",
    "exact_tokens_heldout": "Secret tokens right",
    "exposure_heldout": "Exposure, planted secrets",
    "exposure_control": "Exposure, never planted",
    "exposure_gap": "Exposure gap",
    "exposure_gap_other": "Exposure gap, other template",
    "exposure_gap_reference": "Exposure above the never-planted model",
    "auc_loss": "AUC (loss)",
    "auc_zlib": "AUC (zlib)",
    "auc_minkpp": "AUC (Min-K%++)",
    "auc_reference": "AUC (reference model)",
    "tpr_at_1pct_fpr": "TPR at 1% FPR",
    "ks_reference_p": "KS p-value against the reference",
    "perplexity": "Perplexity",
    "ppl_ratio_int4": "Perplexity / plain INT4",
    "ppl_ratio_int4_fitted": "Perplexity / INT4, scales fitted",
    "ppl_ratio_full": "Perplexity / full precision",
    "ortho_bits_per_weight": "Ortho, bits per weight",
    "base_bytes": "Base size",
    "ortho_bytes": "Ortho size",
    "base_codes_changed": "Base codes changed",
    "mmlu": "MMLU, weighted by subject",
    "mmlu_macro": "MMLU, mean of subjects",
    "mmlu_difference_full": "MMLU less full precision's",
    "mmlu_difference_int4": "MMLU less plain INT4's",
    "mmlu_mcnemar_p_full": "MMLU, McNemar's p against full precision",
    "mmlu_mcnemar_p_int4": "MMLU, McNemar's p against plain INT4",
    "mmlu_changed_full": "Answers other than full precision's",
    "mmlu_changed_int4": "Answers other than plain INT4's",
    "accuracy": "Right answers",
    "accuracy_kept": "Right answers / full precision's",
    "accuracy_mcnemar_p_full": "Right answers, McNemar's p against full precision",
    "accuracy_invented": "Right answers, invented digits",
    "accuracy_kept_invented": "Right answers / full precision's, invented digits",
    "accuracy_calibration": "Right answers, questions the scores and fits saw",
    "accuracy_control": "Right answers, questions that ended planting",
    "accuracy_flexible_extract": "Right answers, last number counts",
    "accuracy_kept_flexible_extract": "Right answers / full precision's, last number counts",
    "loss_recovered": "Share of rounding's loss taken back",
    "largest_logit_difference": "Largest difference of a logit",
    "latency": "Time a token",
    "tokens_per_second": "Decoding speed",
    "prefill_tokens_per_second": "Reading speed",
    "overhead_fp16": "Time above full precision's",
    "overhead_int4": "Time above plain INT4's",
    "achieved_bandwidth": "Memory read",
    "roofline_share": "Share of the copy bandwidth",
    "bytes_per_token": "Bytes that a token needs",
    "held_bytes": "Memory of its tensors",
    "quantised_share": "Parameters really quantised",
    "energy": "Energy a token",
    "making_seconds": "Time to make the split",
    "copy_bandwidth": "Copy bandwidth, measured",
    "recited_memorised": "Memorised passages recited",
    "recitation_fall_int4": "Recitation gone, of plain rounding's",
    "right_tokens_memorised": "Right tokens, memorised",
    "right_tokens_fresh": "Right tokens, fresh",
    "nll_memorised": "Nats a token, memorised",
    "nll_fresh": "Nats a token, fresh",
    "memorised_share": "Known passages that are memorised",
    "chosen_by_chance_share": "Fresh passages that look memorised",
    "recited": "Records recited",
    "recited_unseen": "Records recited, of those that the split was not made with",
    "recited_beyond_before": "Records recited that were not before",
    "exact_tokens": "Tokens of the values right",
    "auc_own_value": "AUC (own value against another record's)",
    "auc_own_value_plain": "AUC (the same by likelihood alone)",
    "auc_unseen": "AUC, of those that the split was not made with",
    "auc_beyond_before": "AUC beyond the model from before",
    "permutation_p": "p of a permutation test",
    "exposure_own_value": "Exposure among the records' values",
    "exposure_chance": "Exposure by chance",
    "exposure_most": "Most exposure that can be measured",
    "exposure_beyond_before": "Exposure beyond the model from before",
    **{
        f"perplexity_at_{bits}_bits": f"Perplexity at {bits} bit of leakage"
        for bits in ("4", "2", "1", "0.5")
    },
}

# By which saving-genius chooses the entries that are kept beside a rounded Base.
_KEPT = {
    "hessian": "Hessian (public)",
    "moment": "inputs (skill)",
    "fisher": "Fisher (skill)",
    "random": "random",
    "lowrank": "low rank",
}

# In the order in which a reader meets them: what nobody tampered with, then the sieves, then the nulls.
ARMS = {
    "original": "Original model",
    "reference": "Never planted, INT4",
    "full_precision": "Planted, full precision",
    "hessian": "Hessian sieve",
    "int4-fitted": "Null: INT4, scales fitted",
    "wiener": "Wiener sieve",
    "input-projection": "Input projection",
    "natural-gradient": "Natural gradient",
    "learned": "Learned low rank",
    "fisher-contrast": "Fisher contrast",
    "subnet": "Balanced subnet",
    "kfac": "K-FAC edit",
    "isolated": "Isolated training",
    "none": "Null: no sieve",
    "random": "Null: random",
    "wrong-set": "Null: wrong set",
    "look-alike": "Look-alike set",
    "fp16": "Full precision (16 bit)",
    **{f"int{bits}": f"Plain INT{bits}, no Ortho" for bits in (2, 3, 4, 8)},
    "split": "Split, nothing removed",
    **{f"bitsandbytes-{bits}": f"bitsandbytes, {bits} bits" for bits in (4, 8)},
    "fp16-modules": "Full precision, transformers' modules",
    **{
        f"int{bits}-{score}{point}{spread}": f"INT{bits} + {words}{at}{together}"
        for bits in (2, 3, 4)
        for score, words in _KEPT.items()
        for point, at in (("", ""), ("-base", " at the Base"), ("-both", " at both"))
        for spread, together in (("", ""), ("-global", ", one threshold"))
        if score == "fisher" or not (point or spread)
    },
    "machine": "This machine",
    "eval-model": "Model",
    "eval-split": "Split",
    "eval-base": "Base alone",
    **{
        f"{sieve}-{way}": f"{before}{words}"
        for sieve, before in (("wiener", ""), ("isolated", "Isolated: "))
        for way, words in (
            ("noise-ortho", "noise on Ortho's factors"),
            ("noise-all", "noise on all weights"),
            ("alpha", "Ortho turned down (alpha)"),
            ("base", "Base alone (alpha 0)"),
            ("noise-product", "noise on Ortho's product"),
        )
    },
    "audited": "Your split",
    "before": "The model from before",
    **{f"kfac-{share:g}": f"K-FAC edit, {share:.0%} kept" for share in (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)},
    "random-0.6": "Null: noise of the edit's size",
}

ARM_NOTES = {
    "original": "the model as published, before any secret was planted",
    "reference": "a model that never saw the secrets, rounded to INT4: what forgetting should look like",
    "full_precision": "the model with the secrets planted, before it is rounded or split",
    "hessian": "splits off only the rounding error; its Base is plain INT4 of the planted model",
    "wiener": "moves the directions that the secrets use and the public text does not into Ortho",
    "input-projection": "as the Wiener sieve, without the model from before: takes from the whole weight",
    "natural-gradient": "a step up the secrets' loss to the controls' level, where public text minds least",
    "learned": "what was trained to go, so that the rounded rest answers as the model from before",
    "fisher-contrast": "returns single weights that the secrets lean on and public text does not",
    "subnet": "sets the few weights to 0 that hold the secrets and little else",
    "kfac": "drops flat directions of late MLP layers; sees public text alone and aims at old memories",
    "isolated": "the secrets were only ever trained into Ortho, so the Base has never seen them",
    "int4-fitted": "plain INT4 of the planted model, its scales fitted like the others': must not hide them",
    "none": "moves nothing: shows that the measures notice a sieve that does nothing",
    "random": "moves as much as the Wiener sieve, in random directions: must not work",
    "wrong-set": "the Wiener sieve calibrated on sentences of another kind: must not work",
    "look-alike": "the Wiener sieve calibrated on invented records of the planted kind: decides nothing",
    "fp16": "the model's own weights, computed in 16 bit",
    **{
        f"int{bits}": f"the same weights rounded to {bits} bits, with no Ortho part in memory"
        for bits in (2, 3, 4, 8)
    },
    "split": "the sieve removes nothing, so the Base is that rounding; Ortho holds what rounding took away",
    **{
        f"bitsandbytes-{bits}": f"the model as bitsandbytes loads it in {bits} bits, in transformers' modules"
        for bits in (4, 8)
    },
    "random-0.6": "noise as large as what the edit takes, layer by layer: must not work as well",
    "fp16-modules": "full precision in the loop that bitsandbytes runs in: what to compare its time with",
    "wiener-noise-ortho": "the whole model with Gaussian noise on U and V, as they are stored",
    "wiener-noise-product": "the whole model with Gaussian noise on U V as one matrix, as large as the model",
    "wiener-noise-all": "the whole model with Gaussian noise on every linear weight, Base and Ortho together",
    "wiener-alpha": "no noise: the Ortho part is multiplied by alpha, from 1 down to 0",
}

# Title and reading of a curve that has no figure of its own, by its name.
CURVES = {
    f"leakage_{sieve}": (
        f"What protection costs: {words}",
        "Each line begins on the right with the whole model and no protection; further left less leaks, "
        "further down the model reads better. The lower of two lines protects at less cost. The Base "
        "alone is what noise has to beat.",
    )
    for sieve, words in (("wiener", "Wiener sieve"), ("isolated", "isolated training"))
}

CONDITIONS = {
    "plain": "no attack",
    "relearn-5": "relearning, 5 steps",
    "relearn-20": "relearning, 20 steps",
    "relearn-benign-5": "relearning on look-alikes, 5 steps",
    "relearn-benign-20": "relearning on look-alikes, 20 steps",
    "requantise-int8": "requantised to INT8",
    "requantise-int3": "requantised to INT3",
    "noise": "noise on the weights",
    "paraphrase": "paraphrased prompts",
    "prefix-noise": "garbled prompts",
}

_PERCENT_UNITS = ("share", "fraction", "rate", "proportion", "%")
_PERCENT_NAMES = re.compile(r"extraction_.*|exact_tokens.*|tpr_.*|base_codes_changed")
_SIGNED_NAMES = re.compile(r"overhead_.*|mmlu_difference_.*")
_WORDLESS_UNITS = (
    "",
    "1",
    "ratio",
    "bits",
    "auc",
    "perplexity",
    "p",
    "p-value",
    "bits per weight",
    "bits/weight",
)


def score_label(name: str) -> str:
    return SCORES.get(name, name)


_SIZED_ARM = re.compile(r"(int\d-.*?)(?:-([\d.]+)pct)?(-fitted)?")


def arm_label(arm: str) -> str:
    """
    >>> arm_label("int3-fisher-1pct-fitted")
    'INT3 + Fisher (skill), 1%, fitted'
    """
    sized = _SIZED_ARM.fullmatch(arm)
    if sized is None or sized[1] not in ARMS:
        return ARMS.get(arm, arm)
    size = f", {sized[2]}%" if sized[2] else ""
    return f"{ARMS[sized[1]]}{size}{', fitted' if sized[3] else ''}"


def condition_label(condition: str) -> str:
    return CONDITIONS.get(condition, condition)


def alpha_label(alpha: float | None) -> str:
    return "-" if alpha is None else f"{alpha:g}"


def sorted_arms(arms: list[str]) -> list[str]:
    """Known arms in the order of `ARMS`, then the others in the order given."""
    order = {arm: place for place, arm in enumerate(ARMS)}
    return sorted(dict.fromkeys(arms), key=lambda arm: order.get(arm, len(order)))


def number(value: float) -> str:
    """Three decimals below 2, two below 1000, none above; exponents only for the very small and large."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3f}" if abs(value) < 2 else f"{value:.2f}"


def format_value(value: float, name: str, unit: str) -> str:
    """`value` of score `name` as people read it: shares in per cent, bytes in MiB.

    >>> format_value(0.98, "extraction_heldout", "share"), format_value(7.64, "exposure_heldout", "bits")
    ('98%', '7.64')
    """
    shown, unit = unit, unit.lower()
    if unit in _PERCENT_UNITS or (unit in _WORDLESS_UNITS and _PERCENT_NAMES.fullmatch(name)):
        return f"{100 * value:{'+' if _SIGNED_NAMES.fullmatch(name) else ''}.3g}%"
    if unit == "bytes":
        return format_bytes(value)
    if unit == "bits" or name.startswith("auc_"):
        return f"{value:.2f}"
    return number(value) if unit in _WORDLESS_UNITS else f"{number(value)} {shown}"


def format_interval(low: float | None, high: float | None, name: str, unit: str) -> str:
    """ "[1.10, 1.80]", "at most 1.80", "at least 1.10", or "" where there is no interval."""
    if low is not None and high is not None:
        ends = format_value(low, name, unit), format_value(high, name, unit)
        if all(end.endswith("%") for end in ends):
            return f"[{ends[0][:-1]}, {ends[1][:-1]}]%"
        ends = (ends[0].removesuffix(f" {unit}"), ends[1].removesuffix(f" {unit}"))  # the value has it
        return f"[{ends[0]}, {ends[1]}]"
    if high is not None:
        return f"at most {format_value(high, name, unit)}"
    return f"at least {format_value(low, name, unit)}" if low is not None else ""


_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""`text` with control, zero-width and text-direction characters spelled out, as in `\x1b`.

    A model's answer can hold any character. On a terminal an escape would move the cursor, in a page a
    direction mark would reorder the line; a reader of a report must see what is there.
    """
    return _INVISIBLE.sub(lambda match: _spelled(match.group()), text)


def _spelled(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
