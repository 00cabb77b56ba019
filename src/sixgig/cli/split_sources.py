"""What a split is made from, and its manifest."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..files import sha256_file
from .split_choice import Choice, PublicText

if TYPE_CHECKING:
    from ..data.private import PrivateRecord


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What the split is made from. The private file is named by a keyed digest alone, its key kept in ortho/:
    a plain digest would let anyone with the manifest try guesses of a short file."""

    folder: Path
    before_folder: Path | None
    records: tuple[PrivateRecord, ...] = field(repr=False)
    public: PublicText = field(repr=False)
    private_content: bytes = field(repr=False)

    def private_hmac(self, hmac_key: str) -> str:
        return hmac.new(bytes.fromhex(hmac_key), self.private_content, "sha256").hexdigest()

    def private_facts(self, hmac_key: str) -> dict[str, Any]:
        """For ortho/: the key, and a keyed digest of every row, so that an audit knows which were seen."""
        return {
            "hmac_key": hmac_key,
            "rows_hmac_sha256": [row_hmac(record, hmac_key) for record in self.records],
        }

    def weights_sha256(self) -> dict[str, dict[str, str] | None]:
        """Of the model and of the one before it, by file name; reads both whole."""
        return {
            "model": weights_sha256(self.folder),
            "before": None if self.before_folder is None else weights_sha256(self.before_folder),
        }


class Done(Protocol):
    """What the manifest tells of a split, however it was made."""

    @property
    def codes_changed(self) -> float: ...

    @property
    def num_calibration_windows(self) -> int: ...

    @property
    def num_fit_windows(self) -> int: ...

    @property
    def num_scale_fit_steps(self) -> int: ...

    @property
    def num_private_tokens(self) -> int: ...


def manifest_of(
    choice: Choice,
    done: Done,
    sources: Sources,
    *,
    hmac_key: str,
    weights_sha256: Mapping[str, Any],
    layers_from: str,
) -> dict[str, Any]:
    public = sources.public
    return {
        "sieve": {"name": choice.sieve.name, **choice.sieve_settings},
        "claim": choice.sieve.claim,
        "audited": False,
        "layers_from": layers_from,
        "quantisation": asdict(choice.quantize) | {"scale_fit_steps": done.num_scale_fit_steps},
        "ortho": {"rank": choice.rank, **asdict(choice.settings)},
        "seed": choice.seed,
        "codes_changed": done.codes_changed,
        "data": {
            **weights_sha256,
            "public": {
                "sha256": public.sha256,
                "num_rows": public.num_rows,
                "num_calibration_windows": done.num_calibration_windows,
                "num_fit_windows": done.num_fit_windows,
            },
            "private": {
                "hmac_sha256": sources.private_hmac(hmac_key),
                "num_rows": len(sources.records),
                "num_tokens": done.num_private_tokens,
            },
        },
    }


def row_hmac(record: PrivateRecord, hmac_key: str) -> str:
    """A keyed digest of one record's text, cut to 64 bits: enough to know it again."""
    return hmac.new(bytes.fromhex(hmac_key), record.text.encode(), "sha256").hexdigest()[:16]


def weights_sha256(folder: Path) -> dict[str, str]:
    from ..load.container import weight_files

    return {name: sha256_file(folder / name) for name in weight_files(folder)}
