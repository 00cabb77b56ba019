"""A few invented questions in MMLU's files, for tests that need the shape of the data and not the data."""

from __future__ import annotations

import csv
from pathlib import Path

from sixgig.data.mmlu import HEADER

SUBJECTS = {"kitchen_chemistry": 4, "old_maps": 3, "tides": 5}


def rows(subject: str, count: int, kind: str) -> list[list[str]]:
    return [
        [f" {kind} {number} of {subject}?", "one, or none", f"two {number}", "three", "four", str(number % 4)]
        for number in range(count)
    ]


def write_mmlu(data_dir: Path) -> Path:
    """Writes mmlu/ under `data_dir`; returns `data_dir`."""
    for subject, count in SUBJECTS.items():
        for folder, number in (("dev", 2), ("test", count)):
            path = data_dir / "mmlu" / folder / f"{subject}_{folder}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8", newline="") as handle:
                csv.writer(handle).writerows([HEADER, *rows(subject, number, folder)])
    return data_dir
