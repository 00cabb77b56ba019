"""Runs an experiment's seeds side by side, each in a process of its own, and joins them into one run.

python benchmarks/seeds_side_by_side.py saving-genius --preset full --data-dir DATA
python benchmarks/seeds_side_by_side.py dual-dp --preset full --at-once 3 -s num_draws=2

A run waits for Python more than for the card, so that seeds on one card take little longer together than one
alone. What each seed kept is put into the directory of one run with all seeds, which is then resumed: nothing
is left to measure, and it is scored and reported as if one process had gone through all of them. Its seconds
are those from the first process's start to the end of that resume. Seeds that other code, other libraries,
another device or other data gave are not joined.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kill_switch import common_start
from sixgig.experiments.origin import DATA
from sixgig.experiments.run import Request, open_directory, prepare
from sixgig.experiments.settings import parse_words
from sixgig.report.events import read_events


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment")
    parser.add_argument("--preset", default="full")
    parser.add_argument("--device")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--at-once", type=int, default=3, help="seeds that run at the same time")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where the run of all seeds lies")
    parser.add_argument("-s", dest="words", action="append", default=[], help="KEY=VALUE, as of sixgig run")
    arguments = parser.parse_args()
    request = Request(
        experiment=arguments.experiment,
        preset=arguments.preset,
        settings=parse_words(arguments.words),
        device=arguments.device,
        data_dir=arguments.data_dir,
        out=arguments.out,
    )
    prepared = prepare(request)
    if not hasattr(prepared.config, "seeds"):
        raise SystemExit(f"{arguments.experiment} has one seed a run: run it once for each")
    seeds = prepared.config.seeds
    words = ["run", arguments.experiment, "--preset", arguments.preset]
    words += [word for one in arguments.words for word in ("-s", one)]
    words += ["--device", prepared.device]
    if arguments.data_dir:
        words += ["--data-dir", str(arguments.data_dir)]

    def one(seed: int) -> Path:
        out = arguments.out / f"seed{seed}"
        own = [*words, "-s", f"seeds={seed}", "--out", str(out)]
        if any(out.glob(f"{arguments.experiment}-*")):
            own.append("--resume")
        _sixgig(own, log=arguments.out / f"seed{seed}.log")
        return max(out.glob(f"{arguments.experiment}-*"), key=lambda path: path.stat().st_mtime)

    arguments.out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(arguments.at_once) as pool:
        runs = list(pool.map(one, seeds))
    with open_directory(request, prepared) as joined:
        path = joined.path
    join(runs, path)
    _sixgig([*words, "--out", str(arguments.out), "--resume"])
    print(path)


def join(runs: list[Path], into: Path) -> None:
    """Stages of single seeds, and what happened in them by the clock of all. Exits where they are no one
    measurement."""
    common_start(runs)
    data = [json.loads((run / "stages" / f"{DATA}.json").read_text(encoding="utf-8")) for run in runs]
    if any(one != data[0] for one in data):
        raise SystemExit(f"the runs differ in data: {[one['value'] for one in data]}")
    shutil.copy(runs[0] / "stages" / f"{DATA}.json", into / "stages")
    for run in runs:
        for stage in run.glob("stages/seed*.json"):
            shutil.copy(stage, into / "stages")
    events = {run: read_events(run / "events.jsonl") for run in runs}
    starts = {run: found[0]["started_at_unix_seconds"] for run, found in events.items()}
    first = min(starts, key=lambda run: starts[run])
    lines = [
        {**event, "seconds": event["seconds"] + starts[run] - starts[first]}
        for run, found in events.items()
        for event in found
        if event["event"] != "finish" and (run == first or "started_at_unix_seconds" not in event)
    ]
    lines.sort(key=lambda event: (event["seconds"], "started_at_unix_seconds" not in event))
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (into / "events.jsonl").write_text(text, encoding="utf-8")


def _sixgig(words: list[str], log: Path | None = None) -> None:
    command = [sys.executable, "-m", "sixgig", *words]
    if log is None:
        status = subprocess.run(command, check=False).returncode
    else:
        with log.open("w", encoding="utf-8") as handle:
            environment = os.environ | {"PYTHONUNBUFFERED": "1"}
            status = subprocess.run(
                command, check=False, env=environment, stdout=handle, stderr=subprocess.STDOUT
            ).returncode
    if status not in (0, 1):  # 1: a criterion failed, which is a result
        raise SystemExit(f"{' '.join(command)} ended with {status}; {log or ''}")


if __name__ == "__main__":
    main()
