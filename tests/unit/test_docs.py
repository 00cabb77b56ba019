"""The generator of the documents' tables on fake receipts, and what every document must hold."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from sixgig.cli.verbs import VERBS
from sixgig.errors import InputError, IntegrityError, UnknownNameError

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
# Drawn by the demo; they come with its first receipt, and so does the receipts' folder.
PICTURES = ("docs/images/overview.png", "docs/images/report.png")
WITH_THE_FIRST_RECEIPT = (*PICTURES, "docs/receipts")

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def load_make_docs() -> Any:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "benchmarks" / "make_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_docs"] = module  # dataclasses look their module up here
    spec.loader.exec_module(module)
    return module


sys.path.insert(0, str(ROOT / "benchmarks"))  # where the scripts find each other
make_docs = load_make_docs()
docs_receipts = sys.modules["docs_receipts"]


def figure(name: str, value: float, unit: str, **others: Any) -> dict[str, Any]:
    nothing = {"low": None, "high": None, "n": 1, "target": None, "met": None, "note": ""}
    return {"name": name, "value": value, "unit": unit, **nothing, **others}


FULL_FIGURES = [
    figure("wiener_alpha0_exposure_gap_bits", 0.12, "bits", low=-0.03, high=0.27, n=612, met=True,
           target="90% interval within 0.5 bit"),
    figure("wiener_alpha0_extraction_upper", 0.0104, "share", n=306, target="at most 0.015", met=True),
    figure("wiener_alpha1_ppl_ratio_fp32", 1.153, "ratio", target="at most 1.10", met=False),
    figure("hessian_alpha0_exposure_gap_bits", 5.21, "bits", note="a note | with a bar"),
]  # fmt: skip
CPU_FIGURES = [
    figure("cpu_demo_seconds", 250.0, "s", target="at most 300", met=True),
    figure("cpu_demo_peak_rss_bytes", 2 * 2**30, "bytes", target="at most 3000000000", met=True),
]


def write_receipt(root: Path, area: str, figures: list[dict[str, Any]], **others: Any) -> Path:
    content = {
        "schema": "sixgig.receipt/1",
        "area": area,
        "command": f"measure {area}",
        "date": "2026-11-20",
        "commit": "0123456789abcdef",
        "device": {"name": "Fake GPU", "total_bytes": 6 * 2**30, "driver": "1"},
        "versions": {},
        "config": {},
        "figures": figures,
        "raw": {},
    } | others
    path = root / "docs" / "receipts" / f"{area}-{content['date']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    block = "before\n<!-- receipts:kill-switch -->\nold\n<!-- /receipts -->\nafter\n"
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "README.zh-CN.md"):
        (tmp_path / name).write_text(block, encoding="utf-8")
    every = block.replace("receipts:kill-switch", "receipts:kill-switch-figures")
    (tmp_path / "docs" / "methods.md").write_text(every, encoding="utf-8")
    return tmp_path


def text_of(root: Path, name: str = "README.md") -> str:
    return (root / name).read_text(encoding="utf-8")


def row_of(text: str, beginning: str) -> list[str]:
    """The cells of the only table row that begins with `beginning`."""
    rows = [line for line in text.splitlines() if line.startswith(f"| {beginning}")]
    assert len(rows) == 1, rows
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", rows[0])[1:-1]]


# ---- the generator ---------------------------------------------------------------------------------------


def test_without_receipts_the_documents_say_so_and_keep_the_rest(root: Path) -> None:
    assert make_docs.main([], root=root) == 0
    expected = "before\n<!-- receipts:kill-switch -->\nNot measured yet.\n<!-- /receipts -->\nafter\n"
    assert text_of(root) == expected
    assert "尚未测量。" in text_of(root, "README.zh-CN.md")


def test_the_arm_table_has_the_arms_that_were_measured_and_marks_what_fell_short(root: Path) -> None:
    write_receipt(root, "kill-switch-full", FULL_FIGURES)
    make_docs.main([], root=root)
    text = text_of(root)
    assert row_of(text, " |") == ["", "wiener", "hessian (plain INT4)", "asked of wiener"]
    gap = row_of(text, "alpha 0: exposure above controls")
    assert gap[1:] == ["0.12 ✓", "5.21", "90% interval within 0.5 bit"]
    assert row_of(text, "alpha 0: extraction")[1:] == ["1.04% ✓", "-", "at most 1.5%"]
    assert row_of(text, "alpha 1: perplexity")[1:] == ["1.153 ✗", "-", "at most 1.100"]


def test_a_table_says_how_to_reproduce_it_with_a_link_that_fits_its_document(root: Path) -> None:
    path = write_receipt(root, "kill-switch-full", FULL_FIGURES)
    make_docs.main([], root=root)
    source = "`measure kill-switch-full` (Fake GPU, 6.00 GiB, 2026-11-20, commit 0123456789; "
    assert f"{source}[{path.name}](docs/receipts/{path.name}))" in text_of(root)
    assert f"{source}[{path.name}](receipts/{path.name}))" in text_of(root, "docs/methods.md")


def test_the_chinese_table_has_the_same_numbers_under_chinese_words(root: Path) -> None:
    write_receipt(root, "kill-switch-full", FULL_FIGURES)
    make_docs.main([], root=root)
    gap = row_of(text_of(root, "README.zh-CN.md"), "alpha 0：暴露度高出对照")
    assert gap[1:] == ["0.12 ✓", "5.21", "90% 区间在 ± 0.5 比特以内"]
    assert row_of(text_of(root, "README.zh-CN.md"), "alpha 0：提取率上界")[-1] == "至多 1.5%"


def test_the_newcomers_run_is_in_seconds_and_bytes_that_people_read(root: Path) -> None:
    write_receipt(root, "kill-switch-cpu", CPU_FIGURES)
    make_docs.main([], root=root)
    assert row_of(text_of(root), "whole run")[1:] == ["4 min 10 s", "at most 5 min 00 s ✓"]
    assert row_of(text_of(root), "its peak resident memory")[1:] == ["2.00 GiB", "at most 2.79 GiB ✓"]


def test_every_figure_is_listed_with_interval_and_n(root: Path) -> None:
    write_receipt(root, "kill-switch-full", FULL_FIGURES)
    make_docs.main([], root=root)
    text = text_of(root, "docs/methods.md")
    wiener = row_of(text, "`wiener_alpha0_exposure_gap_bits`")
    assert wiener[1:5] == ["0.12", "[-0.03, 0.27]", "612", "90% interval within 0.5 bit ✓"]
    assert row_of(text, "`hessian_alpha0_exposure_gap_bits`")[5] == "a note \\| with a bar"


def test_memory_has_a_row_a_configuration_with_signed_errors(root: Path) -> None:
    document = root / "docs" / "memory.md"
    blocks = [
        f"<!-- receipts:{name} -->\n<!-- /receipts -->\n" for name in ("memory", "memory-configurations")
    ]
    document.write_text("".join(blocks), encoding="utf-8")
    make_docs.main([], root=root)
    assert text_of(root, "docs/memory.md").count("Not measured yet.") == 2

    def bytes_of(allocated: int, reserved: int, used: int) -> dict[str, int]:
        names = ("peak_allocated_bytes", "peak_reserved_bytes", "device_used_bytes")
        return {name: mib * 2**20 for name, mib in zip(names, (allocated, reserved, used), strict=True)}

    row = {
        "label": "a model, generate",
        "held_out": True,
        "measured": bytes_of(1000, 1000, 2000),
        "predicted": bytes_of(1010, 980, 2000),
        "peers": {"accelerate_bytes": 500 * 2**20, "mem_tracker_error": "no"},
    }
    figures = [figure("plan_num_configs", 1, "configurations", target="at least 30", met=False)]
    write_receipt(root, "memory", figures, raw={"configurations": [row]})
    make_docs.main([], root=root)
    text = text_of(root, "docs/memory.md")
    assert row_of(text, "`plan_num_configs`")[1:4] == ["1", "1", "at least 30 ✗"]
    cells = ["1,000", "1,010", "+1.00%", "-2.00%", "+0.00%", "-50.00%", "", "gave up"]
    assert row_of(text, "a model, generate (held out)")[1:] == cells


def test_the_newest_receipt_of_an_area_counts(root: Path) -> None:
    newest = [figure("cpu_demo_seconds", 90.0, "s")]
    write_receipt(root, "kill-switch-cpu", newest, date="2026-12-01")
    write_receipt(root, "kill-switch-cpu", CPU_FIGURES, date="2026-11-30")
    receipt = docs_receipts.newest_receipt(root / "docs" / "receipts", "kill-switch-cpu")
    assert receipt.content["date"] == "2026-12-01"
    assert docs_receipts.newest_receipt(root / "docs" / "receipts", "kill-switch-full") is None


def test_drift_is_named_and_nothing_is_written(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_docs.main([], root=root)
    assert make_docs.main(["--check"], root=root) == 0
    for name in ("README.md", "docs/cli.md"):
        made = text_of(root, name)
        changed = made.replace("Not measured", "Measured").replace("doctor", "physician")
        assert changed != made
        (root / name).write_text(changed, encoding="utf-8")
        capsys.readouterr()
        assert make_docs.main(["--check"], root=root) == 1
        assert capsys.readouterr().err.startswith(f"{name} differs")
        assert text_of(root, name) == changed
        make_docs.main([], root=root)
        assert text_of(root, name) == made


def test_a_new_receipt_is_drift_until_the_tables_are_made_again(root: Path) -> None:
    make_docs.main([], root=root)
    write_receipt(root, "kill-switch-cpu", CPU_FIGURES)
    assert make_docs.main(["--check"], root=root) == 1
    make_docs.main([], root=root)
    assert make_docs.main(["--check"], root=root) == 0


def test_a_missing_command_page_is_drift(root: Path) -> None:
    make_docs.main([], root=root)
    (root / "docs" / "cli.md").unlink()
    assert make_docs.main(["--check"], root=root) == 1


def test_receipts_that_are_none_are_named(root: Path) -> None:
    path = write_receipt(root, "kill-switch-cpu", CPU_FIGURES, schema="another/1")
    with pytest.raises(InputError, match=re.escape(str(path))):
        make_docs.drifted(root)
    content = {"schema": "sixgig.receipt/1", "area": "kill-switch-cpu"}
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match="command, commit, date, device, figures"):
        make_docs.drifted(root)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(IntegrityError):
        make_docs.drifted(root)


def test_a_block_that_is_unknown_or_open_is_refused(root: Path) -> None:
    readme = root / "README.md"
    readme.write_text("<!-- receipts:kill-swich -->\n<!-- /receipts -->\n", encoding="utf-8")
    with pytest.raises(UnknownNameError, match="did you mean kill-switch"):
        make_docs.drifted(root)
    readme.write_text("<!-- receipts:kill-switch -->\nno end\n", encoding="utf-8")
    with pytest.raises(InputError, match="has no end"):
        make_docs.drifted(root)


def test_the_help_is_the_same_on_every_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = []
    for columns in ("40", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setenv("FORCE_COLOR", "1")
        pages.append(make_docs.help_page())
    assert pages[0] == pages[1]
    assert "\x1b" not in pages[0]
    for verb in VERBS:
        assert f"\n## sixgig {verb.name}\n\n```text\nUsage: sixgig {verb.name} " in pages[0]


# ---- the documents ---------------------------------------------------------------------------------------


def links_of(document: Path) -> list[str]:
    text = document.read_text(encoding="utf-8")
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http:", "https:"))]


def anchors_of(document: Path) -> set[str]:
    """The names by which a document's headings can be linked to."""
    headings = re.findall(r"(?m)^#+ (.+)$", document.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code_of(document: Path) -> list[str]:
    """The lines of its code blocks without their comments."""
    blocks = re.findall(r"```\w+\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line.partition("#")[0].rstrip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


@every_document
def test_every_link_leads_somewhere(document: Path) -> None:
    for link in links_of(document):
        target, _, anchor = link.partition("#")
        path = (document.parent / target).resolve() if target else document
        if path.relative_to(ROOT).as_posix() in WITH_THE_FIRST_RECEIPT:
            continue
        assert path.exists(), f"{document.name} links to {link}, which is not there"
        if anchor:
            assert anchor in anchors_of(path), f"{document.name} links to {link}; no such heading"


@pytest.mark.parametrize("picture", PICTURES)
def test_the_pictures_are_there_once_the_demo_was_measured(picture: str) -> None:
    assert picture in links_of(ENGLISH)
    assert picture in links_of(CHINESE)
    if docs_receipts.newest_receipt(ROOT / "docs" / "receipts", "kill-switch-cpu") is None:
        pytest.skip("the demo was not measured yet, so it drew no pictures")
    assert (ROOT / picture).is_file()


@every_document
def test_every_file_that_is_spoken_of_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:src|docs|tests|benchmarks)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), f"{document.name} speaks of {path}, which is not there"


