"""Goodfire's edit: what lies in directions that public text hardly bends the loss along leaves the weight."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...errors import InputError
from .base import Evidence, InputStatistics

if TYPE_CHECKING:
    from torch import Tensor

_PAPER_LAYERS, _PAPER_DEPTH = (23, 24, 25), 32
_PLACE = re.compile(r"\.layers\.(\d+)\.(?:.*\.)?(\w+)_proj$")


@dataclass(frozen=True, kw_only=True)
class KfacSieve:
    """C = U_G^T W U_A; the pairs (i, j) with the largest lam_i mu_j that make up the share rho of the sum are
    kept, and M is the rest of W.

    G = U_G diag(lam) U_G^T and A = U_A diag(mu) U_A^T are K-FAC's factors over public text; no private text
    is looked at. Source: Merullo et al. 2025, arXiv 2510.24256, sections 3.2 and 5; G's targets are drawn
    from the model (its section 3.1; Martens and Grosse 2015). Defaults are the paper's: 60% in gate and up of
    the layers 23 to 25 of 32 (appendix D), here those at the same share of the model's depth, counted from 0.

    `layers` empty: those. `projections`: the names before "_proj".
    """

    share: float = 0.6
    layers: tuple[int, ...] = ()
    projections: tuple[str, ...] = ("gate", "up")

    name: ClassVar[str] = "kfac"
    claim: ClassVar[str] = "reduces recitation"
    needs_private: ClassVar[bool] = False
    needs_before: ClassVar[bool] = False
    keeps_before: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"output_moments"})
    searches: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or not self.projections or any(layer < 0 for layer in self.layers):
            raise InputError(
                "settings of kfac that cannot be used",
                expected="share above 0 and at most 1, layers of 0 or more, one projection or more",
                received=f"share={self.share}, layers={self.layers}, projections={self.projections}",
            )

    def covers(self, name: str, num_layers: int) -> bool:
        """Whether linear layer `name` is edited. Raises InputError for a layer that the model has not."""
        beyond = [layer for layer in self.layers if layer >= num_layers]
        if beyond:
            raise InputError(
                "kfac is to edit layers that the model has not",
                expected=f"0 to {num_layers - 1}",
                received=", ".join(map(str, beyond)),
            )
        chosen = self.layers or {layer * num_layers // _PAPER_DEPTH for layer in _PAPER_LAYERS}
        place = _PLACE.search(name)
        return place is not None and int(place[1]) in chosen and place[2] in self.projections

    def removed(self, evidence: Evidence) -> Tensor:
        if not self.covers(evidence.name, evidence.num_layers):
            return evidence.weight_OI.new_zeros(evidence.weight_OI.shape)
        from ...numerics.eigen import eigenbasis

        output = eigenbasis(evidence.gradient("public_output_OO", self.name))
        inputs = eigenbasis(evidence.statistics.public_II)
        rotated_OI = output.vectors.T @ evidence.weight_OI @ inputs.vectors
        rotated_OI[kept_pairs(output.values, inputs.values, self.share)] = 0
        # The pairs that go are turned back, not those that stay taken from W: rho = 1 then removes exactly 0.
        return output.vectors @ rotated_OI @ inputs.vectors.T

    def residual_score(self, residual_OI: Tensor, statistics: InputStatistics) -> Tensor | None:
        return None


def kept_pairs(output_O: Tensor, input_I: Tensor, share: float) -> Tensor:
    """True [O, I] at the fewest pairs whose products make up `share` of the sum of all; ties by position."""
    import torch

    if share >= 1:
        return torch.ones(len(output_O), len(input_I), dtype=torch.bool, device=output_O.device)
    mass_N = torch.outer(output_O.double(), input_I.double()).flatten()
    order_N = torch.argsort(mass_N, descending=True, stable=True)
    reached_N = mass_N[order_N].cumsum(0)
    num_kept = int((reached_N < share * reached_N[-1]).sum()) + 1
    kept_N = torch.zeros_like(mass_N, dtype=torch.bool)
    kept_N[order_N[:num_kept]] = True
    return kept_N.view(len(output_O), len(input_I))
