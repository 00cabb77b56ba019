"""Measures what runs take of a GPU's memory, holds the planner's predictions against it, writes a receipt.

python benchmarks/memory.py                  on a GPU: every configuration of memory_configs, each in a
                                             process of its own; then under the limits of 4, 6 and 8 GiB
                                             each that is said to fit there, or may. Begun again, it
                                             goes on with what --work lacks
python benchmarks/memory.py --from RAW [...] a receipt of measurements that are there already, with the
                                             predictions of the code as it is. RAW: what an earlier run
                                             left, or an earlier receipt; the first that has a
                                             configuration counts
python benchmarks/memory.py --tiny           two layers of each model, to try the programs on any machine

Weights are random, of the true shape. Measured are torch's own peaks (allocated, reserved) and what the
driver says is in use at the end; nothing else may use the card meanwhile.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from memory_cards import cap_bytes, capped_name, to_run_capped
from memory_configs import Configuration, all_configurations
from memory_measured import read_measured, read_peers
from memory_receipt import receipt
from sixgig.catalogue.models import entry
from sixgig.files import write_json
from sixgig.hardware import probe

ROOT = Path(__file__).resolve().parent.parent
Item = TypeVar("Item")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="raw", type=Path, nargs="+", help="measured earlier, or a receipt")
    parser.add_argument("--peers", type=Path, help="what memory_peers.py wrote, or an earlier receipt")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "receipts")
    parser.add_argument("--work", type=Path, default=Path("runs/memory"))
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no further run after so long")
    parser.add_argument("--commit", help="the commit that was measured, where neither git nor RAW tells")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    if arguments.raw:
        measured = read_measured(arguments.raw, arguments.commit)
    else:
        commit = arguments.commit or _commit()
        path = measure(arguments.work, time.monotonic() + arguments.seconds, arguments.tiny, commit)
        if arguments.tiny:
            return
        measured = read_measured([path], None)
    if arguments.peers:
        measured |= read_peers(arguments.peers)
    value = receipt(measured, str(datetime.date.today()), _commit())
    path = arguments.out / f"{value['area']}-{value['date']}.json"
    write_json(path, value)
    for figure in value["figures"]:
        mark = {True: "met", False: "NOT MET", None: ""}[figure["met"]]
        print(f"{figure['name']:<36} {figure['value']:>10.4f}  {figure['target'] or '':<24} {mark}")
    print(path)


def measure(work: Path, end: float, tiny: bool, commit: str) -> Path:
    """Every configuration without a limit, then under the limits that are to be shown. The file that holds
    them is written after each, and what it has already is not run again.
    """
    path, about = work / "measured.json", {"device": _device(), "tiny": tiny}
    measured = {**about, "runs": {}, "capped": {}}
    if path.exists():
        measured = json.loads(path.read_text(encoding="utf-8"))
        if about != (earlier := {key: measured[key] for key in about}):
            raise SystemExit(f"{path} is of {earlier}, and this is {about}: give another --work")
    work.mkdir(parents=True, exist_ok=True)
    _load_libraries()
    runs, capped = measured["runs"], measured["capped"]
    configurations = sorted(all_configurations(), key=lambda one: not one.held_out)
    for one in _until([one for one in configurations if one.label not in runs], end):
        runs[one.label] = _in_child(one, None, work, tiny) | {"commit": commit}
        write_json(path, measured)
    to_run = [pair for pair in to_run_capped(configurations, runs) if capped_name(*pair) not in capped]
    for one, size in _until(to_run, end):
        limit_bytes = cap_bytes(one, size)
        found = _in_child(one, limit_bytes, work, tiny)
        capped[capped_name(one, size)] = {"commit": commit, "limit_bytes": limit_bytes} | {
            key: found.get(key) for key in ("error", "peak_allocated_bytes", "peak_reserved_bytes")
        }
        write_json(path, measured)
    return path


def _until(items: Sequence[Item], end: float) -> Iterator[Item]:
    for done, item in enumerate(items):
        if time.monotonic() > end:
            print(f"out of time: {len(items) - done} of {len(items)} left")
            return
        yield item


def _load_libraries() -> None:
    """Before forking, so that a run takes 2 s and not 10: importing them does not touch the card."""
    import accelerate  # noqa: F401
    from transformers import AutoModelForCausalLM

    import memory_programs  # noqa: F401

    for model in {one.model for one in all_configurations()}:
        AutoModelForCausalLM._model_mapping[type(hf_config(model))]


def _in_child(one: Configuration, limit_bytes: int | None, work: Path, tiny: bool) -> dict[str, Any]:
    """One run in a process of its own, so that it begins with an empty card."""
    path = work / "child.json"
    path.unlink(missing_ok=True)
    if not (pid := os.fork()):
        try:
            path.write_text(json.dumps(_run(one, limit_bytes, tiny)), encoding="utf-8")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    found: dict[str, Any] = {"error": "the process died"}
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
    limit = "" if limit_bytes is None else f" within {limit_bytes / 2**20:.0f} MiB"
    shown = found.get("error") or f"{found.get('peak_allocated_bytes', 0) / 2**20:.0f} MiB"
    print(f"{one.label}{limit}: {shown}, {found.get('seconds', 0):.1f} s", flush=True)
    return found


def _run(one: Configuration, limit_bytes: int | None, tiny: bool) -> dict[str, Any]:
    import torch

    import memory_programs

    is_cuda = torch.cuda.is_available()
    device = torch.device("cuda" if is_cuda else "cpu")
    result: dict[str, Any] = {}
    begun = time.monotonic()
    stages = _Stages(torch) if one.work.task == "split" and is_cuda else None
    try:
        if is_cuda:
            torch.zeros(1, device=device)
            free, total = torch.cuda.mem_get_info()
            result["context_bytes"] = total - free - torch.cuda.memory_reserved()
            if limit_bytes is not None:
                torch.cuda.set_per_process_memory_fraction(limit_bytes / total)
        network = memory_programs.build(hf_config(one.model, tiny), one.work, device)
        if is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            result["weights_bytes"] = torch.cuda.memory_allocated()
        if stages:
            memory_programs._show_stage = stages
        memory_programs.run(network, one.work, device)
        if is_cuda:
            torch.cuda.synchronize()
            free, total = torch.cuda.mem_get_info()
            result |= {
                "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
                "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
                "device_used_bytes": total - free,
            }
        if stages:
            result |= stages.result()
    except Exception as error:
        result["error"] = f"{type(error).__name__}: {error}"[:300]
    return result | {"seconds": time.monotonic() - begun}


class _Stages:
    """The peaks of each stage of a split, by the stage that has just ended."""

    def __init__(self, torch: Any) -> None:
        self._torch, self._allocated, self._reserved = torch, {}, 0

    def __call__(self, stage: str, share: float) -> None:
        memory = self._torch.cuda
        self._allocated[stage] = max(memory.max_memory_allocated(), self._allocated.get(stage, 0))
        self._reserved = max(memory.max_memory_reserved(), self._reserved)
        memory.reset_peak_memory_stats()

    def result(self) -> dict[str, Any]:
        self("end", 1.0)
        peaks = {"peak_allocated_bytes": max(self._allocated.values()), "peak_reserved_bytes": self._reserved}
        return {"stages": self._allocated, **peaks}


def hf_config(model: str, tiny: bool = False) -> Any:
    """transformers' configuration of a model of the catalogue."""
    from transformers import AutoConfig

    fields = dict(entry(model)["config"])
    if tiny:
        fields |= {"num_hidden_layers": 2}
        fields.pop("layer_types", None)
    fields |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


def _device() -> dict[str, Any]:
    """Read in a process of its own: this one must not touch the card."""
    code = (
        "import json, torch, transformers, platform; p = torch.cuda.is_available() and "
        "torch.cuda.get_device_properties(0); print(json.dumps({'name': p.name if p else 'CPU', "
        "'total_bytes': p.total_memory if p else 0, 'versions': {'torch': torch.__version__.split('+')[0], "
        "'transformers': transformers.__version__, 'python': platform.python_version()}}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    gpus = probe().gpus
    return json.loads(done.stdout.strip().splitlines()[-1]) | {"driver": gpus[0].driver if gpus else None}


def _commit() -> str:
    found = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
