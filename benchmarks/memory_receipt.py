"""The receipt of measured memory: each configuration beside the planner's prediction, and what follows."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from memory_cards import Pair, pairs, played
from memory_configs import Configuration, all_configurations
from sixgig.cards import Card
from sixgig.hardware import probe
from sixgig.memory.outside import outside

AREA, SCHEMA = "memory", "sixgig.receipt/1"
PLAN_WORDS = ("plan", "llama-3-8b", "--vram", "6GiB")
PLAN_TIMES = 5
PEERS = ("accelerate", "canifinetune", "mem_tracker")
MEASURED = (
    "context_bytes",
    "weights_bytes",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "device_used_bytes",
)


def receipt(measured: Mapping[str, Any], date: str, commit: str) -> dict[str, Any]:
    """The receipt of `measured` (memory_measured.read_measured), predicted by the code as it is.

    `commit` is that of the predictions; each configuration names the one that was measured.
    """
    known = {one.label: one for one in all_configurations()}
    if strange := measured["runs"].keys() - known.keys():
        raise SystemExit(f"measured, but not in memory_configs: {sorted(strange)}")
    runs = {
        one: measured["runs"][label]
        for label, one in known.items()
        if label in measured["runs"] and "error" not in measured["runs"][label]
    }
    device = measured["device"]
    rows = [_row(one, run, device, measured["peers"].get(one.label, {})) for one, run in runs.items()]
    seconds = plan_seconds()
    return {
        "schema": SCHEMA,
        "area": AREA,
        "command": "python benchmarks/memory.py",
        "date": date,
        "commit": commit,
        "device": {key: device[key] for key in ("name", "total_bytes", "driver")},
        "versions": device["versions"],
        "config": {
            "num_configurations": len(known),
            "not_measured": [label for label in known if label not in {row["label"] for row in rows}],
        },
        "figures": [
            *accuracy_figures(rows),
            *fit_figures(list(pairs(runs, measured["capped"]))),
            _plan_seconds_figure(seconds),
            *peer_figures(rows),
        ],
        "raw": {
            "configurations": rows,
            "failed": {label: run for label, run in measured["runs"].items() if "error" in run},
            "capped": measured["capped"],
            "plan_seconds": seconds,
            "peer_versions": measured["peer_versions"],
        },
    }


def predicted(one: Configuration, device: Mapping[str, Any]) -> dict[str, int]:
    """What the planner says of a run on the measured GPU, an H100 or H200."""
    card = Card(name=device["name"], total_bytes=device["total_bytes"], compute_capability="9.0")
    around = outside(card, one.work.task)
    memory = played(one)
    return {
        "peak_allocated_bytes": memory.peak_allocated_bytes,
        "peak_reserved_bytes": memory.peak_reserved_bytes,
        "device_used_bytes": memory.peak_reserved_bytes + around.context_bytes + around.kernels_bytes,
    }


def error(row: Mapping[str, Any], key: str) -> float:
    """Predicted against measured: +0.02 is 2% too much."""
    return row["predicted"][key] / row["measured"][key] - 1


def accuracy_figures(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Absolute relative errors, of all and of those apart that the planner was not fitted on."""
    held_out = [row for row in rows if row["held_out"]]
    commits = Counter(row["commit"][:10] for row in rows)
    by = "measured at " + ", ".join(f"{commit}: {num}" for commit, num in commits.items())
    heads = f"{len(held_out)} of them held out" if held_out else "none of them held out: all were looked at"
    figures = [
        _figure("plan_num_configs", len(rows), "configurations", least=30, n=len(rows), note=f"{by}; {heads}")
    ]
    for end, some in (("", rows), ("_heldout", held_out)):
        if some:
            figures += _errors("plan_allocated_error", "peak_allocated_bytes", some, end, (0.05, 0.02))
            figures += _errors("plan_reserved_error", "peak_reserved_bytes", some, end, (None, None))
            figures += _errors("plan_device_used_error", "device_used_bytes", some, end, (0.10, None))
    return figures


def _errors(
    name: str,
    key: str,
    rows: Sequence[Mapping[str, Any]],
    end: str,
    most: tuple[float | None, float | None],
) -> list[dict[str, Any]]:
    errors = {row["label"]: abs(error(row, key)) for row in rows}
    worst = max(errors, key=lambda label: errors[label])
    middle = statistics.median(errors.values())
    return [
        _figure(f"{name}_max{end}", errors[worst], "share", most=most[0], n=len(rows), note=worst),
        _figure(f"{name}_median{end}", middle, "share", most=most[1], n=len(rows)),
    ]


