"""`sixgig export`: a split's Base as a GGUF model, or its low-rank Ortho part as a GGUF adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError, UnknownNameError
from ..units import format_bytes
from .common import Json, print_json, print_table, say

EXAMPLES = (
    "sixgig export my-split --gguf base.gguf",
    "sixgig export my-split --gguf base-small.gguf --weights q4_1",
    "sixgig export my-split --gguf adapter.gguf --what adapter --json",
)

_PARTS = ("base", "adapter")


def export(
    split: Annotated[Path, typer.Argument(help="A folder that `sixgig split` wrote.")],
    gguf: Annotated[Path, typer.Option("--gguf", help="The file to write; not there yet.")],
    what: Annotated[str, typer.Option("--what", help="base, or adapter: U V of the Ortho part.")] = "base",
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            help="How the Base's layers are stored: auto, q8_0, q4_1, f16 or f32. auto is q8_0 where that is "
            "exact (up to 4 bits, groups of whole blocks of 32), or else f16.",
        ),
    ] = "auto",
    json: Json = False,
) -> None:
    """Write one part of a split for llama.cpp and what reads its files.

    base/ needs no export for transformers, nor does ortho/ for PEFT. The sparse part S has no place in an
    adapter. What is written is read again before it is kept.
    """
    if what not in _PARTS:
        raise UnknownNameError("part of a split", what, _PARTS)
    if what == "adapter" and weights != "auto":
        raise InputError("an adapter's factors are always f32", received=f"--weights {weights}")
    from ..integrations.gguf_export import export_adapter, export_base
    from ..load.artifact import is_base, read_manifest
    from ..load.artifact_format import BASE, ORTHO

    alone = is_base(split)
    if not alone:
        read_manifest(split)
    base = split if alone else split / BASE
    if what == "base":
        done = export_base(base, gguf, weights=weights)
    elif alone:
        raise InputError(
            "a Base alone has no adapter", where=str(split), todo=f"give the folder that holds {ORTHO}/"
        )
    else:
        done = export_adapter(base, split / ORTHO, gguf)
    facts = {
        "file": str(gguf),
        "what": what,
        "kind": done.kind,
        "exact": done.is_exact,
        "num_tensors": done.num_tensors,
        "num_bytes": done.num_bytes,
    }
    if json:
        print_json(facts)
    else:
        rounding = (
            "none" if done.is_exact else "to fp16: the weights differ from the Base's in the last digits"
        )
        rows = [
            ("file", f"{gguf}, {format_bytes(done.num_bytes)}"),
            ("what", what),
            ("stored as", done.kind),
            ("rounding", rounding),
        ]
        print_table(("what", "value"), rows, title="Export")
    if what == "adapter":
        say(f"{gguf} holds private texts, as {split / ORTHO} does: never publish it")
