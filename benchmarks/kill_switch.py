"""Measures the kill switch and writes a receipt.

python benchmarks/kill_switch.py --preset full            on a GPU: the figures of every sieve
python benchmarks/kill_switch.py --preset full --gpus 3   the same, seeds side by side on three GPUs
python benchmarks/kill_switch.py --preset compare --at-once 3   ... or on one; here every sieve that there is
python benchmarks/kill_switch.py --preset cpu             time and memory of the newcomer's run
python benchmarks/kill_switch.py --from RUN_DIRECTORY     a receipt of a run that is there already
python benchmarks/kill_switch.py --stages RUN [RUN ...]   ... of runs that were cut off, from their stages

A run made where git was not at hand needs --commit; that the code that ran is that commit's is checked.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import os
import queue
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from sixgig.evaluate.observation import Observation
from sixgig.experiments.kill_switch_curves import curves
from sixgig.experiments.kill_switch_facts import with_making_seconds
from sixgig.experiments.kill_switch_scores import Scorer
from sixgig.experiments.kill_switch_verdicts import verdicts
from sixgig.experiments.presets import preset
from sixgig.files import write_json
from sixgig.provenance import source_sha256
from sixgig.report import write_report
from sixgig.report.could_see import with_visible_differences
from sixgig.report.events import read_events
from sixgig.report.schema import Memory, Result, Score

ROOT = Path(__file__).resolve().parent.parent
ARMS = ("wiener", "isolated", "hessian", "int4-fitted", "random", "wrong-set", "reference")  # others follow
COMPARED, MOST_MINUTES = "compare", 30  # the preset of all sieves, and what is asked of it on one card
REFERENCE_IS_ISOLATED = "the Base is the reference's by construction; read there"

# name of a receipt's figure -> (score, alpha, condition, unit, target for wiener in words, does it hold)
AT_ZERO = {
    "alpha0_exposure_heldout_bits": ("exposure_heldout", "plain", None, None),
    "alpha0_exposure_gap_bits": (
        "exposure_gap",
        "plain",
        "90% interval within 0.5 bit",
        lambda s: s.low > -0.5 and s.high < 0.5,
    ),
    "alpha0_auc_heldout": (
        "auc_loss",
        "plain",
        "interval covers 0.5, or 0.42 to 0.58",
        lambda s: s.low <= 0.5 <= s.high or 0.42 <= s.value <= 0.58,
    ),
    "alpha0_extraction_upper": (
        "extraction_heldout_upper",
        "plain",
        "at most 0.015",
        lambda s: s.value <= 0.015,
    ),
    "alpha0_ppl_ratio_int4": ("ppl_ratio_int4", "plain", "at most 1.03", lambda s: s.value <= 1.03),
    "alpha0_ppl_ratio_int4_fitted": (
        "ppl_ratio_int4_fitted",
        "plain",
        "at most 1.03",
        lambda s: s.value <= 1.03,
    ),
    "relearn20_exposure_gap_bits": (
        "exposure_gap_reference",
        "relearn-20",
        "90% interval within 0.75 bit",
        lambda s: s.low > -0.75 and s.high < 0.75,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="full")
    parser.add_argument("--gpus", type=int, default=1, help="run so many seeds at once, each on its own GPU")
    parser.add_argument("--at-once", type=int, default=1, help="seeds that share a GPU")
    parser.add_argument("--from", dest="run", type=Path, help="a finished run directory")
    parser.add_argument("--stages", type=Path, nargs="+", help="run directories that were cut off")
    parser.add_argument("--area", help="the receipt's area, where it is not the preset's")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "receipts")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--commit", help="the commit the run was made from, where git cannot tell")
    arguments = parser.parse_args()
    if arguments.stages:
        result = from_stages(arguments.stages)
    elif arguments.gpus * arguments.at_once > 1 and not arguments.run:
        runs = measure_side_by_side(arguments.preset, arguments.runs, arguments.gpus, arguments.at_once)
        result = from_stages(runs)
        merged = arguments.runs / f"{arguments.preset}-all-seeds"
        merged.mkdir(exist_ok=True)
        result.write(merged / "result.json")
        print(write_report(result, merged))
    else:
        run = arguments.run or measure(arguments.preset, arguments.runs)
        result = Result.read(run / "result.json")
    value = receipt(result, str(datetime.date.today()), made_from(result.provenance, arguments.commit))
    if arguments.area:
        value["area"] = arguments.area
    path = arguments.out / f"{value['area']}-{value['date']}.json"
    write_json(path, value)
    for figure in value["figures"]:
        mark = {True: "met", False: "NOT MET", None: ""}[figure["met"]]
        print(f"{figure['name']:<44} {figure['value']:>12.4f}  {figure['target'] or '':<40} {mark}")
    print(path)


def measure(preset: str, runs: Path, *words: str, gpu: int | None = None) -> Path:
    """Runs the experiment in a process of its own, so that its memory is its own."""
    command = [sys.executable, "-m", "sixgig", "run", "kill-switch", "--preset", preset, "--out", str(runs)]
    environment = os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": str(gpu)})
    status = subprocess.run([*command, *words], check=False, env=environment).returncode
    if status not in (0, 1):  # 1: a criterion failed, which is a result
        raise SystemExit(f"{' '.join([*command, *words])} ended with {status}")
    return max(runs.glob("kill-switch-*"), key=lambda path: path.stat().st_mtime)


def measure_side_by_side(preset_name: str, runs: Path, num_gpus: int, num_at_once: int = 1) -> list[Path]:
    """One run a seed, each in its own folder; `num_at_once` on each GPU."""
    free: queue.Queue[int] = queue.Queue()
    for _ in range(num_at_once):
        for gpu in range(num_gpus):
            free.put(gpu)

    def one(seed: int) -> Path:
        gpu = free.get()
        try:
            return measure(preset_name, runs / f"seed{seed}", "-s", f"seeds={seed}", gpu=gpu)
        finally:
            free.put(gpu)

    with ThreadPoolExecutor(num_gpus * num_at_once) as pool:
        return list(pool.map(one, preset(preset_name).seeds))


def from_stages(runs: Sequence[Path]) -> Result:
    """Scores of the looks that runs of single seeds, or cut-off runs, kept; an arm counts with the seeds that
    looked at it.

    Arms whose every seed was not reached have fewer canaries, which their intervals and `n` show. Several
    runs must have run the same code with the same settings, but for their seeds.
    """
    config, origin = common_start(runs)
    # In the order they were done: what restoring says of an arm comes after what splitting said.
    files = [path for run in runs for path in run.glob("stages/seed*")]
    files.sort(key=lambda path: (not path.stem.endswith("-split"), path.name))
    stages = [json.loads(path.read_text(encoding="utf-8"))["value"] for path in files]
    observations = [
        Observation.from_json_value(one) for stage in stages for one in stage.get("observations", ())
    ]
    scorer = Scorer(observations)
    scores = scorer.all(_mean_facts(files, stages))
    ends = [Result.read(run / "result.json") for run in runs if (run / "result.json").exists()]
    timings = {path.stem: stage.get("seconds", 0.0) for path, stage in zip(files, stages, strict=True)}
    if len(ends) == len(runs):
        timings["whole_run"] = _span_seconds(runs)
    device_peaks = [stage["peak_device_bytes"] for stage in stages if "peak_device_bytes" in stage]
    result = Result(
        experiment="kill-switch",
        status="complete" if len(ends) == len(runs) else "interrupted",
        config=config,
        provenance=origin | {"data_sources": ends[0].provenance.get("data_sources", []) if ends else []},
        plan=ends[0].plan if ends else {},
        memory=Memory(planned_peak_bytes=None, measured_peak_bytes=max(device_peaks)),
        timings=timings,
        scores=scores,
        verdicts=verdicts(scorer, config["sieves"]),
        # What a run says of its own number of seeds does not hold for all of them together.
        warnings=list(dict.fromkeys(w for end in ends for w in end.warnings if "seed(s)" not in w)),
        curves=curves(scorer),
        examples=ends[0].examples if ends else [],
    )
    return with_visible_differences(result)


def _mean_facts(files: Sequence[Path], stages: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Each arm's sizes and times, the mean over the seeds that have them."""
    of_seeds: dict[int, dict[str, dict[str, float]]] = {}  # seed -> arm -> fact -> value
    for path, stage in zip(files, stages, strict=True):
        of_seed = of_seeds.setdefault(int(path.name.partition("-")[0].removeprefix("seed")), {})
        for arm, facts in stage.get("facts", {}).items():
            of_seed.setdefault(arm, {}).update(facts)
    seconds = {path.stem: stage.get("seconds", 0.0) for path, stage in zip(files, stages, strict=True)}
    found: dict[str, dict[str, list[float]]] = {}
    for seed, of_seed in of_seeds.items():
        for arm, facts in with_making_seconds(of_seed, seconds, seed).items():
            for fact, value in facts.items():
                found.setdefault(arm, {}).setdefault(fact, []).append(value)
    return {
        arm: {fact: sum(values) / len(values) for fact, values in facts.items()}
        for arm, facts in found.items()
    }


