"""`sixgig doctor`: what this machine has, what is missing, and the command that mends it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from importlib import metadata

from ..catalogue import EMBEDDED, all_models
from ..errors import IntegrityError
from ..hardware import Hardware, cache_root, choose_preset, probe
from ..load.fetch import is_fetched, model_folder
from ..units import GIB, format_bytes
from .common import Json, print_json, print_table

EXAMPLES = ("sixgig doctor", "sixgig doctor --json")
# What the smallest work needs: the embedded model's fetch, and the CPU preset's memory.
FETCH_BYTES, CPU_RUN_BYTES = 850_000_000, 3 * GIB


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at. `ok=None`: neither good nor bad; `remedy`: the command that mends it."""

    what: str
    ok: bool | None
    found: str
    remedy: str = ""


def doctor(json: Json = False) -> None:
    """What this machine has, what is missing, and the command that mends it."""
    hardware = probe()
    preset = choose_preset(hardware)
    findings = examine(hardware)
    if json:
        shown = {
            "hardware": asdict(hardware),
            "preset": preset,
            "findings": [asdict(item) for item in findings],
        }
        print_json(shown | {"ok": all(item.ok is not False for item in findings)})
        return
    marks = {True: "ok", False: "MISSING", None: "-"}
    print_table(
        ("what", "", "found", "what mends it"),
        [(item.what, marks[item.ok], item.found, item.remedy) for item in findings],
    )
    print(f"Experiments run here with --preset {preset}.")


def examine(hardware: Hardware) -> list[Finding]:
    """Every finding about this machine, in the order in which a person would mend them."""
    return [
        Finding(what="Python", ok=True, found=f"{hardware.python_version} on {hardware.system}"),
        Finding(what="processor", ok=True, found=f"{hardware.cpu_model}, {hardware.num_cores} usable cores"),
        _memory(hardware),
        _disk(hardware),
        *_gpus(hardware),
        _libraries(),
        _model(),
        _others(),
    ]


def _memory(hardware: Hardware) -> Finding:
    enough = hardware.ram_available_bytes >= CPU_RUN_BYTES
    found = f"{format_bytes(hardware.ram_bytes)}, {format_bytes(hardware.ram_available_bytes)} available"
    remedy = "" if enough else f"close other programs: {format_bytes(CPU_RUN_BYTES)} are needed"
    return Finding(what="memory", ok=enough, found=found, remedy=remedy)


def _disk(hardware: Hardware) -> Finding:
    root = cache_root()
    enough = is_fetched(EMBEDDED) or hardware.disk_free_bytes >= FETCH_BYTES
    remedy = "" if enough else "free some space, or point SIXGIG_CACHE to another disk"
    found = f"{format_bytes(hardware.disk_free_bytes)} free for {root}"
    if not os.access(next(folder for folder in (root, *root.parents) if folder.exists()), os.W_OK):
        enough, remedy = False, "this folder cannot be written: point SIXGIG_CACHE to one that can"
    return Finding(what="disk", ok=enough, found=found, remedy=remedy)


def _gpus(hardware: Hardware) -> list[Finding]:
    findings = [Finding(what="GPU", ok=False, found=problem) for problem in hardware.problems]
    if not hardware.gpus and not findings:
        return [Finding(what="GPU", ok=None, found="none; everything runs on the CPU", remedy="")]
    built = hardware.torch_cuda_version is not None
    remedy = "" if built else "this torch is built without CUDA: pip install --force-reinstall torch"
    for gpu in hardware.gpus:
        size = f"{format_bytes(gpu.total_bytes)}, {format_bytes(gpu.free_bytes)} free"
        found = f"{gpu.name}, {size}, compute {gpu.compute_capability}, driver {gpu.driver}"
        findings.append(Finding(what="GPU", ok=built, found=found, remedy=remedy))
    return findings


def _libraries() -> Finding:
    missing, found = [], []
    for name in ("torch", "transformers", "safetensors", "gguf"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    remedy = f"pip install {' '.join(missing)}" if missing else ""
    return Finding(what="libraries", ok=not missing, found=", ".join(found), remedy=remedy)


def _model() -> Finding:
    if not is_fetched(EMBEDDED):
        return Finding(
            what="embedded model", ok=False, found="not on this machine", remedy=f"sixgig fetch {EMBEDDED}"
        )
    try:
        folder = model_folder(EMBEDDED)
    except IntegrityError as error:
        return Finding(
            what="embedded model", ok=False, found=error.problem, remedy=f"sixgig fetch {EMBEDDED}"
        )
    return Finding(what="embedded model", ok=True, found=f"verified in {folder}")


def _others() -> Finding:
    names = [spec.name for spec in all_models() if spec.name != EMBEDDED and is_fetched(spec.name)]
    return Finding(what="other models", ok=None, found=", ".join(names) or "none fetched")
