"""Which measures stand beside one another in the first table of an experiment that compares arms."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ArmTable:
    """`columns` are (header, score's name); arms in `without` have no row."""

    title: str
    columns: tuple[tuple[str, str], ...]
    caption: str
    without: tuple[str, ...] = ()


ARM_TABLES = {
    "null-test": ArmTable(
        title="What the split costs when it removes nothing",
        columns=(
            ("Perplexity", "perplexity"),
            ("/ full precision", "ppl_ratio_full"),
            ("/ plain INT4", "ppl_ratio_int4"),
            ("MMLU", "mmlu"),
            ("MMLU less INT4's", "mmlu_difference_int4"),
            ("Loss taken back", "loss_recovered"),
        ),
        caption="Small: 95% intervals; ratios and differences are paired, window by window and question by "
        "question. MMLU's floor is 25%: four choices. Loss taken back: of what rounding added to the "
        "text's surprise, the share that Ortho takes away again.",
    ),
    "saving-genius": ArmTable(
        title="What each model still can do",
        columns=(
            ("Right answers", "accuracy"),
            ("of full precision's", "accuracy_kept"),
            ("McNemar's p", "accuracy_mcnemar_p_full"),
            ("Perplexity", "perplexity"),
            ("Ortho size", "ortho_bytes"),
        ),
        caption="Small: 95% intervals; what is kept of full precision's right answers is paired, question by "
        "question. The last number in a name is the share of weights that Ortho holds; a fitted Ortho was "
        "trained on other questions of the same kind, the others hold what rounding took away.",
    ),
    "performance": ArmTable(
        title="One token at a time",
        columns=(
            ("Time a token", "latency"),
            ("above INT4's", "overhead_int4"),
            ("Tokens/s", "tokens_per_second"),
            ("Memory read", "achieved_bandwidth"),
            ("of a copy's", "roofline_share"),
            ("Prompt tokens/s", "prefill_tokens_per_second"),
            ("Energy", "energy"),
        ),
        caption="Small: 95% intervals over rounds, in which all models take turns; the time above INT4's is "
        "paired within rounds. Memory read: the bytes that a token needs over its time; beside it, as a "
        "share of what copying memory reaches on this machine.",
        without=("machine",),
    ),
    "dual-dp": ArmTable(
        title="What leaks of the whole model and of its Base, and what stated leakages cost",
        columns=(
            ("Leakage", "exposure_gap"),
            ("Extracted", "extraction_heldout"),
            ("Perplexity", "perplexity"),
            ("PPL at 4 bit", "perplexity_at_4_bits"),
            ("at 2 bit", "perplexity_at_2_bits"),
            ("at 1 bit", "perplexity_at_1_bits"),
            ("at 0.5 bit", "perplexity_at_0.5_bits"),
        ),
        caption="Small: 95% intervals. Leakage: exposure of planted secrets above never-planted ones, in "
        "bits. Perplexity at a leakage: read off each curve, made monotone, where it crosses that leakage; "
        '"at least" alone: too many resamples never fall so low. '
        "No differential privacy is claimed: there is no epsilon here, only what was measured.",
    ),
    "audit": ArmTable(
        title="What is known of your records",
        columns=(
            ("Recited", "recited"),
            ("Tokens right", "exact_tokens"),
            ("Own value told (AUC)", "auc_own_value"),
            ("Exposure", "exposure_own_value"),
            ("by chance", "exposure_chance"),
            ("at most", "exposure_most"),
        ),
        caption="Small: 95% intervals over records. AUC: how often a record's own value is preferred to "
        "another record's; 0.50 is chance. Exposure in bits, among the other records' values.",
    ),
    "recitation": ArmTable(
        title="What is still known by heart, and how well each model reads",
        columns=(
            ("Memorised recited", "recited_memorised"),
            ("gone, of INT4's", "recitation_fall_int4"),
            ("Right tokens, memorised", "right_tokens_memorised"),
            ("fresh", "right_tokens_fresh"),
            ("Perplexity", "perplexity"),
            ("/ plain INT4", "ppl_ratio_int4"),
            ("Ortho, bits a weight", "ortho_bits_per_weight"),
        ),
        caption="Small: 95% intervals. Recited: every token of the second half of a memorised passage is "
        "the likeliest; passages are chosen as memorised by their first half, in full precision. Fresh "
        "passages were written for this project: their right tokens are what the language gives away.",
    ),
}
