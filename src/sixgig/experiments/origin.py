"""Where a run's numbers come from: its device, its texts, and what a report has to say of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ..data.corpora import Corpus
from ..errors import InputError
from ..hardware import Hardware
from ..provenance import DataSource
from ..report.store import RunDirectory

if TYPE_CHECKING:
    import torch

DATA = "data"  # the stage that keeps what a run read


def device_name(device: torch.device, hardware: Hardware) -> str:
    """Of the GPU that holds the model, else of the processor."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else hardware.cpu_model


def sources_of(corpora: Iterable[Corpus]) -> list[DataSource]:
    return [
        DataSource(
            name=corpus.name,
            revision_or_sha256=corpus.source,
            num_rows=corpus.num_rows,
            synthetic=corpus.synthetic,
        )
        for corpus in corpora
    ]


def own_text_notes(corpora: Iterable[Corpus]) -> Iterator[str]:
    """Said where public text is no benchmark."""
    if any(corpus.synthetic for corpus in corpora):
        yield (
            "public text is this package's own small corpora, not a benchmark: perplexities compare the arms "
            "of this run with one another and with nothing else"
        )


def require_same_data(run: RunDirectory, sources: Sequence[DataSource]) -> None:
    """Keeps what the run reads; raises InputError where a resume would read something else.

    Where an earlier process did stages and what it read is not known, the result's warnings say so.
    """
    here = [[source.name, source.revision_or_sha256] for source in sources]
    kept = run.load_stage(DATA)
    if kept is None:
        if any(run.stages_path.glob("*.json")):
            run.notices.append("what an earlier process of this run read was not kept, and not compared")
        run.save_stage(DATA, here)
    elif kept != here:
        changed = [f"{name} {digest}" for name, digest in here if [name, digest] not in kept] or [
            "fewer files than before"
        ]
        raise InputError(
            "the data are not those that this run began with, so that its numbers would be of two kinds",
            expected="; ".join(f"{name} {digest}" for name, digest in kept),
            received="; ".join(changed),
            where=str(run.path),
            todo="resume with the files of then, or start a new run",
        )
