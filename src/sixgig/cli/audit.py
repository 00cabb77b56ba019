"""`sixgig audit`: tries to get a user's own records out of a split's Base, and says in words what came."""

from __future__ import annotations

import hmac
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DoesNotFitError, InputError, NotAvailableError
from ..hardware import Hardware, keep_few_kernels, probe
from ..units import format_bytes
from .common import Json, print_json, say
from .device import Device, choose_device
from .split_choice import read_public
from .split_sources import row_hmac, weights_sha256

if TYPE_CHECKING:
    from ..data.private import PrivateRecord
    from ..experiments.audit import AuditSources
    from ..experiments.audit_config import AuditConfig
    from ..report.schema import Result

EXAMPLES = (
    "sixgig audit my-split --private diary.jsonl",
    "sixgig audit my-split --private diary.jsonl --public wiki.txt --before smollm2-135m-instruct",
    "sixgig audit my-split --private held-out.jsonl --json",
)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """What was named on the command line: a split, or a Base on its own."""

    split: Path | None
    base: Path
    manifest: dict[str, Any]
    facts: dict[str, Any]  # what ortho/ keeps about the private file
    ortho_sha256: str | None


def audit(
    split_dir: Annotated[
        Path, typer.Argument(metavar="SPLIT_DIR", help="A split, or a Base alone (then without contrast).")
    ],
    private: Annotated[
        Path, typer.Option("--private", help="Records that the model saw, JSONL, as for `sixgig split`.")
    ],
    public: Annotated[
        Path | None,
        typer.Option("--public", help="The public text: records that it holds too are refused."),
    ] = None,
    before: Annotated[
        str | None,
        typer.Option("--before", help="The model before it saw them: what it knows was guessed."),
    ] = None,
    alpha: Annotated[float, typer.Option("--alpha", help="The switch of the audited model, below 1.")] = 0.0,
    device: Device = None,
    seed: Annotated[int, typer.Option("--seed", help="Decides every random draw.")] = 0,
    out: Annotated[Path, typer.Option("--out", help="Where the audit's folder is made.")] = Path("runs"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the newest audit there, of the same inputs.")
    ] = False,
    json: Json = False,
) -> None:
    """Audit a split: does its Base still know your records?

    Each record's value is asked for with what stands before it, against the values of the other records,
    from the Base and, as the contrast, from the whole split. Exit status 0: none found, and it would have
    shown; 1: leakage found, or the records are too few or the contrast too weak to tell.
    """
    from ..experiments.audit_config import AuditConfig

    config = AuditConfig(alpha=alpha, seed=seed)
    place = _place(split_dir)
    if alpha > 0 and place.ortho_sha256 is None:
        raise InputError(
            "only the Base is here, which has no switch to turn",
            received=f"--alpha {alpha:g}",
            todo="leave --alpha out",
        )
    records = _records(private, public)
    hardware = probe()
    device_name = choose_device(device, hardware)
    before_folder = _before(before, place)
    if device_name == "cpu":
        keep_few_kernels()
    plan = _plan(place, config, device_name, hardware, before_folder is not None)
    sources = _sources(place, before_folder, records, private, config)
    identity = _identity(place, before_folder, config, device_name)
    folder, result = _run(config, sources, identity, plan, device_name, hardware, out, resume, quiet=json)
    _record(place, result)
    _show(folder, result, json)


def _place(folder: Path) -> _Place:
    from ..load.artifact import is_base, is_split, read_manifest
    from ..load.artifact_audit import ortho_digest, private_facts
    from ..load.artifact_format import BASE

    if is_split(folder):
        return _Place(
            split=folder,
            base=folder / BASE,
            manifest=read_manifest(folder),
            facts=private_facts(folder),
            ortho_sha256=ortho_digest(folder),
        )
    if is_base(folder):
        say("A Base alone: without the Ortho part nothing shows that a memory would have been seen.")
        return _Place(split=None, base=folder, manifest={}, facts={}, ortho_sha256=None)
    raise InputError(
        "not a split" if folder.exists() else "no such folder",
        expected="a folder with manifest.json and base/, or a base/ with base.json",
        where=str(folder),
        todo="make one: sixgig split",
    )


