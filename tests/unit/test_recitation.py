"""Recitation: passages, scores on invented looks, and a tiny model with a stand-in sieve from end to end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from other_data import assert_other_data_is_refused
from tiny_model import tiny_folder
from torch import Tensor

from sixgig.cli.main import run
from sixgig.data.recitation import Passage, load_passages
from sixgig.errors import InputError, IntegrityError, UnknownNameError
from sixgig.evaluate.recitation import recite
from sixgig.experiments import known, recitation
from sixgig.experiments.recitation_config import RecitationConfig
from sixgig.experiments.recitation_scores import Look, RecitationScores
from sixgig.load.loaded import load
from sixgig.report.html import render_html
from sixgig.report.schema import Result, Verdict
from sixgig.transform.sieve import SIEVES, Evidence, InputStatistics
from sixgig.transform.sieve.matched import MatchedNoise, Remembered

# ---- passages ----------------------------------------------------------------------------------------


def test_both_files_hold_enough_passages_of_the_same_kinds() -> None:
    known, fresh = load_passages("known"), load_passages("fresh")
    assert len(known.items) >= 90
    assert len(fresh.items) >= 80
    assert {one.kind for one in known.items} == {one.kind for one in fresh.items}
    assert all(one.source == "written for this project" for one in fresh.items)
    texts = [one.text for one in (*known.items, *fresh.items)]
    assert len(set(texts)) == len(texts)


def test_no_fresh_passage_shares_six_words_in_a_row_with_a_known_one() -> None:
    def runs(one: Passage) -> set[tuple[str, ...]]:
        words = one.text.lower().split()
        return {tuple(words[i : i + 6]) for i in range(len(words) - 5)}

    known = set().union(*(runs(one) for one in load_passages("known").items))
    shared = {one.id: runs(one) & known for one in load_passages("fresh").items}
    assert not {name: found for name, found in shared.items() if found}


def test_a_file_out_of_form_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sixgig.data.recitation._FOLDER", tmp_path)
    for content in ("# a | b\ntext\n", "# a | b | c\n\n", "", "# a | b | c\ntext\n\n# a | b | c\nmore\n"):
        (tmp_path / "recitation_known.txt").write_text(content)
        with pytest.raises(IntegrityError):
            load_passages("known")


# ---- scores ------------------------------------------------------------------------------------------

LENGTH, KNOWN, FRESH = 8, 60, 40
FULL, PLAIN, EDIT, NULL = ("fp16", None), ("int4", None), ("kfac-0.6", 0.0), ("random-0.6", 0.0)
WHOLE, OTHER = ("kfac-0.6", 1.0), ("kfac-0.9", 0.0)


def look(recited: float, *, first: float = 0.8, nats: float = 3.0, fresh_right: float = 0.3) -> Look:
    """The first `recited` of the known passages right to the end; `first` of them right in the first half."""
    rng = np.random.default_rng(0)
    hits = (rng.random((KNOWN + FRESH, LENGTH)) < fresh_right).astype(float)
    hits[:, -1] = 0
    hits[:KNOWN, : LENGTH // 2] = (np.arange(KNOWN) < round(first * KNOWN))[:, None]
    hits[: round(recited * KNOWN), LENGTH // 2 :] = 1
    windows = (nats + rng.normal(0, 0.2, 20)) * 63
    return Look(hits=hits, nlls=np.where(hits > 0, 0.1, 4.0), window_nlls=windows)


def scorer(**changed: Look) -> RecitationScores:
    looks = {
        FULL: look(0.75, nats=2.9),
        PLAIN: look(0.7),
        EDIT: look(0.05, nats=3.08),
        OTHER: look(0.6, nats=3.02),
        NULL: look(0.65, nats=3.05),
        WHOLE: look(0.7, nats=2.95),
    }
    keys = {"full": FULL, "plain": PLAIN, "edit": EDIT, "null": NULL, "whole": WHOLE}
    looks |= {keys[name]: value for name, value in changed.items()}
    return RecitationScores(
        looks=looks,
        is_known=np.arange(KNOWN + FRESH) < KNOWN,
        memorised_share=0.75,
        window_tokens=63,
        edited=EDIT,
        null=NULL,
        plain=PLAIN,
        restored=WHOLE,
        others=[OTHER],
        facts={"kfac-0.6": {"base_codes_changed": 0.1, "ortho_bits_per_weight": 0.4}},
    )


def judged(one: RecitationScores) -> dict[tuple[str, str, bool], Verdict]:
    return {(v.criterion, v.arm, v.counts): v for v in one.verdicts()}


FALLS = "the Base recites less of what the model knows by heart"
SPEAKS = "the Base still speaks"
NOISE = "noise of the same size does not do as well"
BACK = "alpha=1 gives the recitation back"
MEMORY = "memorised passages lose more than fresh ones"


def test_an_edit_that_does_what_the_paper_says_passes_everything() -> None:
    found = judged(scorer())
    assert all(verdict.passed for (_, _, counts), verdict in found.items() if counts)
    assert found[FALLS, "kfac-0.6", True].value == pytest.approx(1 - 3 / 42)
    assert found[FALLS, "kfac-0.9", False].passed is False
    assert found[SPEAKS, "kfac-0.9", False].passed is True
    assert all(verdict.note.startswith("n = ") for verdict in found.values())


@pytest.mark.parametrize(
    ("changed", "criterion", "arm"),
    [
        ({"edit": look(0.65, nats=3.08)}, FALLS, "kfac-0.6"),
        ({"edit": look(0.05, nats=3.4)}, SPEAKS, "kfac-0.6"),
        ({"edit": look(0.3, nats=3.08), "null": look(0.03, nats=3.05)}, NOISE, "random-0.6"),
        ({"whole": look(0.2)}, BACK, "kfac-0.6"),
    ],
)
def test_each_criterion_can_fail(changed: dict[str, Look], criterion: str, arm: str) -> None:
    found = judged(scorer(**changed))
    assert found[criterion, arm, True].passed is False


def test_an_edit_that_breaks_all_text_alike_is_no_forgetting() -> None:
    plain = look(0.7)
    hits = plain.hits.copy()
    hits[:, LENGTH // 2 :] = 1  # every passage to the end, fresh ones too
    lost = hits * (np.random.default_rng(1).random(hits.shape) < 0.1)
    windows = look(0.7, nats=3.08).window_nlls
    found = judged(
        scorer(
            plain=Look(hits=hits, nlls=plain.nlls, window_nlls=plain.window_nlls),
            edit=Look(hits=lost, nlls=plain.nlls, window_nlls=windows),
        )
    )
    assert found[FALLS, "kfac-0.6", True].passed is True
    assert found[MEMORY, "kfac-0.6", True].passed is not True


def test_passages_are_chosen_by_the_first_half_and_judged_by_the_second() -> None:
    one = scorer(full=look(0.0, first=0.5))
    assert one.memorised.sum() == KNOWN // 2
    one = scorer(full=look(1.0, first=0.0))
    assert not one.memorised.any()
    found = judged(one)
    assert found[FALLS, "kfac-0.6", True].passed is None
    assert "take a larger model" in found[FALLS, "kfac-0.6", True].threshold
    assert found[SPEAKS, "kfac-0.6", True].passed is True
    names = {score.name for score in one.all()}
    assert "recited_memorised" not in names
    assert "right_tokens_fresh" in names


def test_a_model_that_recites_nothing_has_nothing_to_lose() -> None:
    all_found = judged(scorer(plain=look(0.0), edit=look(0.0, nats=3.08), null=look(0.0)))
    for criterion, arm in ((FALLS, "kfac-0.6"), (NOISE, "random-0.6"), (BACK, "kfac-0.6")):
        found = all_found[criterion, arm, True]
        assert (found.passed, found.value) == (None, None)
        assert "recites none of these passages" in found.threshold


def test_too_few_passages_say_how_many_would_do() -> None:
    small = scorer(full=look(0.75, first=5 / 60), plain=look(0.7), edit=look(2 / 60, nats=3.08))
    found = judged(small)[FALLS, "kfac-0.6", True]
    assert found.value == pytest.approx(0.6)
    assert found.passed is None
    assert found.needed_n is not None
    assert found.needed_n > 5


def test_two_recited_passages_decide_nothing_however_alike_they_fare() -> None:
    few = {"plain": look(2 / 60), "null": look(2 / 60), "whole": look(2 / 60)}
    found = judged(scorer(**few, edit=look(0.0, nats=3.08)))
    falls = found[FALLS, "kfac-0.6", True]
    assert (falls.value, falls.passed, falls.note) == (1.0, None, "n = 2")
    assert falls.low == pytest.approx(0.025**0.5)  # closed form: 2 of 2
    assert found[NOISE, "random-0.6", True].passed is None
    assert found[BACK, "kfac-0.6", True].passed is None


def test_passages_recited_anew_do_not_make_up_for_those_that_are_gone() -> None:
    plain = look(0.3)
    hits = plain.hits.copy()
    hits[:18, LENGTH // 2 :], hits[18:36, LENGTH // 2 :] = 0, 1  # as many as before, and none of them
    edit = Look(hits=hits, nlls=plain.nlls, window_nlls=look(0.3, nats=3.08).window_nlls)
    found = judged(scorer(plain=plain, edit=edit))[FALLS, "kfac-0.6", True]
    assert (found.value, found.passed, found.note) == (1.0, True, "n = 18")


def test_a_null_that_recites_as_little_is_no_difference_seen() -> None:
    found = judged(scorer(null=look(0.05)))[NOISE, "random-0.6", True]
    assert (found.value, found.passed) == (0.0, None)
    assert found.low is not None
    assert found.low == pytest.approx(-(found.high or 0.0))
    assert found.low < 0


def test_chosen_by_chance_is_counted_on_fresh_passages() -> None:
    scores = {(s.name, s.arm, s.alpha): s for s in scorer().all()}
    chance = scores["chosen_by_chance_share", "fp16", None]
    assert chance.n == FRESH
    assert 0 <= (chance.value or 0.0) < 0.5
    assert scores["recited_memorised", "int4", None].value == pytest.approx(42 / 48)
    assert scores["ppl_ratio_int4", "kfac-0.6", 0.0].value == pytest.approx(np.exp(0.08), rel=1e-6)


# ---- looking, the null, refusals ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """Keeps the largest `share` of a weight's entries: as label-free as the K-FAC edit, and quick."""

    share: float = 0.6

    name: ClassVar[str] = "kfac"
    claim: ClassVar[str] = "reduces recitation"
    needs_private: ClassVar[bool] = False
    needs_before: ClassVar[bool] = False
    keeps_before: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    searches: ClassVar[bool] = False

    def removed(self, evidence: Evidence) -> Tensor:
        weight_OI = evidence.weight_OI
        bound = weight_OI.abs().flatten().quantile(1 - self.share)
        return torch.where(weight_OI.abs() < bound, weight_OI, torch.zeros_like(weight_OI))

    def residual_score(self, residual_OI: Tensor, statistics: InputStatistics) -> Tensor | None:
        return None


