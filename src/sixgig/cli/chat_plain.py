"""The models that `sixgig chat` opens besides splits: whole ones, as they are or loaded by bitsandbytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..load.fetch import model_folder

if TYPE_CHECKING:
    from ..load.loaded import LoadedModel


def wants_plain(quantization_bits: int | None, no_quantization: bool) -> bool:
    """Whether a plain model is asked for. Raises InputError where both flags are given."""
    if quantization_bits is not None and no_quantization:
        raise InputError(
            "--quantization-bits and --no-quantization contradict each other", todo="give one of them"
        )
    return quantization_bits is not None or no_quantization


def open_plain(
    model: str, *, bits: int | None, device: str, alpha: float | None, kernels: str
) -> LoadedModel:
    """The model by name or folder, in `bits` by bitsandbytes, or (None) in its own type.

    Raises InputError for a split or a Base, which have their own bits, for a switch that no plain model has,
    and for packed kernels; else as `model_folder`, `load` and `load_quantised`.
    """
    _refuse_split(Path(model))
    if alpha:
        raise no_ortho(alpha)
    if kernels == "packed":
        raise InputError(
            "a plain model has no packed layers", received="--kernels packed", todo="leave --kernels out"
        )
    if bits is None:
        from ..load.loaded import load

        return load(model_folder(model), device=device, dtype="auto")
    from ..load.bnb import load_quantised

    return load_quantised(model_folder(model), bits=bits, device=device)[0]


def no_ortho(alpha: float) -> InputError:
    """What to raise where a model that is not split shall take its memories back."""
    return InputError(
        "this model is not split: it has no Ortho part, so alpha cannot be raised",
        received=f"alpha={alpha:g}",
    )


def _refuse_split(folder: Path) -> None:
    from ..load.artifact import is_base, is_split

    if is_base(folder) or is_split(folder):
        raise InputError(
            "a split's Base has its own bits, and is not quantised once more",
            expected="a plain model with --quantization-bits or --no-quantization: a name or a folder",
            received=f"a {'Base' if is_base(folder) else 'split'}",
            where=str(folder),
            todo=f"leave the flag out: sixgig chat {folder}",
        )
