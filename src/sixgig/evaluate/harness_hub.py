"""Which commit of a hub data set is read, asked before anything is downloaded, its size said first."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import NotAvailableError
from ..load.hub import refusals_explained
from ..units import format_bytes
from .harness_tasks import HarnessTask


def hub_revision(task: HarnessTask, announce: Callable[[str], None]) -> str:
    """The pinned commit, or the newest's; what will be downloaded is announced. HF_ENDPOINT applies.

    Raises NotAvailableError where the hub cannot be reached: name the benchmark's files by --data-dir then.
    """
    from huggingface_hub import HfApi

    asked = task.revision or "main"
    try:
        with refusals_explained(task.repo, gated=False):
            info = HfApi().dataset_info(task.repo, revision=asked, files_metadata=True)
    except NotAvailableError as error:
        raise NotAvailableError(
            f"the data set {task.repo} could not be fetched from the hub",
            received=error.received,
            todo="name the folder of benchmark files by --data-dir or SIXGIG_DATA; docs/evaluation.md "
            "says which files; or check the network, or name a mirror in HF_ENDPOINT",
        ) from error
    commit = info.sha or asked
    sizes = [entry.size or 0 for entry in info.siblings or [] if entry.rfilename.endswith(".parquet")]
    size = f", at most {format_bytes(sum(sizes))}" if sizes else ""
    announce(
        f"data set {task.repo} at {commit[:10]} from the hub{size}; files that are here are not asked again"
    )
    return commit
