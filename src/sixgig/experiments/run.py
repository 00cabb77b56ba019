"""`sixgig run`: from words at the command line to a finished run directory. The only walk of the pipeline.

probe -> catalogue -> plan -> load -> experiment -> report
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..cards import largest_card
from ..catalogue import ModelSpec, all_models
from ..catalogue.splitting import require_splittable, why_not_split
from ..data.corpora import data_dir_from_environment
from ..errors import DoesNotFitError, InputError, UnknownNameError
from ..hardware import Hardware, choose_preset, keep_few_kernels, probe
from ..load.fetch import find_model, model_folder
from ..memory import outside, usable_ram_bytes
from ..report.schema import Result
from ..report.store import RunDirectory
from ..units import format_bytes
from .governed import begin, governed
from .known import EXPERIMENTS, Experiment
from .settings import as_plain, changed

AUTO = "auto"  # as a model's name: the largest that fits


@dataclass(frozen=True, kw_only=True)
class Request:
    """One run as asked for. `None` means: choose by the hardware, or take the environment's."""

    experiment: str
    preset: str | None = None
    settings: Mapping[str, Any]
    device: str | None = None
    data_dir: Path | None = None
    out: Path = Path("runs")
    resume: bool = False
    cache_dir: Path | None = None
    quiet: bool = False
    vram_bytes: int | None = None  # of the card, that the run may take; None: all


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A request checked against this machine; nothing is loaded yet."""

    config: Any
    device: str
    hardware: Hardware
    spec: ModelSpec
    plan: dict[str, Any]
    data_dir: Path | None
    notes: tuple[str, ...] = ()  # for people, before anything starts


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished run."""

    result: Result
    folder: Path
    report: Path


def prepare(request: Request) -> Prepared:
    """Checks names, settings, packages, device and sizes. Raises before anything is loaded or written."""
    if request.experiment not in EXPERIMENTS:
        raise UnknownNameError("experiment", request.experiment, [*EXPERIMENTS, "all"])
    experiment = EXPERIMENTS[request.experiment]
    hardware = probe(request.cache_dir)
    device = _device(request.device, hardware)
    card = _card(request.vram_bytes, device, hardware)
    config = _config(request, device, card)
    experiment.require(config)
    limit_bytes = _limit_bytes(device, card)
    notes: tuple[str, ...] = ()
    if config.model == AUTO:
        spec, reason = choose_model(config, device, limit_bytes, experiment)
        config, notes = replace(config, model=spec.name), (reason,)
    else:
        spec = find_model(config.model, cache_dir=request.cache_dir)
        require_splittable(spec)
    needed_bytes = experiment.peak_bytes(spec, config, device)
    if needed_bytes > limit_bytes:
        raise DoesNotFitError(
            f"{spec.name} does not fit for {request.experiment} on this {device} device",
            expected=f"at most {format_bytes(limit_bytes)}",
            received=f"it needs about {format_bytes(needed_bytes)}: {experiment.holds}",
            todo="take a smaller model: -s model=auto takes the largest that fits",
        )
    return Prepared(
        config=config,
        device=device,
        hardware=hardware,
        spec=spec,
        plan={
            "task": experiment.task,
            "peak_bytes": needed_bytes,
            "limit_bytes": limit_bytes,
            "fits": True,
            "budget_bytes": request.vram_bytes,
            **_device_facts(device, hardware),
        },
        data_dir=request.data_dir or data_dir_from_environment(),
        notes=notes,
    )


def config_of(request: Request) -> Any:
    """The settings of `request` on this machine, whether or not it can run. Raises for wrong ones."""
    hardware = probe(request.cache_dir)
    device = _device(request.device, hardware)
    return _config(request, device, _card(request.vram_bytes, device, hardware))


def _config(request: Request, device: str, card: Hardware) -> Any:
    preset = request.preset or (choose_preset(card) if device == "cuda" else "cpu")
    return changed(EXPERIMENTS[request.experiment].preset(preset), request.settings, where="-s or --config")