def evidence_of(name: str, weight_OI: Tensor) -> Evidence:
    moments_II = torch.eye(weight_OI.shape[1])
    return Evidence(
        name=name,
        weight_OI=weight_OI,
        before_OI=None,
        statistics=InputStatistics(name=name, public_II=moments_II, private_II=None),
        generator=torch.Generator().manual_seed(0),
    )


def test_the_null_is_as_large_as_its_opponent_layer_by_layer_and_not_alike() -> None:
    opponent = Remembered(StandIn(share=0.5))
    assert (opponent.name, opponent.claim) == ("kfac", "reduces recitation")
    null = MatchedNoise(opponent=opponent)
    for name, scale in (("a", 1.0), ("b", 7.0)):
        one = evidence_of(name, scale * torch.randn(12, 20, generator=torch.Generator().manual_seed(3)))
        with pytest.raises(InputError, match="before"):
            null.removed(one)
        theirs = opponent.removed(one)
        ours = null.removed(one)
        assert float(ours.norm()) == pytest.approx(float(theirs.norm()), rel=1e-5)
        assert abs(float((ours * theirs).sum())) < 0.5 * float(theirs.norm()) ** 2
    zero = evidence_of("c", torch.zeros(4, 6))
    assert not opponent.removed(zero).any()
    assert not null.removed(zero).any()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