def _ran_side_by_side(result: Result) -> bool:
    """Whether the stages took longer together than the clock went on."""
    stages = sum(seconds for name, seconds in result.timings.items() if name != "whole_run")
    return stages > result.timings.get("whole_run", stages)


def _span_seconds(runs: Sequence[Path]) -> float:
    """From the first run's start to the last one's end, by the clock of the machine that they ran on."""
    events = [read_events(run / "events.jsonl") for run in runs]
    starts = [float(of_run[0]["started_at_unix_seconds"]) for of_run in events]
    ends = [start + of_run[-1]["seconds"] for start, of_run in zip(starts, events, strict=True)]
    return max(ends) - min(starts)


def common_start(runs: Sequence[Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration and provenance that the runs share, over every process that worked on them; the seeds are
    those of all. Exits where they are no one measurement."""
    configs = [yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) for run in runs]
    origins = [
        event["provenance"]
        for run in runs
        for event in read_events(run / "events.jsonl")
        if "provenance" in event
    ]
    seeds = sorted({seed for config in configs for seed in config["seeds"]})
    for name, values in (
        ("settings", [{**config, "seeds": seeds} for config in configs]),
        ("code", [origin["source_sha256"] for origin in origins]),
        ("libraries", [origin["library_versions"] for origin in origins]),
        ("device", [origin["device_name"] for origin in origins]),
    ):
        if any(value != values[0] for value in values):
            raise SystemExit(f"the runs differ in {name}, so they are not one measurement: {values}")
    return {**configs[0], "seeds": seeds}, {**origins[0], "seeds": seeds}


def receipt(result: Result, date: str, made_from: str) -> dict[str, Any]:
    """The receipt of one result; figures that fell short are in it too."""
    name = str(result.config["preset"])
    provenance = result.provenance
    return {
        "schema": "sixgig.receipt/1",
        "area": f"kill-switch-{name}",
        "command": f"python benchmarks/kill_switch.py --preset {name}"
        + (f" --at-once {len(result.config['seeds'])}" if _ran_side_by_side(result) else ""),
        "date": date,
        "commit": made_from,
        "device": device(result),
        "versions": provenance["library_versions"],
        "config": result.config,
        "figures": _figures(result, name),
        "raw": {
            "verdicts": [verdict.model_dump(mode="json", by_alias=True) for verdict in result.verdicts],
            "scores": [score.model_dump(mode="json") for score in result.scores],
            "timings": result.timings,
            # Peaks of one process, where several shared a card.
            "memory": result.memory.model_dump(mode="json"),
            "warnings": result.warnings,
            "data_sources": provenance.get("data_sources", []),
        },
    }


def _figures(result: Result, name: str) -> list[dict[str, Any]]:
    if name == "cpu":
        return cpu_figures(result)
    return [*(comparison_figures(result) if name == COMPARED else ()), *arm_figures(result)]


def device(result: Result) -> dict[str, Any]:
    """The device's name, memory and driver, as the run saw them."""
    return {
        "name": result.provenance["device_name"],
        "total_bytes": result.plan.get("device_total_bytes"),
        "driver": result.plan.get("device_driver"),
    }


def cpu_figures(result: Result) -> list[dict[str, Any]]:
    """What the newcomer's run took."""
    if "whole_run" not in result.timings:
        raise SystemExit("preset cpu is measured as one whole run: leave --gpus and --stages out")
    seconds = result.timings["whole_run"]
    peak = result.memory.measured_peak_bytes or 0
    return [
        figure("cpu_demo_seconds", seconds, "s", "at most 300", seconds <= 300),
        figure("cpu_demo_peak_rss_bytes", peak, "bytes", "at most 3000000000", peak <= 3e9),
    ]


def comparison_figures(result: Result) -> list[dict[str, Any]]:
    """What the comparison of all sieves took; nothing where it was cut off."""
    if "whole_run" not in result.timings:
        return []
    minutes, seeds = result.timings["whole_run"] / 60, result.config["seeds"]
    order = "side by side" if _ran_side_by_side(result) else "one after another"
    note = f"{len(result.config['sieves'])} sieves, {len(seeds)} seeds {order}; first start to last end"
    target, met = f"at most {MOST_MINUTES}", minutes <= MOST_MINUTES
    return [figure("all_sieves_minutes", minutes, "minutes", target, met, n=len(seeds), note=note)]


def arm_figures(result: Result) -> list[dict[str, Any]]:
    """The named figures of every arm; targets are wiener's, the other arms are shown beside it."""
    figures = []
    for arm in dict.fromkeys((*ARMS, *result.config["sieves"])):
        # isolated's Base is the reference's: what was looked at once is read for both.
        base_arm = "reference" if arm == "isolated" else arm
        note = REFERENCE_IS_ISOLATED if arm == "isolated" else ""
        for name, (score_name, condition, target, holds) in AT_ZERO.items():
            # Relearning was run on isolated itself; for the reference there is nothing to hold it against.
            looked_at = arm if condition.startswith("relearn") else base_arm
            score = result.score(score_name, looked_at, 0.0, condition)
            if score is not None:
                shown = note if looked_at == base_arm else ""
                figures.append(from_score(label(arm, name), score, arm, target, holds, shown))
        if arm == "reference":
            continue
        seconds = result.score("making_seconds", arm, None)
        if seconds is not None:
            figures.append(from_score(label(arm, "making_seconds"), seconds, arm, None, None))
        if result.score("ppl_ratio_full", arm, 1.0) is not None:
            figures += restored_figures(result, arm)
    return figures


def restored_figures(result: Result, arm: str) -> list[dict[str, Any]]:
    """alpha = 1, and the size of the Ortho part."""
    found = []
    parts = [result.score(f"extraction_{group}", arm, 1.0) for group in ("calibration", "heldout")]
    known = [part for part in parts if part is not None and part.value is not None]
    if known:
        num = sum(part.n for part in known)
        value = sum(part.value * part.n for part in known if part.value is not None) / num
        met = value >= 0.97 if arm == "wiener" else None
        found.append(
            figure(label(arm, "alpha1_extraction"), value, "share", "at least 0.97", met, n=num, arm=arm)
        )
    for name, score_name, alpha, target, limit in (
        ("alpha1_ppl_ratio_fp32", "ppl_ratio_full", 1.0, "at most 1.10", 1.10),
        ("ortho_bits_per_weight", "ortho_bits_per_weight", None, "at most 1.0", 1.0),
    ):
        score = result.score(score_name, arm, alpha)
        if score is not None:
            found.append(
                from_score(label(arm, name), score, arm, target, lambda s, limit=limit: s.value <= limit)
            )
    return found


def from_score(
    name: str, score: Score, arm: str, target: str | None, holds: Any, note: str = ""
) -> dict[str, Any]:
    if score.value is None:
        raise SystemExit(f"{score.name} of {arm} has no value: {score.note}")
    met = bool(holds(score)) if holds is not None and arm == "wiener" else None
    return figure(
        name,
        score.value,
        score.unit,
        target,
        met,
        low=score.low,
        high=score.high,
        n=score.n,
        note=note or score.note,
        arm=arm,
    )


def figure(
    name: str,
    value: float,
    unit: str,
    target: str | None,
    met: bool | None,
    *,
    low: float | None = None,
    high: float | None = None,
    n: int = 1,
    note: str = "",
    arm: str = "wiener",
) -> dict[str, Any]:
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "low": low,
        "high": high,
        "n": n,
        "target": target if arm == "wiener" else None,
        "met": met,
        "note": note,
    }


def label(arm: str, name: str) -> str:
    return f"{arm.replace('-', '_')}_{name}"


def made_from(origin: Mapping[str, Any], claimed: str | None) -> str:
    """The commit whose code ran: as the run recorded it, else `claimed` where the code's digest agrees."""
    recorded = origin["commit"]
    if recorded and not origin["dirty"]:
        return recorded
    if not claimed:
        raise SystemExit(
            "the run cannot name its commit: it had uncommitted changes, or no git at hand; give --commit"
        )
    whole = _git("rev-parse", f"{claimed}^{{commit}}").decode().strip()
    with tarfile.open(fileobj=io.BytesIO(_git("archive", whole, "src/sixgig"))) as archive:
        files = {
            member.name.removeprefix("src/sixgig/"): content.read()
            for member in archive
            if member.name.endswith(".py") and (content := archive.extractfile(member))
        }
    if source_sha256(files.items()) != origin["source_sha256"]:
        raise SystemExit(f"the code that ran is not that of commit {whole}")
    return whole


def _git(*words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=True).stdout


if __name__ == "__main__":
    main()
