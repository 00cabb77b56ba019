"""`sixgig doctor`: what this machine has, what is missing, and the command that mends it.

It answers whatever is broken: what cannot be looked at becomes a finding. Without a GPU it takes under 3 s;
with one, torch is imported to measure it.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import bandwidth, environment, hardware
from ..load import hub_access
from ..units import MIB
from .common import Json, print_json, print_table
from .findings import Attempts, Facts, Finding, cache_findings, machine_findings
from .findings_gpu import gpu_findings
from .findings_software import NEEDED, OPTIONAL, model_findings, software_findings

EXAMPLES = ("sixgig doctor", "sixgig doctor --quick", "sixgig doctor --json")
# The hub answers within a fraction of this where it answers at all, and doctor is to take under 3 s.
HUB_TIMEOUT_S = 2.0


def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Measure no memory speeds.")] = False,
    json: Json = False,
) -> None:
    """What this machine has, what is missing, and the command that mends it."""
    facts = gather(quick=quick)
    findings = examine(facts)
    preset = hardware.choose_preset(facts.hardware) if facts.hardware else "cpu"
    if json:
        print_json(_document(facts, findings, preset))
        return
    marks = {True: "ok", False: "MISSING", None: "-"}
    print_table(
        ("what", "", "found", "what mends it"),
        [(item.what, marks[item.ok], item.found, item.remedy) for item in findings],
    )
    print(f"Experiments run here with --preset {preset}.")


def gather(*, quick: bool) -> Facts:
    """Looks at everything; what fails in whatever way is named in `failures` and left out."""
    tries = Attempts()
    reinstall = "pip install --force-reinstall sixgig"
    # The hub is asked while everything else is looked at.
    hub_answer = tries.get("hub", lambda: hub_access.ask_hub_meanwhile(HUB_TIMEOUT_S), reinstall)
    machine = tries.get("hardware", hardware.probe, "report this line; it should be an ordinary answer")
    measured: dict[str, Any] = {}
    if machine is not None and not quick:
        measured = _measured(tries, machine)
    own_cache = tries.get(
        "cache",
        lambda: environment.folder_size(hardware.cache_root()),
        "point SIXGIG_CACHE to another folder",
    )
    unmet = tries.get("libraries", lambda: environment.unmet_requirements("sixgig"), reinstall)
    names = (*NEEDED, *OPTIONAL)
    libraries = tries.get("libraries", lambda: tuple(map(environment.library, names)), reinstall)
    triton = tries.get("Triton", environment.triton, "pip install --force-reinstall triton")
    num_cards = tries.get("PCI bus", environment.num_nvidia_cards, "nvidia-smi lists the cards")
    hub = tries.get("hub", hub_answer, reinstall) if hub_answer else None
    hub_cache = None
    if hub is not None:
        folder = Path(hub.cache_folder)
        hub_cache = tries.get(
            "hub cache", lambda: environment.folder_size(folder), "point HF_HUB_CACHE to another folder"
        )
    return Facts(
        hardware=machine,
        num_nvidia_cards=num_cards or 0,
        libraries=libraries or (),
        unmet=unmet or (),
        triton=triton,
        own_cache=own_cache,
        hub=hub,
        hub_cache=hub_cache,
        **measured,
        failures=tuple(tries.failures),
    )


def _measured(tries: Attempts, machine: hardware.Hardware) -> dict[str, Any]:
    # Two buffers; a machine that is short of memory is measured with smaller ones.
    buffer_bytes = min(bandwidth.HOST_BUFFER_BYTES, max(16 * MIB, machine.ram_available_bytes // 8))
    host = tries.get(
        "memory speed",
        lambda: bandwidth.host_bytes_per_second(machine.num_cores, buffer_bytes=buffer_bytes),
        "close other programs, or use --quick",
    )
    devices = None
    if machine.gpus and machine.torch_cuda_version is not None:
        remedy = (
            "close other programs on the card; if that does not help, reinstall torch and NVIDIA's driver"
        )
        devices = tries.get("GPU memory speed", bandwidth.device_speeds, remedy)
    return {"host_bytes_per_second": host, "devices": devices or ()}


def examine(facts: Facts) -> list[Finding]:
    """Every finding about this machine, in the order in which a person would mend them."""
    tries = Attempts()
    groups = [
        tries.get("machine", lambda: machine_findings(facts), "point SIXGIG_CACHE to another folder"),
        tries.get("GPU", lambda: gpu_findings(facts), "report this line"),
        tries.get("software", lambda: software_findings(facts), "report this line"),
        tries.get("caches", lambda: cache_findings(facts), "point SIXGIG_CACHE to another folder"),
        tries.get("models", model_findings, "point SIXGIG_CACHE to another folder"),
    ]
    found = [finding for group in groups for finding in group or []]
    return [*found, *facts.failures, *tries.failures]


def _document(facts: Facts, findings: list[Finding], preset: str) -> dict[str, Any]:
    return {
        "hardware": asdict(facts.hardware) if facts.hardware else None,
        "preset": preset,
        "findings": [asdict(item) for item in findings],
        "ok": all(item.ok is not False for item in findings),
        "measured": {
            "host_bytes_per_second": facts.host_bytes_per_second,
            "devices": [asdict(device) for device in facts.devices],
        },
        "libraries": {item.name: item.version for item in facts.libraries},
        "triton": asdict(facts.triton) if facts.triton else None,
        "hub": asdict(facts.hub) if facts.hub else None,
        "caches": {
            "own": asdict(facts.own_cache) if facts.own_cache else None,
            "hub": asdict(facts.hub_cache) if facts.hub_cache else None,
        },
    }
