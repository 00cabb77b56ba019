"""The audit of a split on a user's own records: what the Base still ties to its question, held against the
whole split, against the values of other records, and where it is there against the model from before.

One model stands in memory at a time. The Base is opened without the Ortho part: what is audited is what would
be published, not a switch. Nothing that is kept holds a text: rows have their numbers.
"""

from __future__ import annotations

import gc
import hmac
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..evaluate.audit_looks import look_at
from ..evaluate.batching import look_ladder
from ..files import read_json, write_json
from ..hardware import Hardware
from ..layers.split_linear import set_alpha
from ..load.artifact import attach_ortho, open_base
from ..load.artifact_format import ORTHO
from ..load.artifact_read import check_manifest
from ..load.loaded import LoadedModel, linear_layers, load
from ..memory.ladder import Fallbacks
from ..provenance import DataSource, provenance
from ..report.audit_words import AUDITED, BEFORE
from ..report.schema import Memory, Result
from ..report.store import RunDirectory
from ..transform.training import mixed_precision
from .audit_config import AuditConfig
from .audit_records import AuditRecords
from .audit_scores import AuditLook, AuditScores
from .kill_switch_files import WorkFiles
from .origin import device_name
from .progress import RunProgress
from .settings import as_plain
from .split_rows import Key
from .stages import StageRunner, Stages, teller, told_fallbacks


@dataclass(frozen=True, kw_only=True)
class AuditSources:
    """`split` None: a Base alone. `has_ortho`: whether the contrast can be measured."""

    base: Path
    split: Path | None
    has_ortho: bool
    before: Path | None
    records: AuditRecords = field(repr=False)
    private_content: bytes = field(repr=False)


def run_audit(
    config: AuditConfig,
    run: RunDirectory,
    *,
    sources: AuditSources,
    device: torch.device,
    hardware: Hardware,
    plan: Mapping[str, Any],
    quiet: bool = False,
    memory_text: Callable[[], str] = lambda: "",
) -> tuple[Result, list[dict[str, Any]]]:
    """Runs (or goes on with) the audit in `run`; returns the result and one row a record and model.

    Raises InputError where an audit that goes on is given another private file.
    """
    shown = RunProgress({}, quiet=quiet, memory=memory_text)
    fallbacks = Fallbacks(teller(run, lambda: shown), run.log, device=device, folder=run.path)
    work = Audit(config, sources, device, fallbacks)
    _same_file(run, sources.private_content)
    stages = work.stages()
    shown = RunProgress(
        {name: weight for name, (weight, _) in stages.items()}, quiet=quiet, memory=memory_text
    )
    work.progress = shown
    with shown:
        runner = StageRunner(run, device, shown, fallbacks, WorkFiles(run.work_path))
        kept = runner.go(stages)
    work.close()
    told = kept["records"]
    looks = {key: AuditLook.from_stage(kept[name], told["pools"]) for key, name in work.look_stages().items()}
    scorer = AuditScores(
        looks=looks, rows=told["rows"], seen=told["seen"], alpha=config.alpha, seed=config.seed
    )
    name = device_name(device, hardware)
    source = DataSource(
        name="private records", revision_or_sha256=None, num_rows=len(told["rows"]), synthetic=False
    )
    facts = {
        "num_records": len(told["rows"]),
        "num_seen": sum(one is True for one in told["seen"]),
        "num_known": sum(one is not None for one in told["seen"]),
    }
    result = Result(
        experiment="audit",
        status="complete",
        config=as_plain(config),
        provenance=asdict(provenance([config.seed], [source], device_name=name)) | {"audit": facts},
        plan=dict(plan),
        memory=Memory(planned_peak_bytes=plan.get("peak_bytes"), measured_peak_bytes=runner.peak_bytes),
        timings={**runner.seconds, "whole_run": run.seconds()},
        scores=scorer.all(),
        verdicts=scorer.verdicts(),
        warnings=list(dict.fromkeys([*run.notices, *told_fallbacks(run), *told["notes"]])),
    )
    return result, list(_samples(looks, told))


