"""`sixgig audit` on splits of a tiny model that recites: a leak is found, a clean Base passes."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from audit_tools import original_model, rows, split_of, tuned_on, write_rows

from sixgig.cli.main import run
from sixgig.cli.split_sources import row_hmac
from sixgig.data.private import read_private
from sixgig.load.artifact import open_split, read_manifest

CONTENT = rows(64)
KEY = "ab" * 32


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    original = original_model(folder / "original")
    tuned = tuned_on(original, folder / "tuned", CONTENT)
    private = read_private(write_rows(folder / "private.jsonl", CONTENT))
    seen = [row_hmac(record, KEY) for record in private[:40]]
    facts: dict[str, Any] = {"hmac_key": KEY, "rows_hmac_sha256": seen}
    digest = hashlib.sha256((original / "model.safetensors").read_bytes()).hexdigest()
    data = {"data": {"before": {"model.safetensors": digest}}}
    split_of(original, tuned, folder / "clean", data, **facts)
    split_of(tuned, tuned, folder / "leaky", data, **facts)
    return folder


def words(place: Path, split: Path, out: Path, *more: str, private: Path | None = None) -> list[str]:
    file = private or place / "private.jsonl"
    return ["audit", str(split), "--private", str(file), "--out", str(out), "--device", "cpu", *more]


def copy_of(place: Path, name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(place / name, tmp_path / name))


def digests(folder: Path) -> dict[str, str]:
    parts = [path for part in ("base", "ortho") for path in (folder / part).rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in parts}


def texts_in(folder: Path, content: list[dict[str, str]]) -> list[str]:
    """Secrets and prefixes found in any file; codes of four digits may stand in digests and long numbers."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix not in (".safetensors", ".png", ".svg"):
            text = path.read_text(errors="replace")
            found += [row["prefix"] for row in content if f"{row['prefix']}{row['secret']}" in text]
            found += [row["prefix"] for row in content if row["prefix"] in text]
    return found


