"""The result in plain words: what was asked, the answer in one sentence, and what stands behind it.

Every sentence is made from verdicts and scores in the result. Where they do not decide, the answer is that
one cannot tell: a sample that is too small is never reported as a success.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from .audit_words import audit_words, not_shown
from .chance import chance_bits
from .could_see import SHARE_SEEN
from .labels import ARM_NOTES, arm_label, format_value, sorted_arms
from .schema import Result, Score, Verdict
from .tables import verdict_unit

QUESTIONS = {
    "kill-switch": "Secrets were planted in a language model, and its weights were then split into two "
    "parts: a Base to publish and an Ortho part to keep back. A switch, alpha, adds Ortho in."
    " With alpha at 0, are the secrets really gone? With alpha at 1, are they back? And does "
    "the model still speak?",
    "null-test": "A split cuts each layer into a Base and an Ortho part, and a switch, alpha, adds Ortho "
    "in. Here nothing was removed: the Base is the model rounded to few bits, and Ortho holds what rounding "
    "took away. With alpha at 0, is that the plainly rounded model, to the last bit? And with alpha at 1, "
    "how much of rounding's loss comes back?",
    "saving-genius": "A skill was planted in a language model, or was there already, and the model was then "
    "rounded so hard that the skill suffers. A few of its weights were kept whole beside the rounded Base, "
    "as an Ortho part. Does the skill survive, where those weights are chosen by what matters to it? And "
    "where as many are drawn at random?",
    "recitation": "Models recite well-known texts word for word. A sieve that is told of no text at all "
    "takes out of some layers what ordinary text hardly needs. Is the recitation gone from the Base, does "
    "the model still speak, and does noise of the same size do as well? (Of secrets planted a moment ago "
    "this says nothing: there such a sieve is expected to fail, and the kill switch asks.)",
    "performance": "A split model can be run with its switch off and on. With alpha at 0, does it take "
    "longer than the same model rounded and never split? What does Ortho cost at 1? And how near do all of "
    "them come to the speed of this machine's memory?",
    "eval": "lm-eval's own tasks, asked of one model at one alpha. How well does it do, how sure is that, "
    "and is it more than guessing?",
    "dual-dp": "Secrets were planted in a language model, which was split into a Base and an Ortho part. Who "
    "publishes both may add noise to hide the secrets. Does noise on the Ortho part alone cost less than "
    "noise on all weights, when both are made to leak as little? And does it cost less than not publishing "
    "the Ortho part at all? No differential privacy is claimed of either: leakage is measured, not proven.",
    "audit": "A model that saw private texts was split into a Base to publish and an Ortho part to keep back."
    " Does the Base keep those texts to itself, when each is asked for with its own words?",
}

GLOSSARY = {
    "alpha": "The switch. At 1 the model is whole; at 0 only its Base is left. It protects only where "
    "the Ortho part is not there at all: what is published is the Base.",
    "AUC": "How often an attacker who is shown one planted and one never-planted secret picks the "
    "planted one. 0.5 is guessing, 1 is always right.",
    "Base": "The part of every layer that is published, in few bits per weight.",
    "Canary": "A made-up secret, written into the training text on purpose so that a leak can be measured.",
    "Control": "A secret made the same way and never shown to the model.",
    "Exposure": "How far up a planted secret stands among made-up alternatives that the model ranks, in "
    "bits. By chance it is 1.1 (7 of them) to 1.44 (very many); each bit more halves the number of "
    "guesses that an attacker needs.",
    "Extraction": "The share of secrets that the model completes word for word.",
    "Held-out": "Planted secrets that the sieve did not see: they tell whether it learned to remove "
    "secrets or only the ones it was shown.",
    "INT4": "Weights rounded to 4 bits each. Rounding alone hides a memory; it does not remove it.",
    "Interval": "The range that holds the true value in 95 of 100 repetitions of the experiment.",
    "Ortho": "The part of every layer that is kept back, and that alpha adds in.",
    "MMLU": "14,042 questions with four choices each from 57 subjects, after five worked examples. Guessing "
    "gets 25%.",
    "McNemar": "A test of whether two models differ, from the questions that only one of them got right.",
    "Perplexity": "Between how many words, on average, the model hesitates when it reads ordinary text. "
    "Lower is better.",
    "Relearning": "An attack: train the Base a little on other secrets and see whether the hidden ones come"
    " back.",
    "Round": "One turn of every model, so that what disturbs the machine disturbs all of them.",
    "Roofline": "What memory's speed alone would allow: each token needs the weights read once.",
    "Sieve": "The rule that decides what goes into Ortho.",
    "TOST": "Two one-sided tests: shows that two numbers are equal within a margin fixed beforehand. "
    "Not finding a difference is not the same; a small sample never finds one.",
    "TPR at 1% FPR": "The share of planted secrets that an attacker recognises at 1 wrong name in 100.",
}


Answer = Literal["yes", "no", "cannot tell", "measured"]
_ANSWERS: dict[bool | None, Answer] = {True: "yes", False: "no", None: "cannot tell"}
_MEASURES_ALONE = ("eval",)  # what sets no criteria, and so has no answer


@dataclass(frozen=True, kw_only=True)
class Story:
    """`answer` is "yes", "no", "cannot tell" or "measured"; `headline` begins with it; `findings` are
    whole sentences."""

    question: str
    answer: Answer
    headline: str
    findings: tuple[str, ...]
    arm_notes: tuple[tuple[str, str], ...]


def tell(result: Result) -> Story:
    """The story of a result, of any experiment."""
    answer = _ANSWERS[result.passed]
    if result.experiment in _MEASURES_ALONE and result.status == "complete":
        answer = "measured"
    standard = f"The experiment {result.experiment}, against the criteria below."
    return Story(
        question=QUESTIONS.get(result.experiment, standard),
        answer=answer,
        headline=_headline(result),
        findings=tuple(_findings(result)),
        arm_notes=tuple(
            (arm_label(arm), ARM_NOTES[arm]) for arm in sorted_arms(result.arms()) if arm in ARM_NOTES
        ),
    )


def _headline(result: Result) -> str:
    counted = [verdict for verdict in result.verdicts if verdict.counts]
    failed = [verdict for verdict in counted if verdict.passed is False]
    too_small = [verdict for verdict in counted if verdict.passed is None and verdict.value is not None]
    not_measured = [verdict for verdict in counted if verdict.passed is None and verdict.value is None]
    if failed:
        return f"No: {_share(failed, counted, verb=True)} not met ({_names(failed)})."
    if result.status != "complete":
        words = {"failed": "the run failed", "interrupted": "the run was interrupted"}[result.status]
        return f"Cannot tell: {words} before it was complete."
    if not counted and result.experiment in _MEASURES_ALONE:
        return "Measured: the run judges nothing; what stands above guessing, and what does not, is below."
    if not counted:
        return "Cannot tell: this run set no criteria."
    open_ones = [f"for {_share(too_small, counted)} the sample is too small"] if too_small else []
    open_ones += [f"{_share(not_measured, counted, verb=True)} not measured"] if not_measured else []
    if open_ones:
        return f"Cannot tell yet: nothing failed, but {', and '.join(open_ones)}."
    words = "the one criterion" if len(counted) == 1 else f"all {len(counted)} criteria"
    return f"Yes: {words} fixed before the run {'was' if len(counted) == 1 else 'were'} met."


def _share(some: list[Verdict], counted: list[Verdict], *, verb: bool = False) -> str:
    words = f"{len(some)} of {len(counted)} criteria"
    return f"{words} {'was' if len(some) == 1 else 'were'}" if verb else words


def _names(verdicts: list[Verdict]) -> str:
    names = [f"{arm_label(verdict.arm)}: {verdict.criterion}" for verdict in verdicts]
    return "; ".join(names[:3] + ([f"and {len(names) - 3} more"] if len(names) > 3 else []))


# Arms that a run sets beside the sieve it judges; their figures are in the tables.
_COMPARISONS = (
    *("original", "reference", "full_precision", "hessian", "int4-fitted"),
    *("none", "random", "wrong-set"),
)


def _findings(result: Result) -> list[str]:
    judged = sorted_arms([verdict.arm for verdict in result.verdicts if verdict.counts])
    judged = [arm for arm in judged if arm not in _COMPARISONS] or judged
    subjects = [arm for arm in judged if result.score("exposure_heldout", arm, 0.0) is not None]
    findings = [
        sentence for arm in subjects for sentence in (_recital(result, arm), _ranks(result, arm)) if sentence
    ]
    findings += [_hidden_not_removed(result)] if "hessian" not in subjects else []
    findings += [say(result) for say in _OTHERS.get(result.experiment, ())]
    return [sentence for sentence in (*findings, _needed(result), _could_have_seen(result)) if sentence]


def _known(score: Score | None) -> str | None:
    if score is None or score.value is None:
        return None
    value = format_value(score.value, score.name, score.unit)
    if score.low is None or score.high is None:
        return value
    low, high = (format_value(end, score.name, score.unit) for end in (score.low, score.high))
    return f"{value} ({low} to {high})"


def _recital(result: Result, arm: str) -> str | None:
    whole = _known(result.score("extraction_heldout", arm, 1.0))
    base = _known(result.score("extraction_heldout", arm, 0.0))
    if whole is None or base is None:
        return None
    return (
        f"{arm_label(arm)}: with the switch on the model recites {whole} of the secrets, with it off {base}."
    )


def _ranks(result: Result, arm: str) -> str | None:
    planted = _known(result.score("exposure_heldout", arm, 0.0))
    control = _known(result.score("exposure_control", arm, 0.0))
    if planted is None or control is None:
        return None
    return (
        f"{arm_label(arm)}: with the switch off, planted secrets stand at {planted} bits of exposure, "
        f"secrets that the model never saw at {control}; {chance_bits(result):.2f} is chance."
    )


def _hidden_not_removed(result: Result) -> str | None:
    plain = _known(result.score("exposure_heldout", "hessian", 0.0))
    recited = _known(result.score("extraction_heldout", "hessian", 0.0))
    if plain is None or recited is None:
        return None
    return f"For comparison, merely rounding the model to INT4: {recited} recited, exposure {plain} bits."


def _each(result: Result, name: str, before: str, arms: Collection[str] | None = None) -> str | None:
    """ "Perplexity: full precision (16 bit) 37.2 (29 to 50); plain INT4 ..."; of `arms`, or of all."""
    told = [
        f"{arm_label(score.arm)}{'' if score.alpha is None else f' at alpha {score.alpha:g}'} {_known(score)}"
        for score in result.scores
        if score.name == name and score.value is not None and (arms is None or score.arm in arms)
    ]
    return f"{before}: {'; '.join(told)}." if told else None


def _judged(result: Result) -> set[str]:
    """The arms that decide: of two dozen others a table says more than a sentence."""
    return {verdict.arm for verdict in result.verdicts if verdict.counts}


def _taken_back(result: Result) -> str | None:
    found = result.score("loss_recovered", "split", 1.0)
    size = result.score("ortho_bits_per_weight", "split", None)
    if found is None or found.value is None or size is None or size.value is None:
        return None
    return (
        f"With the switch on, {_known(found)} of what rounding cost is taken back, for {size.value:.2f} bits "
        "a weight more."
    )


def _leaks(result: Result) -> str | None:
    """The whole model and its Base, without noise."""
    gaps = {alpha: _known(result.score("exposure_gap", "wiener", alpha)) for alpha in (1.0, 0.0)}
    if None in gaps.values():
        return None
    return f"Without noise the whole model leaks {gaps[1.0]} bits, its Base alone {gaps[0.0]}."


def _pointless(result: Result) -> str | None:
    """Said where leaving the Ortho part out beats noise on it; verdicts of other experiments never match."""
    against_base = [v for v in result.verdicts if v.criterion.endswith("costs less than leaving it out")]
    if not against_base or against_base[0].passed is not False:
        return None
    base, noise = (
        _known(result.score(name, arm, alpha))
        for name, arm, alpha in (
            ("perplexity", against_base[0].arm.partition("-")[0], 0.0),
            ("perplexity_at_1_bits", against_base[0].arm, None),
        )
    )
    return (
        f"Noise on the Ortho part is pointless here: the Base alone leaks less than 1 bit at perplexity "
        f"{base}, and noise comes down to 1 bit at {noise}."
    )


def _overhead(result: Result) -> str | None:
    off, on = (_known(result.score("overhead_int4", "split", alpha)) for alpha in (0.0, 1.0))
    if off is None or on is None:
        return None
    return (
        f"Time a token, against the rounded model that was never split: {off} with the switch off, {on} on."
    )


_OTHERS: dict[str, tuple[Callable[[Result], str | None], ...]] = {
    "null-test": (
        lambda result: _each(result, "perplexity", "Perplexity"),
        _taken_back,
        lambda result: _each(result, "mmlu", "MMLU, where guessing gives 25%"),
    ),
    "saving-genius": (
        lambda result: _each(result, "accuracy_kept", "Of full precision's right answers", _judged(result)),
    ),
    "dual-dp": (
        lambda result: _leaks(result),
        lambda result: _each(result, "perplexity_at_1_bits", "Perplexity at 1 bit of leakage"),
        lambda result: _pointless(result),
    ),
    "recitation": (
        lambda result: _each(result, "recited_memorised", "Memorised passages recited"),
        lambda result: _each(result, "perplexity", "Perplexity"),
    ),
    "performance": (
        lambda result: _each(result, "latency", "Time a token"),
        _overhead,
        lambda result: _each(result, "roofline_share", "Share of the memory's copy bandwidth"),
    ),
    "audit": (
        lambda result: " ".join(audit_words(result)),
        lambda result: " ".join(not_shown(result)),
    ),
}


def _needed(result: Result) -> str | None:
    undecided = [item for item in result.verdicts if item.counts and item.passed is None]
    sizes = [item.needed_n for item in undecided if item.needed_n]
    if not sizes:
        return None
    what = "what is open" if len(sizes) == len(undecided) else "what a larger sample can"
    return f"To decide {what}, a sample of about {max(sizes):,} would do."


def _could_have_seen(result: Result) -> str | None:
    """What the sample of each verdict that counts would have shown; the table has those that do not."""
    known = [item for item in result.verdicts if item.counts and item.visible_difference is not None]
    known.sort(key=lambda item: item.passed is not None)  # what is open first
    told = [
        f"{item.criterion}, {format_value(item.visible_difference, '', verdict_unit(item))}"
        for item in known[:3]
        if item.visible_difference is not None
    ]
    if not told:
        return None
    rest = f"; and {len(known) - 3} more in the table below" if len(known) > 3 else ""
    return (
        "Smaller differences from the limit than these may be there unseen (a sample like this one shows "
        f"these in {SHARE_SEEN} repetitions): {'; '.join(told)}{rest}."
    )


def synthetic_sources(provenance: Any, name: str = "") -> list[str]:
    """The names of all data sources in `provenance` that say `synthetic: true`, wherever they stand."""
    if isinstance(provenance, dict):
        own = str(provenance.get("name") or provenance.get("source") or name or "the text")
        found = [own] if provenance.get("synthetic") is True else []
        return found + [item for key, value in provenance.items() for item in synthetic_sources(value, key)]
    if isinstance(provenance, list):
        return [item for value in provenance for item in synthetic_sources(value, name)]
    return []
