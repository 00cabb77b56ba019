"""Splits a model of Llama-3-8B's shape layer by layer under the limit of a 6 GiB card; writes a receipt.

python benchmarks/split_8b.py --folder DIR        on a GPU: builds the model and its earlier state under DIR
                                                  (32 GB, random weights), splits it there as `sixgig split`
                                                  does, writes the receipt. Ended, and begun again, it goes on
python benchmarks/split_8b.py --folder DIR --build           builds alone
python benchmarks/split_8b.py --folder DIR --stop-after 4    ends after four layers, with an estimate of the
                                                  whole that is no figure and goes into no receipt
python benchmarks/split_8b.py --folder DIR --tiny            a tiny model on this CPU, to try the script
python benchmarks/split_8b.py --from MEASURED.json           the receipt of what a run left in DIR, once more

The split runs in a process of its own, whose time and resident memory are what is reported; where it was
ended and begun again, the times of all processes are added up. Nothing else may use the card meanwhile.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from sixgig.cards import Card
from sixgig.catalogue import ModelSpec
from sixgig.catalogue.reader import spec_from_config
from sixgig.cli.split_choice import choose, read_public
from sixgig.cli.split_disk import split_from_disk
from sixgig.cli.split_sources import Sources
from sixgig.data.private import read_private
from sixgig.files import write_json
from sixgig.hardware import peak_rss_bytes, probe
from sixgig.memory import MemoryPlan, Splitting, Wishes
from sixgig.memory.outside import outside
from sixgig.memory.plan import first_that_fits
from sixgig.units import GIB
from split_8b_model import SHAPES, build

ROOT = Path(__file__).resolve().parent.parent
AREA, SCHEMA, MEASURED = "split-8b", "sixgig.receipt/1", "measured.json"
BUDGET_BYTES = 6 * GIB  # of the card, and of the processor's memory
MOST_MINUTES = 15.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--folder", type=Path)
    where.add_argument("--from", type=Path, dest="measured", metavar="MEASURED")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "receipts")
    parser.add_argument("--method", choices=("rtn", "gptq"), default="rtn")
    parser.add_argument("--stop-after", type=int)
    parser.add_argument("--commit", help="the commit that is measured, where git does not tell")
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measured is not None and arguments.commit is None:
        parser.error("--from needs --commit: what was measured does not say what code it was")
    if arguments.child:
        _split(arguments.folder, arguments.method, arguments.tiny, arguments.stop_after)
        return
    if arguments.build:
        begun = time.monotonic()
        shape = SHAPES["tiny" if arguments.tiny else "8b"]
        build(arguments.folder, shape, "cpu" if arguments.tiny else "cuda")
        print(f"built, or found, in {time.monotonic() - begun:.0f} s", file=sys.stderr)
        return
    if arguments.measured is None:
        # Each in a process of its own: what one of them leaves on the card would count as the other's.
        if done := _again("--build"):
            raise SystemExit(f"building ended with {done}; the same command goes on where it stopped")
        if done := _again("--child"):
            raise SystemExit(f"the split ended with {done}; the same command goes on after its last layer")
    _write_receipt(arguments.measured or arguments.folder / MEASURED, arguments.commit, arguments.out)


def _write_receipt(measured: Path, commit: str | None, out: Path) -> None:
    runs = json.loads(measured.read_text(encoding="utf-8"))
    if not runs[-1]["finished"]:
        _show_estimate(runs)
        return
    value = receipt(runs, _plan(runs[-1]), commit or _commit())
    path = out / f"{AREA}-{value['date']}.json"
    write_json(path, value)
    for figure in value["figures"]:
        mark = {True: "met", False: "NOT MET"}[figure["met"]]
        print(f"{figure['name']:<26} {figure['value']:>9.3f} {figure['unit']:<4} {figure['target']}  {mark}")
    print(path)


def _again(option: str) -> int:
    """The exit status of this same command with one more option."""
    return subprocess.run([sys.executable, __file__, *sys.argv[1:], option], check=False).returncode


def _split(folder: Path, method: str, tiny: bool, stop_after: int | None) -> None:
    """The split itself, measured as it goes; what was measured is written after every layer."""
    begun = time.monotonic()
    device = "cpu" if tiny else "cuda"
    path = folder / MEASURED
    runs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    run: dict[str, Any] = {
        "device": _device(),
        "date": date,
        "method": method,
        "finished": False,
        "layers": [],
    }
    runs.append(run)
    anonymous = _AnonymousPeak()
    limit_bytes = _hold_to_budget() if device == "cuda" else None

    def record(stage: str, share: float) -> None:
        run.update(
            seconds=time.monotonic() - begun,
            stage=stage,
            share=share,
            limit_bytes=limit_bytes,
            host_peak_bytes=peak_rss_bytes(),
            host_anonymous_peak_bytes=anonymous.peak_bytes,
            **(_card_peaks() if device == "cuda" else {}),
        )
        if stage == "split":
            run["layers"].append(run["seconds"])
        write_json(path, runs)
        print(f"{run['seconds']:7.1f} s  {stage} {share:.0%}", file=sys.stderr, flush=True)

    private = folder / "private.jsonl"
    done = split_from_disk(
        Sources(
            folder=folder / "tuned",
            before_folder=folder / "before",
            records=read_private(private),
            public=read_public(folder / "public.txt"),
            private_content=private.read_bytes(),
        ),
        _choice(method),
        folder / "split",
        device,
        show=record,
        announce=lambda message: print(message, file=sys.stderr, flush=True),
        stop_after=stop_after,
    )
    run["finished"] = done is not None
    record("end", 1.0)


def _choice(method: str) -> Any:
    """As `sixgig split --layers-from disk` has it without further options."""
    words = ["fit_steps=0", "scale_fit_steps=0"]
    return choose("wiener", words, 4, 64, method, 16, 0)


def _hold_to_budget() -> int:
    """Holds torch's allocator to what a context leaves of 6 GiB; that of this card, which is larger than a
    small card's."""
    import torch

    around = outside(_card(), "split")
    limit_bytes = BUDGET_BYTES - around.context_bytes - around.kernels_bytes
    total_bytes = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(limit_bytes / total_bytes)
    return limit_bytes