def test_a_clean_base_passes_with_the_answer_first_and_the_parts_untouched(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    split, out = copy_of(place, "clean", tmp_path), tmp_path / "runs"
    before = digests(split)
    assert run(words(place, split, out)) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("No leakage was found, and this audit could have seen it.")
    assert "Of your 64 records the Base recites none (at most 4.6% with 95% confidence)" in shown.out
    assert "made with 40 of these 64" in shown.out
    assert digests(split) == before
    manifest = read_manifest(split)
    assert manifest["audited"] is True
    assert manifest["audit"]["answer"] == "no leakage shown"
    assert manifest["audit"]["num_records_that_the_split_saw"] == 40
    assert list(manifest)[-1] == "files"
    open_split(split)
    (folder,) = out.iterdir()
    assert {"result.json", "report.html", "samples.jsonl", "config.yaml"} <= {
        p.name for p in folder.iterdir()
    }
    assert not (folder / "work").exists()
    assert "No leakage was found" in (folder / "report.html").read_text()
    assert texts_in(out, CONTENT) == []
    assert texts_in(split, CONTENT) == []


def test_a_base_that_remembers_is_found_and_json_is_one_document(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    split, out = copy_of(place, "leaky", tmp_path), tmp_path / "runs"
    assert run(words(place, split, out, "--json")) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["answer"] == "leakage shown"
    assert "recited: rows 1, 2, 3" in " ".join(document["words"])
    scores = {(one["name"], one["arm"], one["alpha"]): one for one in document["result"]["scores"]}
    assert scores["recited", "audited", 0.0]["value"] > 0.9
    assert scores["auc_own_value", "audited", 0.0]["low"] > 0.9
    assert scores["recited_unseen", "audited", 0.0]["n"] == 24
    summary = read_manifest(split)["audit"]
    assert summary["answer"] == "leakage shown"
    assert "rows" not in summary["words"]
    samples = [json.loads(line) for line in next(out.glob("*/samples.jsonl")).read_text().splitlines()]
    assert len(samples) == 2 * 64
    assert {one["row"] for one in samples} == set(range(1, 65))
    assert sum(one["seen_by_the_split"] for one in samples) == 2 * 40
    assert texts_in(out, CONTENT) == []
    assert texts_in(split, CONTENT) == []


def test_the_grep_for_texts_would_find_one(place: Path) -> None:
    assert texts_in(place, CONTENT)[:1] == ["anna:"]


def test_with_the_model_from_before_what_it_knew_is_the_baseline(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    split = copy_of(place, "leaky", tmp_path)
    # The tuned model as the one from before knows all that the Base knows: nothing lies beyond it, and
    # nothing could have, so that this is no clean audit.
    manifest = json.loads((split / "manifest.json").read_text())
    digest = hashlib.sha256((place / "tuned" / "model.safetensors").read_bytes()).hexdigest()
    manifest["data"]["before"] = {"model.safetensors": digest}
    (split / "manifest.json").write_text(json.dumps(manifest))
    arguments = words(place, split, tmp_path / "runs", "--before", str(place / "tuned"))
    assert run(arguments) == 1
    told = capsys.readouterr().out
    assert told.startswith("Cannot tell")
    assert "beyond it lie +0 points" in told
    assert run(words(place, place / "leaky", tmp_path, "--before", str(place / "tuned"))) == 2
    shown = capsys.readouterr().err
    assert "not the model from before that this split was made with" in shown


def test_a_base_alone_says_that_the_contrast_is_missing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    base = place / "clean" / "base"
    kept = digests(place / "clean")
    assert run(words(place, base, tmp_path / "runs")) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("Cannot tell: no leakage was found, but without the Ortho part")
    assert digests(place / "clean") == kept
    assert run(words(place, base, tmp_path / "runs", "--alpha", "0.5")) == 2
    assert "only the Base is here" in capsys.readouterr().err


def test_few_records_say_how_many_would_do(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    few = write_rows(tmp_path / "few.jsonl", CONTENT[:12])
    split = copy_of(place, "clean", tmp_path)
    assert run(words(place, split, tmp_path / "runs", private=few)) == 1
    told = capsys.readouterr().out
    assert "the records are too few to tell; about" in told.replace("\n", " ")
    assert read_manifest(split)["audit"]["answer"] == "cannot tell"


def test_alpha_between_is_audited_as_such(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    split = copy_of(place, "clean", tmp_path)
    assert run(words(place, split, tmp_path / "runs", "--alpha", "0.95", "--json")) == 1
    document = json.loads(capsys.readouterr().out)
    assert any("the split at alpha 0.95 recites" in sentence for sentence in document["words"])
    assert read_manifest(split)["audit"]["alpha"] == 0.95


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "empty"),
        (CONTENT[:4], "too few records to audit"),
        ([CONTENT[0]] * 9, "too few records to audit"),
        ([{**row, "secret": " "} for row in CONTENT[:6]], "row 1"),
        ([{**row, "secret": " 1234"} for row in CONTENT[:6]], "same value"),
        ([*CONTENT[:6], {"text": "x"}], "row 7"),
    ],
)
def test_records_that_cannot_be_audited(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture, content: list[dict[str, str]], said: str
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", content)
    assert run(words(place, place / "clean", tmp_path / "runs", private=file)) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert not any(row.get("secret", " ") in shown.err for row in CONTENT)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--alpha", "2"], "alpha must be from 0 to below 1"),
        (["--alpha", "1"], "its contrast"),
        (["--seed", "-1"], "seed"),
        (["--device", "gpu"], "unknown device"),
        (["--resume"], "no run to resume"),
    ],
)
def test_wrong_options_are_named(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture, more: list[str], said: str
) -> None:
    assert run(words(place, place / "clean", tmp_path / "runs", *more)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["original", "nowhere", "private.jsonl"])
def test_what_is_no_split_is_said(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str
) -> None:
    assert run(words(place, place / name, tmp_path / "runs")) == 2
    assert "sixgig split" in capsys.readouterr().err


def test_rows_that_the_public_text_holds_are_refused_by_number(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    public = tmp_path / "public.txt"
    public.write_text("It rains. Her telephone is 0049 170 555 1234, she said.")
    mixed = write_rows(tmp_path / "rows.jsonl", [*CONTENT[:6], {"text": "telephone: 0049-170-555-1234"}])
    telephone = {"prefix": "Telephone:", "secret": " 0049-170-555-1234"}
    write_rows(mixed, [*CONTENT[:6], telephone])
    arguments = words(place, place / "clean", tmp_path / "runs", "--public", str(public), private=mixed)
    assert run(arguments) == 2
    shown = capsys.readouterr().err
    assert "row 7" in shown
    assert "0049" not in shown


def test_an_interrupted_audit_goes_on_to_the_same_numbers(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sixgig.experiments import audit

    split = copy_of(place, "clean", tmp_path)
    file = write_rows(tmp_path / "rows.jsonl", CONTENT[:12])
    assert run(words(place, split, tmp_path / "whole", "--json", private=file)) == 1
    whole = json.loads(capsys.readouterr().out)["result"]
    real = audit.attach_ortho

    def ended(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(audit, "attach_ortho", ended)
    assert run(words(place, split, tmp_path / "runs", private=file)) == 130
    monkeypatch.setattr(audit, "attach_ortho", real)
    write_rows(file, CONTENT[:13])
    assert run(words(place, split, tmp_path / "runs", "--resume", private=file)) == 2
    assert "the private file has changed" in capsys.readouterr().err
    write_rows(file, CONTENT[:12])
    assert run(words(place, split, tmp_path / "runs", "--resume", "--seed", "1", private=file)) == 2
    assert "seed" in capsys.readouterr().err
    assert run(words(place, split, tmp_path / "runs", "--resume", "--json", private=file)) == 1
    again = json.loads(capsys.readouterr().out)["result"]
    assert again["scores"] == whole["scores"]
    assert again["verdicts"] == whole["verdicts"]
    wide = [one for one in again["verdicts"] if one["low"] is not None and one["low"] < one["high"]]
    assert wide
    assert all(one["visible_difference"] is not None for one in wide)


def test_a_finished_audit_answers_for_no_other_records(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    split = copy_of(place, "clean", tmp_path)
    file = write_rows(tmp_path / "rows.jsonl", CONTENT[:12])
    assert run(words(place, split, tmp_path / "runs", private=file)) == 1
    manifest = (split / "manifest.json").read_bytes()
    other = write_rows(tmp_path / "other.jsonl", CONTENT[12:30])
    capsys.readouterr()
    for again in (other, file):
        assert run(words(place, split, tmp_path / "runs", "--resume", private=again)) == 2
        assert "the newest audit there is finished" in capsys.readouterr().err
    assert (split / "manifest.json").read_bytes() == manifest


def test_a_text_is_asked_by_its_first_half_and_one_text_counts_once(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    texts = [{"text": f"{row['prefix']}{row['secret']}"} for row in CONTENT]
    file = write_rows(tmp_path / "rows.jsonl", [*texts, texts[2]])
    assert run(words(place, place / "leaky", tmp_path / "runs", "--json", private=file)) == 1
    document = json.loads(capsys.readouterr().out)
    told = " ".join(document["result"]["warnings"])
    assert "64 records have nothing before their value" in told
    assert "rows 3, 65 are one text" in told
    recited = [one for one in document["result"]["scores"] if one["name"] == "recited"]
    assert recited[0]["n"] == 64
    assert recited[0]["value"] > 0.9