def test_reciting_is_greedy_decoding(tiny: Path) -> None:
    loaded = load(tiny)
    prefix = loaded.encode("Once upon")
    grown = list(prefix)
    for _ in range(6):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            grown.append(int(loaded.network(torch.tensor([grown])).logits[0, -1].argmax()))
    own = grown[len(prefix) :]
    other = [(token + 1) % 200 for token in own[:3]] + own[3:]
    found = recite(loaded, [(prefix, own), (prefix, other)])
    assert all(found[0].hits)
    assert not any(found[1].hits[:1])
    assert all(nll > 0 for nll in found[0].nlls)
    assert sum(found[0].nlls) < sum(found[1].nlls)


def test_a_sieve_that_must_be_told_what_to_forget_is_refused() -> None:
    for name in ("wiener", "none"):
        with pytest.raises(InputError, match="recitation"):
            recitation.sieve_keeping(name, 0.5)
    with pytest.raises(UnknownNameError):
        recitation.sieve_keeping("kfacc", 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judged_share": 0.7}, "judged_share must be one of shares"),
        ({"shares": (0.6, 0.0)}, "shares must be above 0"),
        ({"shares": (0.6, 0.6)}, "more than once"),
        ({"continuation_tokens": 31}, "must be even"),
        ({"memorised_share": 0.0}, "memorised_share must be above 0"),
        ({"num_fresh": 1}, "num_fresh must be at least 2"),
        ({"bits": 5}, "bits must be"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RecitationConfig(**changes)


# ---- a whole run -------------------------------------------------------------------------------------

SETTINGS = {
    "num_known": 8,
    "num_fresh": 6,
    "prefix_tokens": 8,
    "continuation_tokens": 8,
    "memorised_share": 0.01,
    "group_size": 8,
    "rank": 2,
    "calibration_window": 32,
    "num_calibration_windows": 2,
    "train_window": 32,
    "fit_steps": 2,
    "fit_windows_per_step": 1,
    "test_window": 64,
    "num_test_windows": 4,
}


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SIXGIG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SIXGIG_DATA", raising=False)
    assert "recitation" in known.EXPERIMENTS  # imported before the stand-in is among the sieves
    monkeypatch.setitem(SIEVES, "kfac", StandIn)
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def arguments(tiny: Path, out: Path, *more: str) -> list[str]:
    words = [part for key, value in SETTINGS.items() for part in ("-s", f"{key}={json.dumps(value)}")]
    places = ["--model", str(tiny), "--device", "cpu", "--out", str(out)]
    return ["run", "recitation", "--preset", "tiny", *places, *words, *more]


def result_of(out: Path) -> tuple[Path, Result]:
    (folder,) = out.iterdir()
    return folder, Result.read(folder / "result.json")


@pytest.mark.usefixtures("alone")
def test_a_run_ends_with_a_page_and_resumes_to_the_same_numbers(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = ("-s", "shares=0.9,0.6")
    assert run(arguments(tiny, tmp_path / "whole", *shares)) in (0, 1)
    looked, calls = recitation.recite, []

    def interrupted(*given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return looked(*given, **named)

    monkeypatch.setattr(recitation, "recite", interrupted)
    assert run(arguments(tiny, tmp_path / "cut", *shares)) == 130
    monkeypatch.setattr(recitation, "recite", looked)
    (folder,) = (tmp_path / "cut").iterdir()
    again = arguments(tiny, tmp_path / "cut", *shares, "--resume")
    assert_other_data_is_refused(folder, lambda: run(again))
    assert run(arguments(tiny, tmp_path / "cut", *shares, "--resume")) in (0, 1)
    (one, ours), (other, theirs) = result_of(tmp_path / "cut"), result_of(tmp_path / "whole")
    assert (ours.scores, ours.verdicts) == (theirs.scores, theirs.verdicts)
    assert (one / "samples.jsonl").read_bytes() == (other / "samples.jsonl").read_bytes()
    arms = {(score.arm, score.alpha) for score in ours.scores if score.name == "perplexity"}
    assert arms == {
        ("fp16", None),
        ("int4", None),
        ("kfac-0.9", 0.0),
        ("kfac-0.6", 0.0),
        ("random-0.6", 0.0),
        ("kfac-0.6", 1.0),
    }
    assert "What is still known by heart" in render_html(ours)
    rows = [json.loads(line) for line in (one / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 6 * 14


@pytest.mark.usefixtures("alone")
def test_an_unknown_sieve_is_said_before_anything_is_loaded(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(tiny, tmp_path / "out", "-s", "sieve=kfacc")) == 2
    assert "kfacc" in capsys.readouterr().err