@every_document
def test_no_document_holds_a_path_of_a_machine(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert not re.findall(r"(?<![\w.~])/(?:home|root|work|tmp|Users|mnt|opt)/\S*|[A-Z]:\\\S*", text)


@every_document
def test_every_command_that_is_shown_exists(document: Path) -> None:
    known = {verb.name for verb in VERBS}
    code = "\n".join(code_of(document))
    shown = re.findall(r"(?m)^(?:\.venv\\Scripts\\| +)?sixgig ([a-z]+)", code)
    shown += re.findall(r"`sixgig ([a-z]+)", document.read_text(encoding="utf-8"))
    assert set(shown) <= known
    targets = set(re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert set(re.findall(r"(?m)^make ([\w-]+)", code)) <= targets


def test_both_readmes_have_the_same_structure_and_the_same_commands() -> None:
    levels = [re.findall(r"(?m)^#+(?= )", "\n".join(prose(path))) for path in (ENGLISH, CHINESE)]
    assert levels[0] == levels[1]
    assert code_of(ENGLISH) == code_of(CHINESE)
    assert "make demo" in code_of(ENGLISH)
    pages = [set(links_of(path)) - {"README.md", "README.zh-CN.md"} for path in (ENGLISH, CHINESE)]
    assert pages[0] == pages[1]


def prose(document: Path) -> list[str]:
    """The document's lines outside code blocks."""
    return re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL).splitlines()


def test_both_readmes_hold_the_generated_tables() -> None:
    for document in (ENGLISH, CHINESE):
        text = document.read_text(encoding="utf-8")
        blocks = re.findall(r"<!-- receipts:([\w-]+) -->\n", text)
        assert blocks == ["kill-switch", "memory-short"]
        assert text.count("<!-- /receipts -->") == len(blocks)
