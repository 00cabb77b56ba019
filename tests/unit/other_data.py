"""A run's kept data changed under it, as if its files were others now."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from sixgig.experiments.origin import DATA
from sixgig.report.plain_json import sha256_of


def assert_other_data_is_refused(folder: Path, resume: Callable[[], int]) -> None:
    """`resume` goes on with the run in `folder`; what it read is put back afterwards."""
    path = folder / "stages" / f"{DATA}.json"
    kept = path.read_bytes()
    content = json.loads(kept)
    content["value"] = [["another text", "sha256:0"]]
    content["sha256"] = sha256_of(content["value"])
    path.write_text(json.dumps(content), encoding="utf-8")
    assert resume() == 2
    path.write_bytes(kept)
