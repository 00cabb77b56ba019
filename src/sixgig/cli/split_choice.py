"""What `sixgig split` was asked for, checked whole before any model is touched; and its public text."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, UnknownNameError
from ..files import read_text

if TYPE_CHECKING:
    from ..transform.rounding import QuantizeConfig
    from ..transform.sieve import Sieve
    from ..transform.split_model import SplitSettings


@dataclass(frozen=True, kw_only=True)
class Choice:
    """All that was asked for, checked before any file is read."""

    sieve: Sieve
    sieve_settings: dict[str, Any]
    quantize: QuantizeConfig
    rank: int
    settings: SplitSettings
    seed: int
    typed: frozenset[str] = frozenset()  # the settings that were given by name, with -s


@dataclass(frozen=True, kw_only=True)
class PublicText:
    text: str
    sha256: str
    num_rows: int


def choose(
    sieve: str,
    words: Sequence[str],
    bits: int,
    group_size: int,
    method: str,
    rank: int,
    seed: int,
    grid: str = "minmax",
) -> Choice:
    """The sieve with its settings, and the sizes. An unknown name is an UnknownNameError with the nearest."""
    from ..experiments.settings import changed, parse_words
    from ..numerics.bits import SUPPORTED_BITS
    from ..transform.rounding import GRIDS, METHODS, QuantizeConfig
    from ..transform.sieve import make_sieve
    from ..transform.split_model import SplitSettings

    chosen: Any = make_sieve(sieve)
    if sieve == "wrong-set":
        raise InputError(
            "the sieve wrong-set needs texts that the model never saw, which only the experiment has",
            todo="sixgig run kill-switch",
        )
    faults = [f"--bits {bits}: one of {SUPPORTED_BITS}"] if bits not in SUPPORTED_BITS else []
    faults += [f"--group-size {group_size}: at least 1"] if group_size < 1 else []
    faults += [f"--rank {rank}: at least 1"] if rank < 1 else []
    faults += [f"--seed {seed}: at least 0"] if seed < 0 else []
    if faults:
        raise InputError("numbers that cannot be used", expected="; ".join(faults))
    if method not in METHODS:
        raise UnknownNameError("quantisation method", method, METHODS)
    if grid not in GRIDS:
        raise UnknownNameError("grid", grid, GRIDS)
    values, own = parse_words(words), {field.name for field in dataclasses.fields(chosen)}
    known = own | {field.name for field in dataclasses.fields(SplitSettings)}
    for key in values:
        if key not in known:
            raise UnknownNameError("setting", key, known, where="-s")
    chosen = changed(chosen, {key: value for key, value in values.items() if key in own}, where="-s")
    settings = changed(
        SplitSettings(), {key: value for key, value in values.items() if key not in own}, where="-s"
    )
    settings.scale_fit(settings.ortho(chosen, rank))  # refuses what cannot go together
    return Choice(
        sieve=chosen,
        sieve_settings=dataclasses.asdict(chosen),
        settings=settings,
        quantize=QuantizeConfig(bits=bits, group_size=group_size, method=method, grid=grid),
        rank=rank,
        seed=seed,
        typed=frozenset(values),
    )


def require_given(choice: Choice, *, has_before: bool, layers_from: str | None) -> None:
    """Raises InputError where the sieve lacks what only another option can give; before any download."""
    sieve = choice.sieve
    if sieve.needs_before and not has_before:
        raise InputError(
            f"the sieve {sieve.name} needs the model as it was before the private texts",
            todo="give it with --before",
        )
    if "level" in choice.sieve_settings and choice.sieve_settings["level"] is None and not has_before:
        raise InputError(
            f"the sieve {sieve.name} needs to know how likely texts are that were never learnt",
            expected="the model as it was before the private texts, or a level",
            todo="give it with --before, or -s level=NATS_PER_TOKEN",
        )
    if layers_from == "disk" and is_whole_model(sieve):
        how = (
            "searches with all layers together" if sieve.searches else "needs gradients from the whole model"
        )
        raise InputError(
            f"the sieve {sieve.name} {how}, so its layers cannot be read from disk one by one",
            todo="leave out --layers-from disk, or take another sieve",
        )


def is_whole_model(sieve: Sieve) -> bool:
    """Whether the sieve looks at all layers together, which a split from disk never has at hand."""
    return sieve.searches or bool(sieve.needs)


def solves(sieve: Sieve) -> bool:
    """Whether M comes from a linear system of the inputs' width: wiener and its kin."""
    return sieve.needs_private and not is_whole_model(sieve)


def read_public(path: Path) -> PublicText:
    """A UTF-8 text file, or the training and calibration articles of a folder with wikitext2/."""
    if path.is_dir():
        from ..data.corpora import load_public_text

        text = "".join(load_public_text(part, data_dir=path).text for part in ("calibration", "train"))
    else:
        text = read_text(path)
    if not text.strip():
        raise InputError("the public text is empty", where=str(path))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return PublicText(text=text, sha256=digest, num_rows=text.count("\n"))