def _records(private: Path, public: Path | None) -> tuple[PrivateRecord, ...]:
    from ..data.overlap import refuse_overlap
    from ..data.private import read_private

    records = read_private(private)
    if public is not None:
        refuse_overlap(records, read_public(public).text)
    return records


def _before(name: str | None, place: _Place) -> Path | None:
    """The folder of the model from before; says where it is not the one that the split was made with."""
    from ..load.artifact_audit import weights_digests
    from ..load.fetch import model_folder

    told = weights_digests(place.manifest)
    if name is None:
        if told is not None:
            say("This split was made with a model from before; --before takes what it knew as the baseline.")
        return None
    folder = model_folder(name)
    if told is not None and weights_sha256(folder) != told:
        raise InputError(
            "not the model from before that this split was made with",
            expected=f"weights of digest {_short(told)}",
            received=_short(weights_sha256(folder)),
            where=str(folder),
            todo="give that model, or leave --before out",
        )
    return folder


def _short(digests: dict[str, str]) -> str:
    return ", ".join(f"{name} {digest[:12]}" for name, digest in sorted(digests.items())[:3])


def _plan(
    place: _Place, config: AuditConfig, device: str, hardware: Hardware, with_before: bool
) -> dict[str, Any]:
    """Raises DoesNotFitError before anything is loaded."""
    from ..cards import largest_card
    from ..catalogue.local import from_config
    from ..experiments.audit_memory import peak_bytes
    from ..memory import outside, usable_ram_bytes

    spec = from_config(place.base, packed=True)
    card = largest_card(hardware.gpus) if device == "cuda" else None
    limit = usable_ram_bytes(hardware.ram_bytes) if card is None else outside(card, "split").limit_bytes(card)
    needed = peak_bytes(spec, config, device, with_before=with_before)
    if needed > limit:
        raise DoesNotFitError(
            f"this split cannot be audited on this {device} device",
            expected=f"at most {format_bytes(limit)}",
            received=f"about {format_bytes(needed)}: the Base in 16 bit beside its codes, and a look",
            todo="leave --before out" if with_before else "use a larger machine",
        )
    return {"task": "looking", "peak_bytes": needed, "limit_bytes": limit, "fits": True}


def _sources(
    place: _Place,
    before: Path | None,
    records: tuple[PrivateRecord, ...],
    private: Path,
    config: AuditConfig,
) -> AuditSources:
    from ..experiments.audit import AuditSources
    from ..experiments.audit_records import audit_records
    from ..load.loaded import load_tokenizer

    encode = _encoder(load_tokenizer(place.base))
    found = audit_records(records, encode, config, _was_seen(place, private))
    if before is not None:
        theirs = _encoder(load_tokenizer(before))
        if any(encode(record.text) != theirs(record.text) for record in records):
            raise InputError(
                "the model from before reads these records as other tokens than the split",
                where=str(before),
                todo="give the model that the split's own was trained from",
            )
    return AuditSources(
        base=place.base,
        split=place.split,
        has_ortho=place.ortho_sha256 is not None,
        before=before,
        records=replace(found, notes=(*found.notes, *_notes(place))),
        private_content=private.read_bytes(),
    )


def _encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    return lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]


def _was_seen(place: _Place, private: Path) -> Callable[[PrivateRecord], bool | None]:
    """Whether the split was made with a record, by the keyed digests that ortho/ keeps.

    A split from before rows had digests knows its private file as a whole: the same file is all seen.
    """
    key, rows = place.facts.get("hmac_key"), place.facts.get("rows_hmac_sha256")
    if not isinstance(key, str) or not re.fullmatch("([0-9a-f]{2})+", key):
        return lambda record: None
    if isinstance(rows, list):
        known = set(map(str, rows))
        return lambda record: row_hmac(record, key) in known
    told = place.manifest.get("data", {}).get("private", {}).get("hmac_sha256")
    same = hmac.new(bytes.fromhex(key), private.read_bytes(), "sha256").hexdigest() == told
    return lambda record: True if same else None


