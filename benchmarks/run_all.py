"""Times `sixgig run all` from the first experiment's start to the page, and writes a receipt.

python benchmarks/run_all.py --preset cpu --data-dir DATA     on an idle machine
python benchmarks/run_all.py --from ALL_DIRECTORY --seconds S   a receipt of a run that was timed already
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from kill_switch import ROOT, device, made_from
from sixgig.errors import InputError
from sixgig.files import write_json
from sixgig.report.run_set import Part, RunSet
from sixgig.report.schema import Result

MOST_MINUTES = {"cpu": 20.0}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--from", dest="folder", type=Path, help="a folder of sixgig run all")
    parser.add_argument("--seconds", type=float, help="what that run took, by a clock outside it")
    parser.add_argument("--commit", help="the commit the run was made from, where git cannot tell")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "receipts")
    arguments = parser.parse_args()
    folder, seconds = arguments.folder, arguments.seconds
    if folder is None:
        folder, seconds = measured(arguments.preset, arguments.data_dir, arguments.runs)
    elif seconds is None:
        raise InputError("how long did that run take?", todo="give --seconds, or let this script run it")
    value = receipt(folder, seconds, arguments.commit)
    path = arguments.out / f"{value['area']}-{value['date']}.json"
    write_json(path, value)
    for one in value["figures"]:
        print(f"{one['name']:<44} {one['value']:>8.2f} {one['unit']}  {one['target'] or ''}")
    print(path)


def measured(preset: str, data_dir: Path | None, runs: Path) -> tuple[Path, float]:
    """The folder of a run in a process of its own, and its seconds, start-up included."""
    command = [sys.executable, "-m", "sixgig", "run", "all", "--preset", preset, "--out", str(runs)]
    command += ["--data-dir", str(data_dir)] if data_dir else []
    started = time.monotonic()
    status = subprocess.run(command, check=False).returncode
    seconds = time.monotonic() - started
    if status not in (0, 1):  # 1: a criterion failed, or an experiment was refused; the parts say which
        raise SystemExit(f"{' '.join(command)} ended with {status}")
    return max(runs.glob("all-*"), key=lambda path: path.stat().st_mtime), seconds


def receipt(folder: Path, seconds: float, claimed_commit: str | None) -> dict[str, Any]:
    """Minutes of the whole and of each part. Exits where a part is not complete: that was not all."""
    whole = RunSet.read(folder)
    lacking = [part.experiment for part in whole.parts if part.status != "complete" or part.folder is None]
    if lacking:
        raise SystemExit(f"not complete: {', '.join(lacking)}")
    results = [Result.read(folder / (part.folder or "") / "result.json") for part in whole.parts]
    first = results[0]
    if len({result.provenance["source_sha256"] for result in results}) > 1:
        raise SystemExit("the code changed while the experiments ran")
    limit = MOST_MINUTES.get(whole.preset or "")
    name = f"run_all_{whole.preset}"
    total = figure(f"{name}_minutes", seconds / 60, "minutes", limit)
    peak_bytes = max(part.measured_peak_bytes or 0 for part in whole.parts)
    return {
        "schema": "sixgig.receipt/1",
        "area": f"run-all-{whole.preset}",
        "command": f"python benchmarks/run_all.py --preset {whole.preset} --data-dir DATA",
        "date": str(datetime.date.today()),
        "commit": made_from(first.provenance, claimed_commit),
        "device": device(first),
        "versions": first.provenance["library_versions"],
        "config": {result.experiment: result.config for result in results},
        "figures": [
            total,
            *(part_figure(part) for part in whole.parts),
            figure(f"{name}_peak_bytes", peak_bytes, "bytes", None),
        ],
        "raw": {"parts": [part.model_dump(mode="json") for part in whole.parts]},
    }


def part_figure(part: Part) -> dict[str, Any]:
    name = part.experiment.replace("-", "_")
    answer = f"{part.num_met} criteria met, {part.num_failed} failed, {part.num_undecided} open"
    return figure(f"{name}_minutes", (part.seconds or 0.0) / 60, "minutes", None, note=answer)


def figure(name: str, value: float, unit: str, limit: float | None, *, note: str = "") -> dict[str, Any]:
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "low": None,
        "high": None,
        "n": 1,
        "target": None if limit is None else f"at most {limit:g}",
        "met": None if limit is None else value <= limit,
        "note": note,
    }


if __name__ == "__main__":
    main()