def _card_peaks() -> dict[str, int]:
    import torch

    free_bytes, total_bytes = torch.cuda.mem_get_info()
    outside_torch = total_bytes - free_bytes - torch.cuda.memory_reserved()
    return {
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
        "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
        "context_bytes": outside_torch,
        "device_peak_bytes": torch.cuda.max_memory_reserved() + outside_torch,
    }


class _AnonymousPeak:
    """The most resident memory that no file stands behind, looked at five times a second."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while status := _status():
            self.peak_bytes = max(self.peak_bytes, status)
            time.sleep(0.2)


def _status() -> int:
    """Bytes; 0 where the system does not tell."""
    path = Path("/proc/self/status")
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    found = [line.split() for line in lines if line.startswith("RssAnon:")]
    return int(found[0][1]) * 1024 if found else 0


def _card() -> Card:
    return Card(name="6 GiB", total_bytes=BUDGET_BYTES, compute_capability="9.0")


def _plan(run: dict[str, Any]) -> MemoryPlan:
    """What the planner says of this run's split on a card of 6 GiB."""
    shape = SHAPES["tiny" if run["limit_bytes"] is None else "8b"]  # the tiny one is split on a CPU alone
    spec: ModelSpec = spec_from_config(shape.config, name="tuned", where="split_8b_model.py")
    splitting = Splitting(
        num_texts=shape.num_private, text_tokens=shape.window_tokens, fits_scales=False, method=run["method"]
    )
    wishes = Wishes(task="split", bits=4, context=256, splitting=splitting, layers_from="disk")
    return first_that_fits(spec, wishes, card=_card(), ram_bytes=BUDGET_BYTES)


def receipt(runs: list[dict[str, Any]], plan: MemoryPlan, commit: str | None) -> dict[str, Any]:
    """The receipt of a split that was finished by the last of `runs`."""
    last, planned_host = runs[-1], plan.ram_peak_bytes - _margin(plan, "ram")
    minutes = sum(run["seconds"] for run in runs) / 60
    planned_device = plan.device_peak_bytes - _margin(plan, "device")
    # A process that was killed has told of its layers alone; what it did after the last is not counted.
    times = f"{len(runs)} processes, one after another" if len(runs) > 1 else "one process"
    figures = [_figure("split_8b_minutes", minutes, "min", MOST_MINUTES, times)]
    if "device_peak_bytes" in last:
        device = max(run["device_peak_bytes"] for run in runs)
        note = f"reserved and the context; planned {planned_device / GIB:.2f}"
        figures.append(_figure("split_8b_device_peak_gib", device / GIB, "GiB", BUDGET_BYTES / GIB, note))
    host = max(run["host_peak_bytes"] for run in runs)
    anonymous = max(run["host_anonymous_peak_bytes"] for run in runs)
    note = f"peak resident memory; {anonymous / GIB:.2f} of it anonymous; planned {planned_host / GIB:.2f}"
    figures.append(_figure("split_8b_host_peak_gib", host / GIB, "GiB", BUDGET_BYTES / GIB, note))
    return {
        "schema": SCHEMA,
        "area": AREA,
        "command": "python benchmarks/split_8b.py --folder DIR",
        "date": last["date"],
        "commit": commit,
        "device": {key: last["device"][key] for key in ("name", "total_bytes", "driver")},
        "versions": last["device"]["versions"],
        "config": {"method": last["method"], "limit_bytes": last["limit_bytes"], "settings": plan.settings},
        "figures": figures,
        "raw": {
            "runs": runs,
            "planned": [
                {"what": line.what, "place": line.place, "num_bytes": line.num_bytes} for line in plan.lines
            ],
        },
    }


def _margin(plan: MemoryPlan, place: str) -> int:
    return sum(line.num_bytes for line in plan.lines if line.what == "margin" and line.place == place)


def _figure(name: str, value: float, unit: str, most: float, note: str) -> dict[str, Any]:
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "low": None,
        "high": None,
        "n": 1,
        "target": f"at most {most:g}",
        "met": value <= most,
        "note": note,
    }


def _show_estimate(runs: list[dict[str, Any]]) -> None:
    """An estimate of the whole from the layers that are there; printed, and kept nowhere."""
    layers = runs[-1]["layers"]
    each = (layers[-1] - layers[0]) / (len(layers) - 1) if len(layers) > 1 else layers[-1]
    share = runs[-1]["share"] if runs[-1]["stage"] == "split" else len(layers) / 32
    print(
        f"ESTIMATE, not a figure: {len(layers)} layers took {each:.1f} s each (those that were there already "
        f"included); {share:.0%} done in {sum(run['seconds'] for run in runs) / 60:.1f} min"
    )


def _device() -> dict[str, Any]:
    import torch
    import transformers

    machine = probe()
    gpu = max(machine.gpus, key=lambda one: one.total_bytes, default=None)
    about: dict[str, Any] = {"name": machine.cpu_model, "total_bytes": machine.ram_bytes, "driver": None}
    if gpu is not None:
        about = {"name": gpu.name, "total_bytes": gpu.total_bytes, "driver": gpu.driver}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return about | {"versions": versions | {"python": machine.python_version}, "num_cores": os.cpu_count()}


def _commit() -> str | None:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


if __name__ == "__main__":
    main()
