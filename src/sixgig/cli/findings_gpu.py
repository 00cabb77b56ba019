"""What `sixgig doctor` says of the GPUs: memory, who uses it, speed, bf16, and whether torch suits them."""

from __future__ import annotations

import os

from ..bandwidth import DeviceSpeed
from ..cards import card_for, has_bf16
from ..environment import is_windows, torch_suits_driver
from ..hardware import Gpu, Hardware
from ..units import format_bytes
from .findings import Facts, Finding, spilling_finding

# Above this share of the card, what others hold decides what fits.
MUCH_USED = 0.15
# A copy reaches 80-93% of the specification; well below that something slows the card down.
SLOW_SHARE = 0.6


def gpu_findings(facts: Facts) -> list[Finding]:
    """Everything about GPUs, in the order in which a person would mend it."""
    hardware = facts.hardware
    if hardware is None:
        return []
    restart = "restart the machine; if that does not help, reinstall NVIDIA's driver"
    problems = [Finding(what="GPU", ok=False, found=problem, remedy=restart) for problem in hardware.problems]
    if not hardware.gpus:
        return problems or [_no_gpu(facts)]
    findings = list(problems)
    for gpu in hardware.gpus:
        findings += [_gpu(gpu), _in_use(gpu), _bf16(gpu)]
    return [*findings, _torch(hardware), *_speeds(facts), *spilling_finding(hardware)]


def _no_gpu(facts: Facts) -> Finding:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if facts.num_nvidia_cards and hidden is not None:
        found = f"CUDA_VISIBLE_DEVICES={hidden!r} hides every card"
        return Finding(what="GPU", ok=None, found=found, remedy="unset CUDA_VISIBLE_DEVICES")
    if facts.num_nvidia_cards:
        return Finding(
            what="GPU",
            ok=False,
            found="an NVIDIA card is here, but no driver that this process can use",
            remedy="install NVIDIA's driver; a container must be started with --gpus all",
        )
    return Finding(what="GPU", ok=None, found="none; everything runs on the CPU")


def _gpu(gpu: Gpu) -> Finding:
    size = f"{format_bytes(gpu.total_bytes)}, {format_bytes(gpu.free_bytes)} free"
    found = f"{gpu.name}, {size}, compute {gpu.compute_capability}, driver {gpu.driver}"
    return Finding(what="GPU", ok=True, found=found)


def _in_use(gpu: Gpu) -> Finding:
    used_bytes = gpu.used_by_others_bytes
    if used_bytes is None:
        return Finding(what="GPU in use", ok=None, found="the driver does not tell")
    is_much = used_bytes > MUCH_USED * gpu.total_bytes
    remedy = "close what nvidia-smi lists, browsers first: their windows live on the card" if is_much else ""
    found = f"{format_bytes(used_bytes)} by other programs and the driver"
    return Finding(what="GPU in use", ok=None if is_much else True, found=found, remedy=remedy)


def _bf16(gpu: Gpu) -> Finding:
    if has_bf16(gpu.compute_capability):
        return Finding(what="bf16", ok=True, found="in hardware")
    found = f"not in hardware (compute {gpu.compute_capability}, needs 8.0): bf16 is emulated and slow"
    return Finding(what="bf16", ok=None, found=found, remedy="prefer float16 or float32 on this card")


def _torch(hardware: Hardware) -> Finding:
    built, served = hardware.torch_cuda_version, hardware.driver_cuda_version
    if hardware.torch_version is None:
        return Finding(what="torch and GPU", ok=False, found="torch is not here", remedy=_install(hardware))
    if built is None:
        found = f"torch {hardware.torch_version} is built without CUDA"
        return Finding(what="torch and GPU", ok=False, found=found, remedy=_install(hardware))
    if served is None:
        found = f"built for CUDA {built}; the driver does not say what it serves"
        return Finding(what="torch and GPU", ok=None, found=found)
    found = f"built for CUDA {built}, the driver serves up to {served}"
    suits = torch_suits_driver(built, served)
    remedy = "" if suits else f"update NVIDIA's driver, or: {_install(hardware)}"
    return Finding(what="torch and GPU", ok=suits, found=found, remedy=remedy)


def _install(hardware: Hardware) -> str:
    """The command that installs a torch for this driver. The index's own torch is for CUDA 13, on Linux."""
    is_13 = int((hardware.driver_cuda_version or "13").partition(".")[0]) >= 13
    command = "pip install --force-reinstall torch"
    if is_13 and not is_windows(hardware.system):
        return command
    return f"{command} --index-url https://download.pytorch.org/whl/{'cu130' if is_13 else 'cu126'}"


def _speeds(facts: Facts) -> list[Finding]:
    return [finding for device in facts.devices for finding in _speed(device, facts)]


def _speed(device: DeviceSpeed, facts: Facts) -> list[Finding]:
    gigabytes = device.bytes_per_second / 1e9
    found, ok, remedy = f"{gigabytes:.0f} GB/s read and written while copying", None, ""
    gpu = next((g for g in facts.hardware.gpus if g.name == device.name), None) if facts.hardware else None
    card = card_for(gpu) if gpu else None
    if card is not None and card.bandwidth_bytes_per_second is not None:
        share = device.bytes_per_second / card.bandwidth_bytes_per_second
        found += f", {share:.0%} of the specification's {card.bandwidth_bytes_per_second / 1e9:.0f}"
        ok = True if share >= SLOW_SHARE else None
        remedy = "" if ok else "plug the charger in, choose full power, and close other programs on the card"
    findings = [Finding(what="GPU memory speed", ok=ok, found=found, remedy=remedy)]
    if not device.has_kernels:
        found = f"torch has no code for compute {device.compute_capability} ({device.name})"
        remedy = _install(facts.hardware) if facts.hardware else ""
        findings.append(Finding(what="torch and GPU", ok=False, found=found, remedy=remedy))
    return findings
