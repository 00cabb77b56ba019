"""How a layer's weights become the Base's codes, and which entries are set apart before that.

Entries that are kept in S anyway need no place on the grid. Chosen before rounding they leave it to the
others, which it then fits better, and GPTQ makes up for no error that S takes away. Chosen afterwards they
are the largest errors of a rounding that was made to do without S: GPTQ has by then put what they lack into
their neighbours, so that to mend them alone may make the layer worse (docs/journal.md). What it costs: the
Base alone, at alpha = 0, has these entries clipped to a grid that was not made for them.

Shapes: O out features, I in features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..numerics.grids import Grid, minmax_grid, searched_grid
from ..numerics.quantize import Quantized, dequantize, quantize_gptq, quantize_rtn
from ..numerics.sparse import keep_top_k
from .sieve import InputStatistics, Sieve

METHODS, GRIDS = ("rtn", "gptq"), ("minmax", "searched")


@dataclass(frozen=True, kw_only=True)
class QuantizeConfig:
    """How W - M becomes the Base. Calibration and the search for a grid see public text only."""

    bits: int = 4
    group_size: int = 64
    method: str = "rtn"  # "rtn" | "gptq"
    grid: str = "minmax"  # "minmax": spans a group's extremes | "searched": of the smallest weighted error


def round_weight(
    weight_OI: Tensor, statistics: InputStatistics, config: QuantizeConfig, kept_OI: Tensor | None = None
) -> Quantized:
    """Q(weight). Where `kept_OI` is true an entry is kept elsewhere: no grid is made for it.

    Raises InputError for an unknown method or grid, or as the quantisers do.
    """
    grid = _grid(weight_OI if kept_OI is None else weight_OI.masked_fill(kept_OI, 0), statistics, config)
    bits, group_size = config.bits, config.group_size
    if config.method == "rtn":
        return quantize_rtn(weight_OI, bits=bits, group_size=group_size, grid=grid)
    if config.method == "gptq":
        return quantize_gptq(
            weight_OI, statistics.steering(), bits=bits, group_size=group_size, grid=grid, kept_OI=kept_OI
        )
    raise InputError("unknown quantisation method", expected=" or ".join(METHODS), received=config.method)


def kept_before_rounding(
    weight_OI: Tensor, statistics: InputStatistics, sieve: Sieve, config: QuantizeConfig, k: int
) -> Tensor:
    """True [O, I] at the k entries whose rounding to nearest the sieve's score holds for the worst.

    With a searched grid those are outliers too, which it clips; to choose again on the grid without them
    changes next to nothing (docs/journal.md).
    """
    grid = _grid(weight_OI, statistics, config)
    rounded = quantize_rtn(weight_OI, bits=config.bits, group_size=config.group_size, grid=grid)
    residual_OI = weight_OI - dequantize(rounded)
    score_OI = sieve.residual_score(residual_OI, statistics)
    if score_OI is None:
        raise InputError(
            f"the sieve {sieve.name} keeps no entries of its own choice, none of them before rounding",
            expected="the sieve hessian",
            todo="choose them after rounding, or use the sieve hessian",
        )
    kept = keep_top_k(residual_OI, score_OI, k)
    kept_OI = weight_OI.new_zeros(weight_OI.numel(), dtype=torch.bool)
    kept_OI[kept.positions_k.long()] = True
    return kept_OI.view_as(weight_OI)


def _grid(weight_OI: Tensor, statistics: InputStatistics, config: QuantizeConfig) -> Grid:
    if config.grid == "minmax":
        return minmax_grid(weight_OI, bits=config.bits, group_size=config.group_size)
    if config.grid == "searched":
        importance_I = statistics.public_II.diagonal()
        return searched_grid(weight_OI, importance_I, bits=config.bits, group_size=config.group_size)
    raise InputError("unknown grid", expected=" or ".join(GRIDS), received=config.grid)
