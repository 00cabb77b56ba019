"""all_finite against torch.isfinite, wherever the bad entry stands."""

from __future__ import annotations

import pytest
import torch
from fakes import randn

from sixgig.numerics.finite import all_finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("position", [0, 7, 59])
def test_one_bad_entry_anywhere_is_seen(dtype: torch.dtype, bad: float, position: int) -> None:
    values = randn(5, 12).to(dtype)
    assert all_finite(values)
    values.view(-1)[position] = bad
    assert not all_finite(values)


def test_nothing_is_finite() -> None:
    assert all_finite(torch.empty(0, 3))
