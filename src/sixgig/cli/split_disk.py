"""`sixgig split --layers-from disk`: each decoder layer is read, split and kept, then the next one.

Also what `benchmarks/split_8b.py` times, so that the figure is that of the verb.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .split_choice import Choice
from .split_sources import Sources, manifest_of

if TYPE_CHECKING:
    from ..load.artifact import SplitSizes
    from ..transform.split_stream import StreamedSplit


def split_from_disk(
    sources: Sources,
    choice: Choice,
    out: Path,
    device: str,
    *,
    show: Callable[[str, float], None],
    announce: Callable[[str], None],
    stop_after: int | None = None,
) -> tuple[StreamedSplit, SplitSizes, dict[str, Any]] | None:
    """Writes the split to `out`, going on with what OUT.partial has of it; None where it was to stop before.

    Raises:
        InputError naming what differs from the inputs of the work that lies there.
    """
    import torch

    from ..load.artifact_stream import write_split
    from ..transform.split_stream import split_streamed
    from ..transform.split_work import SplitWork, partial_folder

    with SplitWork(partial_folder(out), torch.device(device)) as work:
        hmac_key = work.secrets().get("hmac_key") or secrets.token_bytes(32).hex()
        show("read", 0.0)
        weights_sha256 = sources.weights_sha256()
        work.begin(_inputs(sources, choice, device, hmac_key, weights_sha256), {"hmac_key": hmac_key})
        done = split_streamed(
            sources.folder,
            choice.sieve,
            sources.records,
            sources.public.text,
            before_folder=sources.before_folder,
            quantize=choice.quantize,
            rank=choice.rank,
            settings=choice.settings,
            seed=choice.seed,
            device=torch.device(device),
            work=work,
            show=show,
            announce=announce,
            stop_after=stop_after,
        )
        if done is None:
            return None
        show("save", 0.0)
        manifest = manifest_of(
            choice, done, sources, hmac_key=hmac_key, weights_sha256=weights_sha256, layers_from="disk"
        )
        sizes = write_split(
            out,
            loaded_folder=sources.folder,
            layers=done.parts,
            bits=choice.quantize.bits,
            group_size=choice.quantize.group_size,
            manifest=manifest,
            factor_bits=choice.settings.factor_bits,
            private_facts=sources.private_facts(hmac_key),
        )
        work.sweep()
    return done, sizes, manifest


def _inputs(
    sources: Sources, choice: Choice, device: str, hmac_key: str, weights_sha256: dict[str, Any]
) -> dict[str, Any]:
    """All that decides what comes out, by name; of the private file its keyed digest."""
    import torch

    from .. import __version__

    return {
        **weights_sha256,
        "private": sources.private_hmac(hmac_key),
        "public": sources.public.sha256,
        "sieve": {"name": choice.sieve.name, **choice.sieve_settings},
        "quantisation": asdict(choice.quantize),
        "rank": choice.rank,
        "settings": asdict(choice.settings),
        "seed": choice.seed,
        "device": device,
        "versions": {"sixgig": __version__, "torch": torch.__version__},
    }
