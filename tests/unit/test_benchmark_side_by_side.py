"""Seeds that ran side by side are joined into one run, and only where they are one measurement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_scripts import load_script

from sixgig.report.events import read_events
from sixgig.report.store import RunDirectory

ORIGIN = {"source_sha256": "s", "library_versions": {"torch": "2"}, "device_name": "card"}


script = load_script("seeds_side_by_side")


def one_seed(root: Path, seed: int, *, data: str = "d", steps: int = 3, **origin: Any) -> Path:
    config = {"experiment": "saving-genius", "seeds": [seed], "steps": steps}
    with RunDirectory.create(root / f"seed{seed}", "saving-genius", config) as run:
        run.log("start", provenance=ORIGIN | origin)
        run.save_stage("data", [["text", data]])
        run.save_stage(f"seed{seed}-look", {"seconds": 1.0, "value": seed})
        run.log("finish", status="complete")
        return run.path


def test_stages_of_all_seeds_lie_in_one_run_by_one_clock(tmp_path: Path) -> None:
    runs = [one_seed(tmp_path, seed) for seed in (4, 5)]
    with RunDirectory.create(tmp_path, "saving-genius", {"seeds": [4, 5]}) as joined:
        path = joined.path
    script.join(runs, path)
    with RunDirectory.open(path) as run:
        for seed in (4, 5):
            assert run.load_stage(f"seed{seed}-look") == {"seconds": 1.0, "value": seed}
        assert run.load_stage("data") == [["text", "d"]]
    events = read_events(path / "events.jsonl")
    assert sum("started_at_unix_seconds" in event for event in events) == 1
    assert "started_at_unix_seconds" in events[0]
    seconds = [event["seconds"] for event in events]
    assert seconds == sorted(seconds)
    assert sum("provenance" in event for event in events) == 2
    assert not any(event["event"] == "finish" for event in events)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"data": "e"}, "differ in data"),
        ({"steps": 4}, "differ in settings"),
        ({"source_sha256": "t"}, "differ in code"),
        ({"device_name": "another"}, "differ in device"),
    ],
)
def test_seeds_that_are_no_one_measurement_are_not_joined(
    tmp_path: Path, other: dict[str, Any], words: str
) -> None:
    runs = [one_seed(tmp_path, 4), one_seed(tmp_path, 5, **other)]
    with RunDirectory.create(tmp_path, "saving-genius", {"seeds": [4, 5]}) as joined:
        path = joined.path
    with pytest.raises(SystemExit, match=words):
        script.join(runs, path)
    assert list((path / "stages").iterdir()) == []


def test_seeds_that_two_versions_of_the_code_worked_on_are_not_joined(tmp_path: Path) -> None:
    runs = [one_seed(tmp_path, seed) for seed in (4, 5)]
    with (runs[1] / "events.jsonl").open("a") as handle:
        late = {"seconds": 99.0, "event": "start", "provenance": ORIGIN | {"source_sha256": "t"}}
        handle.write(json.dumps(late) + "\n")
    with pytest.raises(SystemExit, match="differ in code"):
        script.common_start(runs)
