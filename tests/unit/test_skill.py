"""What is kept beside a rounded layer: exactly as much as asked for, where a score says."""

from __future__ import annotations

import pytest
import torch

from sixgig.errors import InputError
from sixgig.numerics.quantize import dequantize
from sixgig.transform.skill import (
    dense_weights,
    num_kept,
    rounded,
    score_of,
    shared_counts,
    with_entries,
    with_factors,
    with_random_entries,
)


def weight(seed: int = 0, *, num_out: int = 12, num_in: int = 32, size: float = 1.0) -> torch.Tensor:
    return size * torch.randn(num_out, num_in, generator=torch.Generator().manual_seed(seed))


def test_the_top_entries_of_the_residual_are_put_back_and_nothing_else() -> None:
    weight_OI, importance_OI = weight(), weight(1).square()
    plain = rounded(weight_OI, bits=3, group_size=8)
    kept = with_entries(plain, weight_OI, importance_OI, 20)
    assert kept.ortho.sparse is not None
    positions = kept.ortho.sparse.positions_k.long()
    assert len(positions) == 20
    score_N = score_of(plain, weight_OI, importance_OI).flatten()
    assert set(positions.tolist()) == set(score_N.topk(20).indices.tolist())
    ((_, dense_OI),) = dense_weights([("layer", kept)])
    torch.testing.assert_close(
        dense_OI.flatten()[positions], weight_OI.flatten()[positions], atol=1e-3, rtol=0
    )
    others = torch.ones(dense_OI.numel(), dtype=torch.bool)
    others[positions] = False
    assert torch.equal(dense_OI.flatten()[others], dequantize(plain.base).flatten()[others])


def test_a_row_of_moments_weighs_columns() -> None:
    weight_OI = weight()
    plain = rounded(weight_OI, bits=3, group_size=8)
    moment_I = torch.zeros(32)
    moment_I[5] = 1.0
    kept = with_entries(plain, weight_OI, moment_I, 6)
    assert kept.ortho.sparse is not None
    assert set((kept.ortho.sparse.positions_k % 32).tolist()) == {5}


def test_random_entries_depend_on_seed_and_layer_alone() -> None:
    weight_OI = weight()
    plain = rounded(weight_OI, bits=3, group_size=8)

    def positions(**given: object) -> list[int]:
        kept = with_random_entries(plain, weight_OI, 20, **given)  # type: ignore[arg-type]
        assert kept.ortho.sparse is not None
        return kept.ortho.sparse.positions_k.tolist()

    assert positions(seed=0, name="a") == positions(seed=0, name="a")
    assert positions(seed=0, name="a") != positions(seed=1, name="a")
    assert positions(seed=0, name="a") != positions(seed=0, name="b")


@pytest.mark.parametrize("factor_bits", [8, 16])
def test_a_low_rank_part_takes_no_more_bytes_than_the_entries(factor_bits: int) -> None:
    weight_OI = weight(num_out=64, num_in=64)
    plain = rounded(weight_OI, bits=3, group_size=8)
    k = 400
    entries = with_entries(plain, weight_OI, torch.ones(64), k)
    factors = with_factors(plain, weight_OI, torch.ones(64), k, factor_bits)
    limit = entries.ortho.storage_bits(factor_bits)
    assert factors.ortho.sparse is None
    assert limit - (64 + 64) * factor_bits - 64 < factors.ortho.storage_bits(factor_bits) <= limit
    residual_OI = weight_OI - dequantize(plain.base)
    assert (residual_OI - factors.ortho.dense()).norm() < residual_OI.norm()


def test_a_low_rank_part_of_too_few_bytes_is_refused() -> None:
    weight_OI = weight(num_out=8, num_in=64)
    with pytest.raises(InputError, match="no room for a low-rank part"):
        with_factors(rounded(weight_OI, bits=3, group_size=8), weight_OI, torch.ones(64), 1, 16)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_one_threshold_for_all_layers_keeps_the_best_of_them_together(share: float) -> None:
    scores = {name: weight(seed, size=10.0**seed).square() for seed, name in enumerate("abc")}
    counts = shared_counts(lambda: iter(scores.items()), share)
    every = torch.cat([one.flatten() for one in scores.values()])
    kept = round(share * every.numel())
    assert abs(sum(counts.values()) - kept) <= 2, "at least one of each layer"
    threshold = float(every.topk(kept).values.min())
    for name, score_OI in scores.items():
        sure = int((score_OI > 1.01 * threshold).sum())  # bf16's step is 0.8%
        possible = int((score_OI >= 0.99 * threshold).sum())
        assert sure <= counts[name] <= max(1, possible)
    assert counts["c"] > counts["a"]


def test_entries_level_with_one_another_fill_exactly_what_is_asked_for() -> None:
    scores = {name: torch.ones(4, 10) for name in "ab"}
    assert shared_counts(lambda: iter(scores.items()), 0.625) == {"a": 40, "b": 10}


def test_a_negative_score_is_refused() -> None:
    with pytest.raises(InputError, match="negative"):
        shared_counts(lambda: iter([("a", -torch.ones(2, 2))]), 0.5)


def test_of_a_layer_at_least_one_entry_is_kept() -> None:
    assert num_kept(10, 0.01) == 1
    assert num_kept(1000, 0.01) == 10