def choose_model(
    config: Any, device: str, limit_bytes: int, experiment: Experiment = EXPERIMENTS["kill-switch"]
) -> tuple[ModelSpec, str]:
    """The largest model of the catalogue that can be split and whose run stays within `limit_bytes`, and why.

    Of models of one size the first in the catalogue. Raises DoesNotFitError where not even the smallest does.
    """
    able = [spec for spec in all_models() if why_not_split(spec) is None]
    needs = {spec.name: experiment.peak_bytes(spec, config, device) for spec in able}
    fitting = [spec for spec in able if needs[spec.name] <= limit_bytes]
    if not fitting:
        raise DoesNotFitError(
            f"no model fits on this {device} device",
            expected=f"at most {format_bytes(limit_bytes)}",
            received=f"the smallest, {min(needs, key=lambda name: needs[name])}, needs about "
            f"{format_bytes(min(needs.values()))}",
        )
    chosen = max(fitting, key=lambda spec: spec.num_parameters)
    larger = [spec for spec in able if spec.num_parameters > chosen.num_parameters]
    reason = f"model {chosen.name}: needs {format_bytes(needs[chosen.name])} of {format_bytes(limit_bytes)}"
    if larger:
        following = min(larger, key=lambda spec: spec.num_parameters)
        reason += f"; {following.name} would need {format_bytes(needs[following.name])}"
    return chosen, reason


def _limit_bytes(device: str, hardware: Hardware) -> int:
    """What tensors can have of the largest card, or of the machine."""
    card = largest_card(hardware.gpus) if device == "cuda" else None
    if card is None:
        return usable_ram_bytes(hardware.ram_bytes)
    return outside(card, "split").limit_bytes(card)


def run(request: Request, announce: Callable[[str], None] = lambda message: None) -> Finished:
    """Runs the experiment, or goes on with an interrupted run of the same settings, and writes the report."""
    prepared = prepare(request)
    for note in prepared.notes:
        announce(note)
    folder = model_folder(prepared.config.model, cache_dir=request.cache_dir)
    if prepared.device == "cpu":
        keep_few_kernels()
    from ..report import write_report

    experiment = EXPERIMENTS[request.experiment].load()
    with open_directory(request, prepared) as directory:
        if directory.result_path.exists():
            result = Result.read(directory.result_path)
        else:
            result = governed(
                directory,
                prepared.device,
                lambda device, memory_text: experiment(
                    prepared.config,
                    directory,
                    folder=folder,
                    device=device,
                    data_dir=prepared.data_dir,
                    hardware=prepared.hardware,
                    plan=prepared.plan,
                    quiet=request.quiet,
                    memory_text=memory_text,
                ),
                resumed=request.resume,
                budget_bytes=request.vram_bytes,
            )
        return Finished(result=result, folder=directory.path, report=write_report(result, directory.path))


def open_directory(request: Request, prepared: Prepared) -> RunDirectory:
    """A new run directory, or with `resume` the newest one, which must have the same settings."""
    # The data decides the numbers too, so a resume with other data is refused like other settings.
    config = as_plain(prepared.config) | {
        "experiment": request.experiment,
        "device": prepared.device,
        "public_text": "benchmark" if prepared.data_dir else "package",
    }
    return begin(request.out, request.experiment, config, resume=request.resume)


def _device_facts(device: str, hardware: Hardware) -> dict[str, Any]:
    if device == "cpu":
        return {"device_total_bytes": hardware.ram_bytes, "device_driver": None}
    card = max(hardware.gpus, key=lambda gpu: gpu.total_bytes)
    return {"device_total_bytes": card.total_bytes, "device_driver": card.driver}


def _card(vram_bytes: int | None, device: str, hardware: Hardware) -> Hardware:
    """The machine as the run may use it: no card larger than `vram_bytes`."""
    if vram_bytes is None:
        return hardware
    if device != "cuda":
        raise InputError(
            "--vram holds a run on a GPU to a part of the card, and this run is on the CPU",
            received=f"--vram {format_bytes(vram_bytes)}",
            todo="leave --vram out; `sixgig plan MODEL --vram ...` plans for a card that is not here",
        )
    total_bytes = max(gpu.total_bytes for gpu in hardware.gpus)
    if not 0 < vram_bytes <= total_bytes:
        raise InputError(
            "--vram must lie within the card",
            expected=f"more than 0 and at most {format_bytes(total_bytes)}",
            received=format_bytes(vram_bytes),
        )
    cards = tuple(replace(gpu, total_bytes=min(gpu.total_bytes, vram_bytes)) for gpu in hardware.gpus)
    return replace(hardware, gpus=cards)


def _device(asked: str | None, hardware: Hardware) -> str:
    if asked not in (None, "cpu", "cuda"):
        raise UnknownNameError("device", asked, ("cpu", "cuda"))
    usable = choose_preset(hardware) != "cpu"
    if asked == "cuda" and not usable:
        raise InputError(
            "no usable CUDA GPU here",
            expected="a GPU and a torch built for it",
            received="; ".join(hardware.problems) or "no GPU",
            todo="sixgig doctor says what is missing; --device cpu always works",
        )
    return asked or ("cuda" if usable else "cpu")
