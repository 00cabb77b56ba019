"""A run's stages, done in order, each kept: what an earlier process finished is read and never done twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..hardware import peak_rss_bytes
from ..memory.ladder import Fallbacks
from ..report.store import RunDirectory
from .kill_switch_files import WorkFiles
from .progress import RunProgress

# name -> (weight in tokens through the model, what to do; a dictionary of plain values comes back)
Stages = Mapping[str, tuple[float, Callable[[], dict[str, Any]]]]


@dataclass
class StageRunner:
    """Keeps what stages return, and how long they took and what they held at most."""

    run: RunDirectory
    device: torch.device
    progress: RunProgress
    fallbacks: Fallbacks
    files: WorkFiles
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: int = 0

    def go(self, stages: Stages) -> dict[str, dict[str, Any]]:
        """What every stage kept, by its name, from this process or an earlier one."""
        for name, (_, work) in stages.items():
            self.progress.begin(name)
            value = self.run.load_stage(name)
            if value is None:
                value = self._do(name, work)
                self.progress.end()
            else:
                self.files.expect(value["files"], self.run.stages_path / f"{name}.json")
                self.progress.end(loaded=True)
            self.kept[name] = value
            self.seconds[name] = value["seconds"]
            self.peak_bytes = max(self.peak_bytes, value["peak_bytes"])
        return self.kept

    def _do(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        started = time.monotonic()
        value = self.fallbacks.stage(name, work) | {"files": self.files.digests()}
        value |= {"seconds": time.monotonic() - started, "peak_bytes": self._peak_bytes()}
        return self.run.save_stage(name, value)

    def _peak_bytes(self) -> int:
        """Of the device that holds the model: tensors on a card, else the process's resident memory."""
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else peak_rss_bytes()


def teller(run: RunDirectory, progress: Callable[[], RunProgress]) -> Callable[[str], None]:
    """Says a fallback to people, and to the run's events, from where it comes into the warnings."""

    def announce(message: str) -> None:
        run.log("fallback", message=message)
        progress().note(message)

    return announce


def told_fallbacks(run: RunDirectory) -> list[str]:
    """Every fallback that a run's events tell of."""
    return [str(event["message"]) for event in run.events() if event.get("event") == "fallback"]