def _notes(place: _Place) -> tuple[str, ...]:
    if place.split is not None and place.ortho_sha256 is None:
        return ("the split's ortho/ is not here, so that the contrast is missing",)
    return ()


def _identity(place: _Place, before: Path | None, config: AuditConfig, device: str) -> dict[str, Any]:
    """All that decides the numbers but the private file, whose digest stays in the audit's work/."""
    from ..experiments.settings import as_plain
    from ..load.artifact_audit import base_digest

    return as_plain(config) | {
        "experiment": "audit",
        "device": device,
        "base_sha256": base_digest(place.base),
        "ortho_sha256": place.ortho_sha256,
        "before_sha256": None if before is None else weights_sha256(before),
    }


def _run(
    config: AuditConfig,
    sources: AuditSources,
    identity: dict[str, Any],
    plan: dict[str, Any],
    device: str,
    hardware: Hardware,
    out: Path,
    resume: bool,
    *,
    quiet: bool,
) -> tuple[Path, Result]:
    from ..experiments.audit import run_audit
    from ..experiments.governed import governed

    with _directory(out, identity, resume) as run:
        result = governed(
            run,
            device,
            lambda at, memory_text: run_audit(
                config,
                run,
                sources=sources,
                device=at,
                hardware=hardware,
                plan=plan,
                quiet=quiet,
                memory_text=memory_text,
            ),
            resumed=resume,
            # What decides the numbers stands in the result too, so that it says which Base was audited.
            shown=identity,
        )
        return run.path, result


def _directory(out: Path, identity: dict[str, Any], resume: bool) -> Any:
    from ..experiments.governed import begin
    from ..report.store import RunDirectory

    latest = RunDirectory.find_latest(out, "audit") if resume else None
    if latest is not None and (latest / "result.json").exists():
        # Which records it was asked about is known while it runs only, so its answer is nobody else's.
        raise NotAvailableError(
            "the newest audit there is finished",
            expected=f"an interrupted one in {out}",
            where=str(latest),
            todo="start one without --resume; `sixgig report` shows the finished one",
        )
    return begin(out, "audit", identity, resume=resume)


def _record(place: _Place, result: Result) -> None:
    """What was found, into the split's manifest; a Base alone has none."""
    from ..load.artifact_audit import record_audit
    from ..report.audit_words import audit_summary

    if place.split is not None:
        record_audit(place.split, audit_summary(result), base_sha256=result.config["base_sha256"])


def _show(folder: Path, result: Result, json: bool) -> None:
    """Words first, then tables; exits with 1 unless nothing was found and it would have shown."""
    from ..report.audit_words import NONE_SHOWN, audit_answer, audit_words, not_shown

    answer = audit_answer(result)
    if json:
        print_json(
            {
                "folder": str(folder),
                "answer": answer,
                "words": list(audit_words(result)),
                "not_shown": list(not_shown(result)),
                "result": result.to_json_value(),
            }
        )
    else:
        _print(folder, result)
    if answer != NONE_SHOWN:
        raise typer.Exit(1)


def _print(folder: Path, result: Result) -> None:
    from rich.console import Console

    from ..report.audit_words import audit_words, not_shown
    from ..report.tables import terminal_tables

    console = Console(width=None if sys.stdout.isatty() else 120)
    for sentence in audit_words(result):
        console.print(sentence, markup=False, highlight=False)
    console.print("\nWhat this does not show:", highlight=False)
    for sentence in not_shown(result):
        console.print(f"- {sentence}", markup=False, highlight=False)
    console.print()
    for table in terminal_tables(result):
        console.print(table)
    for warning in result.warnings:
        say(warning)
    console.print(f"report: {folder / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
