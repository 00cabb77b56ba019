from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake_result import fake_result, score

from sixgig.report.html import render_html, write_report
from sixgig.report.schema import Example, Verdict
from sixgig.report.story import synthetic_sources, tell

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Tags and visible text of a page; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render_html(fake_result()))


def test_the_page_loads_nothing_and_runs_nothing(page: Page) -> None:
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert not {"script", "link", "img", "iframe", "object", "form", "a"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "href", "action") or (value or "").startswith("#")
            assert not name.startswith("xlink:href") or (value or "").startswith("#")


def test_styles_ask_for_nothing_from_outside() -> None:
    style = re.findall(r"<style>(.*?)</style>", render_html(fake_result()), flags=re.DOTALL)
    assert len(style) == 1
    assert not re.search(r"@import|url\(", style[0])
    assert "prefers-color-scheme: dark" in style[0]
    assert "@media print" in style[0]


def test_ids_are_unique_on_the_page(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 10


def test_everything_a_reader_needs_is_there(page: Page) -> None:
    for words in (
        "Cannot tell yet: nothing failed, but for 1 of 3 criteria the sample is too small.",
        "invented-corpus is synthetic",
        "an invented warning",
        "needs n = 200",
        "1.50",
        "[1.15, 1.85]",
        "a_new_measure",
        "secrets look like secrets the model never saw",  # how to read the figure
        "TOST",
        "1 min 16 s",
        "extraction_rate_alpha1",
        "num_heldout: 64",
    ):
        assert words in page.text


def test_five_examples_with_both_answers_and_the_secret_marked(page: Page) -> None:
    assert sum(tag == "article" for tag, _ in page.tags) == 5
    assert sum(tag == "mark" for tag, _ in page.tags) == 5
    assert page.text.count("alpha=1: tells the secret") == 5
    assert page.text.count("not known to me.") == 5


def test_a_real_corpus_raises_no_red_notice() -> None:
    provenance = {"data_sources": [{"name": "wikitext", "synthetic": False}]}
    assert 'role="alert"' not in render_html(fake_result(provenance=provenance))


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}\x1b[31m\x00\u202e</pre></style>"


def test_hostile_strings_everywhere_stay_text() -> None:
    example = Example(
        prompt=HOSTILE,
        secret=HOSTILE,
        family=HOSTILE,
        group=HOSTILE,
        answers={HOSTILE: HOSTILE, "alpha=0": "x"},
    )
    verdict = Verdict(
        criterion=HOSTILE, arm=HOSTILE, threshold=HOSTILE, value=1.0, passed=False, note=HOSTILE
    )
    text = render_html(
        fake_result(
            experiment=HOSTILE,
            config={HOSTILE: HOSTILE},
            provenance={"data": [{"name": HOSTILE, "synthetic": True}]},
            plan={HOSTILE: [HOSTILE]},
            timings={HOSTILE: 1.0},
            scores=[
                score("exposure_heldout", HOSTILE, alpha, 1.0, unit=HOSTILE, note=HOSTILE)
                for alpha in (0.0, 1.0)
            ],
            verdicts=[verdict],
            warnings=[HOSTILE],
            examples=[example],
        )
    )
    page = Page(text)
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert "{{ 7*7 }}" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", text)
    assert "\\x1b[31m" in page.text


def test_a_secret_of_blanks_marks_nothing() -> None:
    example = Example(prompt="p", secret="  ", family="f", group="g", answers={"alpha=1": "a b c"})
    assert "<mark>" not in render_html(fake_result(examples=[example]))


def test_an_empty_result_still_makes_a_page() -> None:
    empty = fake_result(
        scores=[], verdicts=[], curves=[], examples=[], warnings=[], timings={}, exp1_kill_switch=None
    )
    page = Page(render_html(empty))
    assert "Cannot tell: this run set no criteria." in page.text
    assert page.text.count("Left out.") == 5


def test_an_interrupted_run_says_so() -> None:
    text = Page(render_html(fake_result(status="interrupted"))).text
    assert "Cannot tell: the run was interrupted" in text
    assert "This run is interrupted" in text


def test_the_report_written_twice_is_the_same_bytes(tmp_path: Path) -> None:
    page = write_report(fake_result(), tmp_path)
    first = page.read_bytes()
    assert write_report(fake_result(), tmp_path).read_bytes() == first
    assert (tmp_path / "figures" / "overview.png").exists()


def _verdict(
    passed: bool | None, counts: bool = True, value: float | None = 0.1, needed_n: int | None = None
) -> Verdict:
    return Verdict(
        criterion="c",
        arm="wiener",
        threshold="t",
        value=value,
        passed=passed,
        counts=counts,
        needed_n=needed_n,
    )


@pytest.mark.parametrize(
    ("marks", "headline"),
    [
        ([True], "Yes: the one criterion fixed before the run was met."),
        ([True, True], "Yes: all 2 criteria fixed before the run were met."),
        ([True, False], "No: 1 of 2 criteria was not met (Wiener sieve: c)."),
        ([False, None, False], "No: 2 of 3 criteria were not met (Wiener sieve: c; Wiener sieve: c)."),
        ([None, True], "Cannot tell yet: nothing failed, but for 1 of 2 criteria the sample is too small."),
    ],
)
def test_the_first_sentence_says_yes_no_or_cannot_tell(marks: list[bool | None], headline: str) -> None:
    story = tell(fake_result(verdicts=[_verdict(mark) for mark in marks]))
    assert story.headline == headline
    assert headline.lower().startswith(story.answer)


@pytest.mark.parametrize(
    ("verdicts", "headline"),
    [
        (
            [_verdict(True), _verdict(None, value=None)],
            "Cannot tell yet: nothing failed, but 1 of 2 criteria was not measured.",
        ),
        (
            [_verdict(None), _verdict(None, value=None), _verdict(None, value=None)],
            "Cannot tell yet: nothing failed, but for 1 of 3 criteria the sample is too small, and 2 of 3 "
            "criteria were not measured.",
        ),
        (
            [_verdict(False), _verdict(None, value=None)],
            "No: 1 of 2 criteria was not met (Wiener sieve: c).",
        ),
    ],
)
def test_what_was_not_measured_is_open_but_no_matter_of_the_sample(
    verdicts: list[Verdict], headline: str
) -> None:
    assert tell(fake_result(verdicts=verdicts)).headline == headline


def test_no_sample_is_promised_to_decide_what_it_cannot() -> None:
    def last(*verdicts: Verdict) -> str:
        return tell(fake_result(verdicts=list(verdicts))).findings[-1]

    sized = _verdict(None, needed_n=300)
    assert last(sized) == "To decide what is open, a sample of about 300 would do."
    for other in (_verdict(None), _verdict(None, value=None)):
        assert last(sized, other) == "To decide what a larger sample can, a sample of about 300 would do."
        assert "sample" not in last(other)


def test_a_comparison_that_fails_does_not_turn_the_answer() -> None:
    assert tell(fake_result(verdicts=[_verdict(True), _verdict(False, counts=False)])).answer == "yes"


def test_findings_speak_of_the_judged_sieve_and_of_rounding_alone() -> None:
    findings = " ".join(tell(fake_result()).findings)
    assert "Wiener sieve: with the switch on the model recites 98% (96% to 100%)" in findings
    assert "exposure 5.60 (5.25 to 5.95) bits" in findings
    assert "about 200" in findings


def test_synthetic_sources_are_found_wherever_they_stand() -> None:
    provenance = {
        "a": {"corpus": {"synthetic": True}},
        "b": [{"name": "n", "synthetic": True}, {"synthetic": False}],
    }
    assert synthetic_sources(provenance) == ["corpus", "n"]
