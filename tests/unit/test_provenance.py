"""Provenance names versions and commit, and never a user, host or home path."""

from __future__ import annotations

import getpass
import json
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path

from sixgig.provenance import DataSource, git_state, provenance, source_sha256


def source(name: str) -> DataSource:
    return DataSource(name=name, revision_or_sha256="ab", num_rows=3, synthetic=True)


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


def checkout(folder: Path) -> Path:
    package = folder / "src" / "sixgig"
    package.mkdir(parents=True)
    (package / "a.py").write_text("1\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "one")
    return package


def test_it_is_plain_json_with_the_versions() -> None:
    record = json.loads(json.dumps(asdict(provenance([1, 2], [source("wiki")], device_name="card"))))
    assert record["seeds"] == [1, 2]
    assert record["device_name"] == "card"
    assert record["library_versions"]["torch"][0].isdigit()
    assert record["data_sources"] == [
        {"name": "wiki", "revision_or_sha256": "ab", "num_rows": 3, "synthetic": True}
    ]
    assert record["date_utc"].endswith("+00:00")


def test_no_user_host_or_home_is_in_it() -> None:
    private = [str(Path.home() / "secret" / "rows.jsonl"), r"C:\Users\someone\rows.jsonl", "/data/rows.jsonl"]
    record = provenance([0], [source(name) for name in private])
    assert [item.name for item in record.data_sources] == ["rows.jsonl"] * 3
    text = json.dumps(asdict(record))
    assert str(Path.home()) + "/" not in text
    assert platform.node() not in text
    assert f"/{getpass.getuser()}/" not in text


def test_a_checkout_gives_commit_and_dirty_flag(tmp_path: Path) -> None:
    package = checkout(tmp_path)
    commit, dirty = git_state(package)
    assert commit is not None
    assert len(commit) == 40
    assert dirty is False
    (package / "a.py").write_text("2\n")
    assert git_state(package) == (commit, True)


def test_a_package_installed_inside_another_checkout_has_no_commit(tmp_path: Path) -> None:
    checkout(tmp_path)
    installed = tmp_path / ".venv" / "lib" / "sixgig"
    installed.mkdir(parents=True)
    assert git_state(installed) == (None, None)


def test_a_package_outside_any_checkout_has_no_commit(tmp_path: Path) -> None:
    assert git_state(tmp_path) == (None, None)


def test_the_code_that_ran_is_told_by_its_digest() -> None:
    record = provenance([0], [], device_name="card")
    package = Path(__file__).resolve().parents[2] / "src" / "sixgig"
    files = [(path.relative_to(package).as_posix(), path.read_bytes()) for path in package.rglob("*.py")]
    assert record.source_sha256 == source_sha256(reversed(files))
    changed = [(name, content + b"#" if name == "errors.py" else content) for name, content in files]
    assert source_sha256(changed) != record.source_sha256
    assert source_sha256([("a.py", b"bc")]) != source_sha256([("a.pyb", b"c")])
