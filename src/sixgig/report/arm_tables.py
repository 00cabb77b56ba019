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
        "bits. Perplexity at a leakage: read off each curve, made monotone, where it crosses that leakage. "
        "No differential privacy is claimed: there is no epsilon here, only what was measured.",
    ),
}