def fit_figures(found: Sequence[Pair]) -> list[dict[str, Any]]:
    """How often the planner is wrong about a card, over the pairs that are decided, and over those apart that
    it was not fitted on; none where none is."""
    held_out = [pair for pair in found if pair.held_out]
    return [*_fits(found, ""), *_fits(held_out, "_heldout")]


def _fits(found: Sequence[Pair], end: str) -> list[dict[str, Any]]:
    decided = [pair for pair in found if pair.runs is not None]
    that_run = [pair for pair in decided if pair.runs]
    if not that_run:
        return []
    false_fits = [pair for pair in decided if pair.predicted and not pair.runs]
    false_refusals = [pair for pair in that_run if not pair.predicted]
    said_to_fit = [pair for pair in found if pair.predicted]
    note = (
        f"{len(decided)} pairs of configuration and card (4, 6, 8 GiB), {len(that_run)} of them run; of "
        f"{len(said_to_fit)} that are said to fit, {sum(pair.is_shown for pair in said_to_fit)} were run "
        "under that card's limit"
    )
    if left_out := len(found) - len(decided):
        note += f"; {left_out} more need such a run and are left out"
    return [
        _figure(f"plan_false_fits{end}", len(false_fits), "pairs", most=0, n=len(decided), note=note),
        _figure(
            f"plan_false_refusals_share{end}",
            len(false_refusals) / len(that_run),
            "share",
            most=0.05,
            n=len(that_run),
            note="of the pairs that run",
        ),
    ]


def peer_figures(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Other estimators' median errors, each with the planner's on the configurations that it answers."""
    figures = []
    for peer in PEERS:
        key = f"{peer}_bytes"
        answered = [row for row in rows if row["peers"].get(key) is not None]
        if answered:
            errors = [
                abs(row["peers"][key] / row["measured"]["peak_allocated_bytes"] - 1) for row in answered
            ]
            ours = statistics.median(abs(error(row, "peak_allocated_bytes")) for row in answered)
            given_up = sum(f"{peer}_error" in row["peers"] for row in rows)
            name = "accelerate_estimate_error_median" if peer == "accelerate" else f"{peer}_error_median"
            note = f"of {len(rows)} configurations; the planner's on the same {len(answered)}: {ours:.2%}"
            note += f"; it gave up on {given_up}" if given_up else ""
            figures.append(_figure(name, statistics.median(errors), "share", n=len(answered), note=note))
    return figures


def plan_seconds() -> list[float]:
    """Seconds that `sixgig plan` takes as a process of its own."""
    command, seconds = [sys.executable, "-m", "sixgig", *PLAN_WORDS], []
    for _ in range(PLAN_TIMES):
        begun = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds.append(time.perf_counter() - begun)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return seconds


def _plan_seconds_figure(seconds: Sequence[float]) -> dict[str, Any]:
    machine = probe()
    note = f"sixgig {' '.join(PLAN_WORDS)}, on {machine.num_cores} cores of {machine.cpu_model}; "
    return _figure(
        "plan_seconds",
        statistics.median(seconds),
        "s",
        most=2,
        n=len(seconds),
        note=note + f"{min(seconds):.2f} to {max(seconds):.2f} s",
    )


def _row(
    one: Configuration, run: Mapping[str, Any], device: Mapping[str, Any], peers: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "label": one.label,
        "held_out": one.held_out,
        "commit": run["commit"],
        "measured": {key: run[key] for key in MEASURED}
        | ({"stages": run["stages"]} if "stages" in run else {}),
        "predicted": predicted(one, device),
        "peers": dict(peers),
    }


def _figure(
    name: str,
    value: float,
    unit: str,
    *,
    n: int,
    most: float | None = None,
    least: float | None = None,
    note: str = "",
) -> dict[str, Any]:
    target, met = None, None
    if most is not None:
        target, met = f"at most {most:g}", value <= most
    elif least is not None:
        target, met = f"at least {least:g}", value >= least
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "low": None,
        "high": None,
        "n": n,
        "target": target,
        "met": met,
        "note": note,
    }
