"""Which device a verb works on: what was asked for, else the GPU where a usable one is."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import InputError, UnknownNameError
from ..hardware import Hardware

Device = Annotated[str | None, typer.Option("--device", help="cpu or cuda. Default: what is here.")]


def choose_device(asked: str | None, hardware: Hardware) -> str:
    """`cpu` or `cuda`. Raises InputError when cuda is asked for and cannot be used."""
    if asked not in (None, "cpu", "cuda"):
        raise UnknownNameError("device", asked, ("cpu", "cuda"))
    usable = bool(hardware.gpus) and hardware.torch_cuda_version is not None
    if asked == "cuda" and not usable:
        raise InputError(
            "no usable CUDA GPU here",
            expected="a GPU and a torch built for it",
            received="; ".join(hardware.problems) or "no GPU",
            todo="sixgig doctor says what is missing; --device cpu always works",
        )
    return asked or ("cuda" if usable else "cpu")