class Audit:
    """The stages. Each opens the model that it needs, so that a resume may begin anywhere."""

    def __init__(
        self, config: AuditConfig, sources: AuditSources, device: torch.device, fallbacks: Fallbacks
    ) -> None:
        self._config, self._sources, self._device = config, sources, device
        self._fallbacks = fallbacks
        self.progress = RunProgress({}, quiet=True)
        self._opened: tuple[str, LoadedModel] | None = None

    def stages(self) -> Stages:
        records = self._sources.records
        weight = sum(
            sum(len(records.questions[place][0]) for place in pool.members)
            + len(pool.members) * sum(len(records.questions[place][1]) for place in pool.values)
            for pool in records.pools
        )
        looks = {name: (weight, partial(self._look, *key)) for key, name in self.look_stages().items()}
        return {"records": (0, self._records), **looks}

    def look_stages(self) -> dict[Key, str]:
        found: dict[Key, str] = {(AUDITED, self._config.alpha): "look-base"}
        found |= {(AUDITED, 1.0): "look-whole"} if self._sources.has_ortho else {}
        return found | ({(BEFORE, None): "look-before"} if self._sources.before is not None else {})

    def close(self) -> None:
        """Lets go of the model at hand."""
        self._opened = None
        gc.collect()

    def _records(self) -> dict[str, Any]:
        """Row numbers and who is compared with whom; scores are made from this alone."""
        records = self._sources.records
        return {
            "rows": list(records.rows),
            "seen": list(records.seen),
            "pools": [{"members": list(pool.members), "own": list(pool.own)} for pool in records.pools],
            "notes": list(records.notes),
        }

    def _look(self, arm: str, alpha: float | None) -> dict[str, Any]:
        loaded = self._before() if arm == BEFORE else self._split(alpha or 0.0)
        ladder = look_ladder(self._config.positions_per_batch, self._fallbacks, where=arm)
        with mixed_precision(self._device):
            return look_at(
                loaded,
                self._sources.records.questions,
                self._sources.records.pools,
                ladder=ladder,
                progress=self.progress.at,
            )

    def _split(self, alpha: float) -> LoadedModel:
        sources, wanted = self._sources, "base" if alpha == 0 else "split"
        if self._opened is None or self._opened[0] not in ("base", wanted):
            self.close()
            if sources.split is not None:
                check_manifest(sources.split, alpha > 0)
            self._opened = "base", open_base(sources.base, device=self._device)
        name, loaded = self._opened
        if name == "base" and alpha > 0:
            assert sources.split is not None
            check_manifest(sources.split, with_ortho=True)
            attach_ortho(loaded, sources.split / ORTHO)
            self._opened = "split", loaded
        set_alpha(loaded.network, alpha)
        return loaded

    def _before(self) -> LoadedModel:
        self.close()
        assert self._sources.before is not None
        loaded = load(self._sources.before, device=self._device)
        for layer in linear_layers(loaded.network).values():
            layer.to(torch.bfloat16)  # as the passes compute, so that they need not cast it each time
        self._opened = "before", loaded
        return loaded


def _same_file(run: RunDirectory, content: bytes) -> None:
    """A keyed digest of the private file, its key in work/, which goes when the audit is complete."""
    path = run.work_path / "private.json"
    if path.is_file():
        kept = read_json(path, max_bytes=2**16)
        if hmac.compare_digest(_digest(kept["hmac_key"], content), kept["hmac_sha256"]):
            return
        raise InputError(
            "the private file has changed since this audit began",
            where=str(run.path),
            todo="resume with the file as it was, or start a new audit without --resume",
        )
    hmac_key = secrets.token_bytes(32).hex()
    write_json(path, {"hmac_key": hmac_key, "hmac_sha256": _digest(hmac_key, content)})
    path.chmod(0o600)


def _digest(hmac_key: str, content: bytes) -> str:
    return hmac.new(bytes.fromhex(hmac_key), content, "sha256").hexdigest()


def _samples(looks: Mapping[Key, AuditLook], told: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for (arm, alpha), look in looks.items():
        for place, row in enumerate(told["rows"]):
            yield {
                "kind": "record",
                "arm": arm,
                "alpha": alpha,
                "row": row,
                "seen_by_the_split": told["seen"][place],
                "recited": bool(look.recited[place]),
                "exact_token_share": float(look.exact_tokens[place]),
                "pairs_won": float(look.own.wins[place]),
                "pairs": float(look.own.controls[place]),
                "exposure_bits": float(look.own.exposure[place]),
                "most_bits": float(look.own.most[place]),
            }
