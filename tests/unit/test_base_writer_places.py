"""base/ names no place of the machine that made it."""

from __future__ import annotations

import json
from pathlib import Path

from artifact_tools import parts
from tiny_model import tiny_folder

from sixgig.load.artifact import save_split


def test_a_tokenizer_that_names_places_loses_them(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "model")
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, "name_or_path": "/home/someone/diary", "padding_side": "left"}))
    bases, orthos = parts(folder)
    save_split(
        tmp_path / "split",
        loaded_folder=folder,
        bases=bases,
        orthos=orthos,
        manifest={"sieve": "none"},
        factor_bits=16,
    )
    written = json.loads((tmp_path / "split" / "base" / "tokenizer_config.json").read_text())
    assert "name_or_path" not in written
    assert written["padding_side"] == "left"
    assert not any("diary" in p.read_text(errors="ignore") for p in (tmp_path / "split").rglob("*.json"))
