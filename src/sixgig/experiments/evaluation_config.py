"""The settings of `sixgig eval`, checked before torch or lm-eval is imported."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import InputError, UnknownNameError
from ..evaluate.harness_tasks import check_sizes, check_tasks

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """`model` is a name, a model's folder, a split or its base/; `alpha` None: 1 for a split with its Ortho
    part, 0 for a Base. `limit` None: all documents. `max_length` in tokens, None: the model's own.

    `dtype` "auto" is the checkpoint's own for a whole model, and float32 for what is split.
    """

    model: str
    tasks: tuple[str, ...]
    alpha: float | None = None
    limit: int | None = None
    num_fewshot: int | None = None
    chat: bool = False
    batch_size: int | str = "auto"
    max_length: int | None = None
    dtype: str = "auto"

    def __post_init__(self) -> None:
        check_tasks(self.tasks)
        if self.alpha is not None and not math.isfinite(self.alpha):
            raise InputError("alpha must be a number", received=str(self.alpha), where="--alpha")
        if self.dtype not in DTYPES:
            raise UnknownNameError("dtype", self.dtype, DTYPES, where="--dtype")
        check_sizes(self.limit, self.num_fewshot, self.max_length)
        if self.batch_size != "auto" and not (isinstance(self.batch_size, int) and self.batch_size >= 1):
            raise InputError(
                "no batch size", expected="a whole number from 1, or auto", received=repr(self.batch_size)
            )
